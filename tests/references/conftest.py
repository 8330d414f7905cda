"""References that every test of this folder may ask for; `kind` runs each test with both."""

import jax
import numpy as np
import pytest
from helpers.references import MASKS, TRUTH, VALUES, reference_of, sample_of, split_of


@pytest.fixture(params=sorted(TRUTH), scope="module")
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def truth(kind):
    return TRUTH[kind]


@pytest.fixture(scope="module")
def reference(truth):
    return reference_of(truth)


@pytest.fixture(scope="module")
def given(reference):
    """The conditional given each subset of coordinates, batch shape (8,)."""
    return split_of(reference, VALUES, MASKS)[0]


@pytest.fixture(scope="module")
def draws(reference):
    return np.asarray(sample_of(reference, jax.random.key(0), (20_000, 8)))
