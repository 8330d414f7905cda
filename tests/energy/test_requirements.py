"""Parts from which no `EnergyDistribution` can be built, and the errors that say so."""

import jax.numpy as jnp
import numpyro.distributions as dist
import pytest
from helpers.energies import reference, skewed

import numpyro_disco as disco


@pytest.mark.parametrize(
    ("energy", "message"),
    [
        (lambda x: x, r"one number for a point of shape \(3,\).*Sum over coordinates"),
        (lambda x: (x @ x)[None], "one number"),
        (lambda x: (x @ x, x), "one number"),
        (lambda x: jnp.nan * x[0], r"finite energy.*got nan at x = \[.*65 of 65"),
        (lambda x: jnp.where(x[0] > 0, -jnp.inf, 0.0), "finite energy.*got -inf"),
        (lambda x: jnp.sqrt(x[0]), "finite energy.*NaN.*narrow the reference"),
        (lambda x: jnp.inf + x[0], "finite energy.*got inf"),
        # These cannot be differentiated, which the constructor says before a sampler has to.
        (lambda x: (x > 0).sum(), "floating|real number"),
        (lambda x: x[0] > 0, "floating|real number"),
        (3.0, "Expected a function for `energy_fn`; got 3.0"),
    ],
    ids=["vector", "length-one", "tuple", "nan", "-inf", "half-nan", "inf", "int", "bool", "none"],
)
def test_invalid_energies(energy, message):
    with pytest.raises(ValueError, match=message):
        disco.EnergyDistribution(energy, reference())


def test_an_energy_may_be_infinite_somewhere():
    prior = disco.EnergyDistribution(lambda x: jnp.where(x[0] > 0, x @ x, jnp.inf), reference())
    assert prior.log_prob(jnp.array([-1.0, 0.0, 0.0])) == -jnp.inf


def test_invalid_references():
    wrong = dist.MultivariateNormal(jnp.zeros(3), jnp.eye(3))
    with pytest.raises(ValueError, match="`MixtureReference` or a `MixedReference`.*Multivari"):
        disco.EnergyDistribution(skewed, wrong)
    with pytest.raises(ValueError, match="got type|got NoneType"):
        disco.EnergyDistribution(skewed, None)
    conditioned = reference().condition(jnp.array([1.0, jnp.nan, jnp.nan]))
    with pytest.raises(ValueError, match="one unconditioned `reference`.*`clamp`"):
        disco.EnergyDistribution(skewed, conditioned)
    batch = disco.GaussianReference(jnp.zeros((2, 3)), jnp.eye(3))
    with pytest.raises(ValueError, match=r"batch shape \(2,\)"):
        disco.EnergyDistribution(skewed, batch)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "b", "a"), r"distinct `names`; \['a'\]"),
        (("a", "b"), "Expected 3 `names`"),
        ("abc", "single string"),
        (("a", "b", ""), "non-empty"),
        (("a", "b", 3), "non-empty strings"),
    ],
)
def test_invalid_names(names, message):
    with pytest.raises(ValueError, match=message):
        disco.EnergyDistribution(skewed, reference(), names=names)
