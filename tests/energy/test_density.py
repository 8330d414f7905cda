"""The density of energies of one's own: shapes of values, and scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.energies import (
    KEY,
    MEAN,
    NAMES,
    energies,
    prior_of,
    reference,
    skewed,
)

import numpyro_disco as disco


@pytest.fixture(scope="module")
def mixture():
    return prior_of()


@pytest.fixture(params=["function", "partial", "nnx", "pytree"])
def any_prior(request):
    return disco.EnergyDistribution(energies()[request.param], reference(), names=NAMES)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (0,)])
def test_shapes_of_values_follow_the_points(any_prior, batch):
    x = jax.random.normal(KEY, (*batch, 3))
    assert any_prior.log_prob(x).shape == batch
    assert any_prior.energy(x).shape == batch
    assert any_prior.score(x).shape == (*batch, 3)
    np.testing.assert_array_equal(any_prior.log_prob(x), -any_prior.energy(x))


def test_a_batch_equals_its_points_one_by_one(any_prior):
    x = jax.random.normal(KEY, (2, 3, 3))
    loop = [[any_prior.energy_fn(point) for point in row] for row in x]
    np.testing.assert_allclose(any_prior.energy(x), np.array(loop), rtol=1e-5, atol=1e-5)


def difference_score(prior, x, step=1e-2):
    """-grad E by central differences of fourth order."""
    columns = []
    for direction in np.eye(x.shape[-1], dtype=x.dtype):
        near = prior.energy(x + step * direction) - prior.energy(x - step * direction)
        far = prior.energy(x + 2 * step * direction) - prior.energy(x - 2 * step * direction)
        columns.append(-(8 * near - far) / (12 * step))
    return np.stack(columns, axis=-1)


def test_the_score_is_minus_the_gradient(any_prior):
    x = np.asarray(jax.random.normal(KEY, (6, 3)))
    truth = difference_score(any_prior, x)
    np.testing.assert_allclose(any_prior.score(x), truth, rtol=2e-3, atol=5e-3)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(-any_prior.score(x), truth, rtol=2e-3, atol=5e-3)


def test_a_constant_in_the_energy_does_not_change_the_score(mixture):
    shifted = prior_of(offset=37.0)
    x = jax.random.normal(KEY, (6, 3))
    np.testing.assert_allclose(shifted.score(x), mixture.score(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(shifted.energy(x), mixture.energy(x) + 37.0, rtol=1e-5)


def test_attributes(mixture):
    assert mixture.names == NAMES
    assert mixture.event_shape == (3,) and mixture.batch_shape == ()
    assert mixture.observed == (False, False, False)
    assert mixture.log_normalizer is None and mixture.log_normalizer_error is None
    x = jax.random.normal(KEY, (5, 3))
    np.testing.assert_array_equal(mixture.reference.log_prob(x), reference().log_prob(x))
    assert mixture.support(x).shape == (5,) and mixture.support(x).all()
    assert not mixture.support(x.at[0, 1].set(jnp.nan))[0]
    np.testing.assert_allclose(mixture.loc, MEAN, rtol=1e-6)
    np.testing.assert_allclose(mixture.scale, 3.0, rtol=1e-6)


def test_default_names_and_own_location():
    prior = disco.EnergyDistribution(skewed, reference(), loc=[0, 0, 1.0], scale=[1.0, 2, 3])
    assert prior.names == ("0", "1", "2")
    np.testing.assert_array_equal(prior.loc, [0, 0, 1.0])
    np.testing.assert_array_equal(prior.scale, [1.0, 2, 3])
    for argument in ("loc", "scale"):
        with pytest.raises(ValueError, match=rf"Expected shape \(3,\) for `{argument}`"):
            disco.EnergyDistribution(skewed, reference(), **{argument: [1.0, 2.0]})


def test_validation_warns_of_points_outside_the_support():
    prior = disco.EnergyDistribution(skewed, reference(), names=NAMES, validate_args=True)
    with pytest.warns(UserWarning, match="support"):
        prior.log_prob(jnp.array([jnp.inf, 0.0, 0.0]))


def test_nan_has_no_density():
    with pytest.raises(ValueError, match="without NaN.*`numpyro_disco.sample"):
        prior_of().log_prob(jnp.array([jnp.nan, 0.0, 0.0]))
