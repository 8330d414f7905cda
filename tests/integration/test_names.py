"""Names of coordinates that are also names of other sites."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.models import latents
from helpers.three_coordinates import AT_POINT, POINT, PRIOR, model, prior_of
from numpyro import handlers
from numpyro.infer.util import log_density

import numpyro_disco as disco


@pytest.mark.parametrize("names", [("missing", "b", "c"), ("log_prob", "log_prob_", "c/d")])
def test_coordinates_with_names_of_other_sites(names):
    prior = prior_of(names=names)
    values = {f"x.{name}": value for name, value in zip(names, POINT, strict=True)}
    assert latents(model, prior, 0.4) == dict.fromkeys(values, ())
    expected = prior.log_prob(POINT) + dist.Normal(POINT[0], 0.5).log_prob(0.4)
    log_joint = log_density(model, (prior, 0.4), {}, values)[0]
    np.testing.assert_allclose(log_joint, expected, rtol=1e-5)
    known = handlers.condition(model, {f"x.{names[0]}": 0.2})
    assert latents(known, prior, 0.4) == dict.fromkeys(list(values)[1:], ())
    table = jnp.array([[jnp.nan, 1.0, 2.0]])
    assert latents(lambda: disco.sample("x", prior, obs=table)) == {"x.missing": (1,)}


def test_a_site_of_the_users_own_beside_the_coordinates():
    def with_hole():
        disco.sample("x", PRIOR)
        numpyro.sample("x.hole", dist.Normal(0.0, 1.0))

    assert set(latents(with_hole)) == {*AT_POINT, "x.hole"}
    with pytest.warns(UserWarning, match="'x.hole'.*site of its own"):
        assert set(latents(handlers.condition(with_hole, {"x.hole": 0.3}))) == set(AT_POINT)
