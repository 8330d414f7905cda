"""`EnergyDistribution`: clamping, tempering, cooling, and its laws as a pytree."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.energies import (
    COVARIANCES,
    KEY,
    MEANS,
    NAMES,
    WEIGHTS,
    energies,
    prior_of,
    reference,
    skewed,
)

import numpyro_disco as disco
from numpyro_disco.energy.distribution import check_prior


@pytest.fixture(scope="module")
def mixture():
    return prior_of()


@pytest.fixture(params=["function", "partial", "nnx", "pytree"])
def any_prior(request):
    return disco.EnergyDistribution(energies()[request.param], reference(), names=NAMES)


def test_clamp_by_mapping_and_by_array_agree(any_prior):
    by_name = any_prior.clamp({"b": 0.7})
    by_array = any_prior.clamp(np.array([np.nan, 0.7, np.nan]))
    assert by_name.observed == by_array.observed == (False, True, False)
    # In float64, as a user has them: rounding must not put a value outside its own support.
    x = np.random.default_rng(0).normal(size=(4, 3))
    x[:, 1] = 0.7
    assert by_name.support(x).all()
    np.testing.assert_array_equal(by_name.log_prob(x), by_array.log_prob(x))
    np.testing.assert_array_equal(by_name.log_prob(x), -any_prior.energy(x))
    # Energies are evaluated at the clamped values, whatever x holds there.
    elsewhere = np.where(np.arange(3) == 1, 99.0, x)
    np.testing.assert_array_equal(by_name.energy(x), by_name.energy(elsewhere))
    with pytest.warns(UserWarning, match="support"):
        assert (by_name.log_prob(elsewhere) == -np.inf).all()
    assert by_name.event_shape == (3,) and by_name.names == NAMES


def test_the_clamped_energy_is_the_joint_energy_at_the_values(any_prior):
    x = jax.random.normal(KEY, (4, 3)).at[:, 1].set(0.7)
    clamped = any_prior.clamp({"b": 0.7})
    np.testing.assert_array_equal(clamped.energy(x), any_prior.energy(x))
    score = any_prior.score(x)
    np.testing.assert_allclose(clamped.score(x), score.at[:, 1].set(0.0), rtol=1e-6)


def test_clamping_to_a_batch(mixture):
    values = np.array([-1.0, 0.0, 2.0])
    batched = mixture.clamp({"b": values})
    assert batched.batch_shape == (3,)
    x = jnp.broadcast_to(jnp.array([0.1, 50.0, 0.3]), (3, 3)).at[:, 1].set(values)
    each = [mixture.clamp({"b": v}).log_prob(p) for v, p in zip(values, x, strict=True)]
    np.testing.assert_allclose(batched.log_prob(x), each, rtol=1e-6)
    assert batched.log_prob(jnp.broadcast_to(x, (5, 3, 3))).shape == (5, 3)
    # One point broadcasts against the values of the batch, at which the energy is evaluated.
    np.testing.assert_allclose(batched.energy(x[0]), -np.array(each), rtol=1e-6)
    assert batched.support(x).all()


def test_clamping_again_adds_and_replaces(mixture):
    once = mixture.clamp({"a": 0.1, "b": 0.2})
    twice = mixture.clamp({"a": 5.0}).clamp({"b": 0.2}).clamp({"a": 0.1})
    assert once.observed == twice.observed == (True, True, False)
    np.testing.assert_array_equal(once.values, twice.values)
    batch = mixture.clamp({"a": np.zeros(4)}).clamp({"b": 1.0})
    assert batch.batch_shape == (4,)
    np.testing.assert_array_equal(batch.values[:, 1], 1.0)


def test_clamping_nothing_returns_the_distribution_itself(mixture):
    assert mixture.clamp({}) is mixture
    assert mixture.clamp(np.full(3, np.nan)) is mixture


def test_the_clamped_reference_is_the_reference_given_the_values(any_prior):
    x = jax.random.normal(KEY, (4, 3)).at[:, 0].set(1.5)
    clamped = any_prior.clamp({"a": 1.5}).reference
    direct = reference().condition(jnp.array([1.5, jnp.nan, jnp.nan]))
    np.testing.assert_array_equal(clamped.log_prob(x), direct.log_prob(x))
    np.testing.assert_array_equal(clamped.mean, direct.mean)


def test_clamped_support_holds_the_values(mixture):
    clamped = mixture.clamp({"b": 0.25})
    assert clamped.support(jnp.array([1.0, 0.25, 3.0]))
    assert not clamped.support(jnp.array([1.0, 0.5, 3.0]))


@pytest.mark.parametrize(
    ("observed", "message"),
    [
        ({"redshift": 0.3}, r"names 'redshift', which is not a coordinate.*\('a', 'b', 'c'\)"),
        ({0: 0.3}, "names '0', which is not a coordinate"),
        ({"a": 1, "b": 2, "c": 3}, "at least one free coordinate"),
        (np.zeros(3), "at least one free coordinate"),
        (np.array([[1, np.nan, np.nan], [np.nan, 1, np.nan]]), "same coordinates"),
        (np.zeros(2), r"last axis of 3 for `observed`.*got shape \(2,\)"),
        (0.5, r"last axis of 3 for `observed`.*got shape \(\)"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "one batch shape"),
        ({"a": np.inf}, "infinity"),
        ({"a": "high"}, "Expected numbers for 'a' in `observed`"),
    ],
)
def test_clamping_to_invalid_values(mixture, observed, message):
    with pytest.raises(ValueError, match=message):
        mixture.clamp(observed)


def test_clamping_the_last_free_coordinate(mixture):
    with pytest.raises(ValueError, match="at least one free coordinate"):
        mixture.clamp({"a": 0.0, "b": 0.0}).clamp({"c": 0.0})


def test_points_with_the_wrong_last_axis(mixture):
    for x in (jnp.zeros(2), jnp.zeros((3, 4)), jnp.zeros(())):
        with pytest.raises(ValueError, match=r"last axis of 3.*\('a', 'b', 'c'\).*got shape"):
            mixture.log_prob(x)


@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_tempering_multiplies_energies_and_composes(kind):
    q = {
        "gaussian": reference(),
        "mixture": disco.MixtureReference(WEIGHTS, MEANS, 4 * COVARIANCES),
    }[kind]
    prior = disco.EnergyDistribution(skewed, q, names=NAMES)
    x = jax.random.normal(KEY, (5, 3))
    once, twice = prior.temper(1.5), prior.temper(0.5).temper(3.0)
    np.testing.assert_allclose(once.energy(x), 1.5 * prior.energy(x), rtol=1e-6)
    np.testing.assert_allclose(once.score(x), 1.5 * prior.score(x), rtol=1e-5)
    np.testing.assert_allclose(twice.energy(x), once.energy(x), rtol=1e-6)
    expected = once.reference.log_prob(x)
    np.testing.assert_allclose(twice.reference.log_prob(x), expected, rtol=1e-4)
    clamped = prior.clamp({"a": 0.5})
    np.testing.assert_allclose(clamped.temper(2.0).energy(x), 2 * clamped.energy(x), rtol=1e-6)
    # The normaliser of p is not that of p^b.
    assert prior.replace(log_normalizer=jnp.zeros(())).temper(2.0).log_normalizer is None


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, "hot"])
def test_tempering_by_an_invalid_inverse_temperature(mixture, value):
    with pytest.raises(ValueError, match="positive.*`inverse_temperature`"):
        mixture.temper(value)


def test_cooling_is_tempering_by_the_ratio_of_squares():
    prior = disco.EnergyDistribution(skewed, reference(), names=NAMES, noise_scale=0.1)
    x = jax.random.normal(KEY, (5, 3))
    cooled = prior.cool(0.05)
    np.testing.assert_allclose(cooled.energy(x), prior.temper(4.0).energy(x), rtol=1e-5)
    np.testing.assert_allclose(cooled.noise_scale, 0.05, rtol=1e-6)
    # Cooling in two steps is the same as in one.
    stepwise = prior.cool(0.08).cool(0.05)
    np.testing.assert_allclose(stepwise.energy(x), cooled.energy(x), rtol=1e-5)
    np.testing.assert_allclose(prior.cool(0.1).energy(x), prior.energy(x), rtol=1e-6)


def test_cooling_errors(mixture):
    with pytest.raises(ValueError, match="does not know the smoothing.*`noise_scale`"):
        mixture.cool(0.05)
    prior = disco.EnergyDistribution(skewed, reference(), noise_scale=0.1)
    with pytest.raises(ValueError, match="at most 0.1.*use `temper`"):
        prior.cool(0.2)
    for bad in (0.0, -0.1, np.nan):
        with pytest.raises(ValueError, match="positive"):
            prior.cool(bad)
    with pytest.raises(ValueError, match="positive.*`noise_scale`"):
        disco.EnergyDistribution(skewed, reference(), noise_scale=0.0)


def test_unflattening_undoes_flattening(any_prior):
    prior = any_prior.clamp({"a": 0.5}).temper(1.5)
    leaves, structure = jax.tree.flatten(prior)
    again = jax.tree.unflatten(structure, leaves)
    x = jax.random.normal(KEY, (4, 3)).at[:, 0].set(0.5)
    np.testing.assert_array_equal(again.log_prob(x), prior.log_prob(x))
    np.testing.assert_array_equal(again.reference.log_prob(x), prior.reference.log_prob(x))
    assert again.names == prior.names and again.observed == prior.observed
    assert again.batch_shape == prior.batch_shape and again.event_shape == prior.event_shape
    assert jax.tree.structure(again) == structure


def test_weights_are_leaves(any_prior):
    # A plain function has no leaves; the others do.
    num_weights = len(jax.tree.leaves(any_prior.energy_fn))
    assert (num_weights == 0) == (
        any_prior.energy_fn.__class__ is jax.tree_util.Partial
        and any_prior.energy_fn.func is skewed
    )


@pytest.mark.parametrize("kind", ["partial", "nnx", "pytree"])
def test_new_weights_do_not_compile_again(kind):
    traces = []

    @jax.jit
    def log_prob(prior, x):
        traces.append(1)
        return prior.log_prob(x)

    x = jax.random.normal(KEY, (4, 3))
    for scale in (1.0, 1.5, 2.0):
        energy = jax.tree.map(lambda leaf, s=scale: s * leaf, energies()[kind])
        prior = disco.EnergyDistribution(energy, reference(), names=NAMES)
        np.testing.assert_allclose(log_prob(prior, x), prior.log_prob(x), rtol=1e-4)
        np.testing.assert_allclose(log_prob(prior.temper(1.0), x), prior.log_prob(x), rtol=1e-4)
    assert len(traces) == 1


def test_clamped_values_can_be_mapped_over(any_prior):
    values = jnp.array([-1.0, 0.0, 2.0])
    x = jnp.array([0.1, 0.0, 0.3])
    mapped = jax.vmap(lambda v: any_prior.clamp({"b": v}).log_prob(x.at[1].set(v)))(values)
    np.testing.assert_allclose(mapped, -any_prior.clamp({"b": values}).energy(x), rtol=1e-5)


def test_expand_mask_and_to_event(mixture):
    x = jax.random.normal(KEY, (4, 3))
    log_prob = mixture.log_prob(x)
    expanded = mixture.expand((4,))
    assert expanded.batch_shape == (4,) and expanded.event_shape == (3,)
    np.testing.assert_array_equal(expanded.log_prob(x), log_prob)
    np.testing.assert_allclose(expanded.to_event(1).log_prob(x), log_prob.sum(), rtol=1e-6)
    keep = np.array([True, False, True, False])
    np.testing.assert_array_equal(expanded.mask(keep).log_prob(x), np.where(keep, log_prob, 0.0))
    leaves, structure = jax.tree.flatten(expanded)
    again = jax.tree.unflatten(structure, leaves)
    np.testing.assert_array_equal(again.log_prob(x), log_prob)


def test_a_fit_in_the_place_of_its_distribution_is_refused(mixture):
    check_prior(mixture)
    with pytest.raises(ValueError, match="got SimpleNamespace. Give its `distribution`."):
        check_prior(SimpleNamespace(distribution=mixture))
