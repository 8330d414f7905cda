"""Supports as JSON, there and back."""

import json

import pytest
from numpyro.distributions import constraints

from numpyro_disco.energy.support_codes import (
    WITH_BOUNDS,
    WITHOUT_BOUNDS,
    decode_support,
    encode_support,
)
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.supports.sinh_arcsinh import SinhArcsinhReal

BOUNDS = {"interval": (-2.0, 3.0), "open_interval": (0.25, 0.5), "integer_interval": (1, 4)}


SUPPORTS = [
    *(getattr(constraints, kind) for kind in WITHOUT_BOUNDS),
    *(getattr(constraints, kind)(*BOUNDS.get(kind, (1.5,))) for kind in WITH_BOUNDS),
    SinhArcsinhReal(1.0, 0.5, 0.3, 0.7),
]


@pytest.mark.parametrize("support", SUPPORTS, ids=repr)
def test_decoding_undoes_encoding(support):
    decoded = decode_support(json.loads(json.dumps(encode_support(support))))
    assert CoordinateSupports((decoded,)) == CoordinateSupports((support,))


def test_unknown_supports():
    with pytest.raises(ValueError, match="NumPyro's own constraints on one number.*got Circular"):
        encode_support(constraints.circular)
    with pytest.raises(ValueError, match="there is no support 'os.system'"):
        decode_support({"kind": "os.system"})
