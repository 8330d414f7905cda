"""Bases that users give: distributions, earlier draws, guides, and those that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.priors import gaussian_prior
from helpers.smc import Y, check_evidence, conjugate, conjugate_evidence, tempered
from helpers.three_coordinates import PRIOR
from scipy.stats import norm

import numpyro_disco as disco
from numpyro_disco.models.bases import check_base, default_base
from numpyro_disco.models.reading import prepare_model
from numpyro_disco.models.structure import read_structure


@pytest.fixture(scope="module")
def from_prior():
    return tempered(conjugate, Y)


def test_a_distribution_as_a_base():
    smc = tempered(conjugate, Y, base={"mu": dist.StudentT(4.0, 0.5, 0.5)}, num_sweeps=0)
    check_evidence(smc, conjugate_evidence(Y))
    densities = prepare_model(conjugate, (Y,), {}, {"mu": dist.Normal(3.0, 2.0)})
    u = densities.unravel(jnp.zeros(2)) | {"mu": jnp.array(0.4), "scale": jnp.array(0.0)}
    flat = jnp.stack([u["mu"], u["scale"]])
    base = norm.logpdf(0.4, 3, 2) + norm.logpdf(0, 0, 0.5)
    np.testing.assert_allclose(densities.log_densities(flat)[0], base, rtol=1e-5)


def test_earlier_draws_as_a_base_shorten_the_path(from_prior):
    smc = tempered(conjugate, Y, base=from_prior.get_samples(), num_sweeps=0)
    check_evidence(smc, conjugate_evidence(Y))
    # The broken twin: one observation is forgotten.
    with pytest.raises(AssertionError, match="is off"):
        check_evidence(smc, conjugate_evidence(Y[:-1]))
    assert smc.history.inverse_temperature.shape[1] < 3


def test_a_fitted_guide_as_a_base():
    guide = numpyro.infer.autoguide.AutoNormal(conjugate)
    svi = numpyro.infer.SVI(conjugate, guide, numpyro.optim.Adam(0.05), numpyro.infer.Trace_ELBO())
    params = svi.run(jax.random.key(0), 200, Y, progress_bar=False).params
    smc = tempered(conjugate, Y, base=(guide, params), num_sweeps=0)
    check_evidence(smc, conjugate_evidence(Y))


def test_a_learned_prior_starts_from_given_draws():
    """All free coordinates of a learned prior start from the draws together."""
    reference = disco.GaussianReference(jnp.zeros(2), 9 * jnp.eye(2))
    prior = gaussian_prior(np.zeros(2), np.eye(2), names=("a", "b"), reference=reference)

    def model():
        disco.sample("x", prior)

    draws = np.random.default_rng(0).standard_normal((400, 2))
    smc = tempered(model, base={"x.a": draws[:, 0], "x.b": draws[:, 1]}, num_sweeps=0)
    check_evidence(smc, np.log(2 * np.pi))


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({"nu": dist.Normal(0, 1)}, "'nu', which is not a continuous latent site"),
        ({"mu": dist.Normal(0, 1).expand([3])}, r"shape \(\) for site 'mu'; got \(3,\)"),
        ({"scale": dist.Normal(0, 1)}, "support of site 'scale'"),
        ({"mu": 0.3}, "at least 10 draws, for 'mu'"),
        ({"mu": np.zeros((20, 2))}, "draws of shape"),
        ({"mu": np.zeros(20), "scale": np.ones(30)}, "equally many draws"),
        (dist.Normal(0, 1), "mapping from names of sites"),
    ],
)
def test_bases_that_do_not_fit(base, message):
    with pytest.raises(ValueError, match=message):
        tempered(conjugate, Y, base=base)


def test_the_default_base_has_references_in_the_place_of_learned_priors():
    """Masks are left out; expansions, event axes and transforms are kept."""
    value = jnp.ones((4, 3))
    expected = PRIOR.reference.log_prob(value)
    affine = dist.transforms.AffineTransform(1.0, 2.0)
    for fn in (PRIOR.expand([4]), PRIOR.expand([4]).mask(False)):
        base = default_base(fn)
        assert base.batch_shape == (4,) and base.event_shape == (3,)
        np.testing.assert_allclose(base.log_prob(value), expected, rtol=1e-5)
    moved = default_base(dist.TransformedDistribution(PRIOR.expand([4]), affine))
    log_det = 3 * np.log(2)
    np.testing.assert_allclose(moved.log_prob(1 + 2 * value), expected - log_det, rtol=1e-5)
    together = default_base(PRIOR.expand([4]).to_event(1))
    assert together.event_shape == (4, 3)
    np.testing.assert_allclose(together.log_prob(value), expected.sum(), rtol=1e-5)
    normal = dist.Normal(0.0, 1.0)
    assert default_base(normal) is normal


def test_supports_are_compared_without_their_event_axes():
    """Two declarations of a real vector agree; a positive vector is not a real one."""

    def model():
        numpyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1))

    structure = read_structure(model, (), {})
    check_base({"x": dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2))}, structure)
    with pytest.raises(ValueError, match="support of site 'x'"):
        check_base({"x": dist.HalfNormal(1.0).expand([2]).to_event(1)}, structure)
