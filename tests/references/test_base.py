"""The laws of every reference: exact densities, draws and conditionals, and NumPyro's own.

Each test runs with a Gaussian and with a mixture, and compares with an oracle in float64.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
import scipy.stats
from helpers.references import (
    MASKS,
    TRUTH,
    VALUES,
    check_moments,
    log_prob_of,
    reference_of,
    sample_of,
    split_of,
)
from helpers.statistics import Mixture

from numpyro_disco import GaussianReference, MixtureReference
from numpyro_disco.references.base import host_draws

enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64


def parameters_of(reference):
    """Weights, means and covariances, with an axis for the components."""
    log_weights, means, covariances = reference.components()[:3]
    return np.exp(log_weights), means, covariances


# --- densities and draws


def test_log_prob_agrees_with_scipy(truth, reference):
    x = 3 * VALUES
    parts = [
        math.log(w) + scipy.stats.multivariate_normal(m, c).logpdf(x)
        for w, m, c in zip(truth.weights, truth.means, truth.covariances, strict=True)
    ]
    expected = np.logaddexp.reduce(parts, axis=0)
    np.testing.assert_allclose(log_prob_of(reference, x), expected, rtol=3e-6, atol=3e-5)
    # The oracle of all other tests here must meet the same standard.
    np.testing.assert_allclose(truth.log_prob(x), expected, rtol=1e-12)


def test_draws_on_the_host_have_the_moments_and_no_order(truth, reference):
    draws = host_draws(np.random.default_rng(0), reference.components(), 100_000)
    check_moments(draws, truth)
    # Neighbours are independent: they are not sorted by component.
    centred = draws - draws.mean(0)
    along = (centred[1:] * centred[:-1]).mean(0) / centred.var(0)
    assert np.abs(along).max() < 5 / np.sqrt(len(draws))


def test_describe_returns_residuals_and_probabilities(truth, reference):
    """Compare the mean white residual and a mixture's probabilities with float64."""
    log_prob, local = jax.jit(lambda reference, x: reference.describe(x))(reference, VALUES)
    np.testing.assert_array_equal(log_prob, log_prob_of(reference, VALUES))
    residual = VALUES[:, None] - truth.means
    parts, white = [], []
    for k, covariance in enumerate(truth.covariances):
        normal = scipy.stats.multivariate_normal(truth.means[k], covariance)
        parts.append(truth.weights[k] * np.atleast_1d(normal.pdf(VALUES)))
        white.append(np.linalg.solve(np.linalg.cholesky(covariance), residual[:, k].T).T)
    share = np.stack(parts, axis=1) / np.sum(parts, axis=0)[:, None]
    expected = np.einsum("nk,knd->nd", share, np.stack(white))
    np.testing.assert_allclose(local[:, :3], expected, rtol=1e-4, atol=1e-4)
    if len(truth.weights) > 1:
        np.testing.assert_allclose(local[:, 3:], share, rtol=1e-4, atol=1e-5)


def test_components_are_the_parameters(truth, given):
    log_weights, means, covariances, whiteners, _ = given.components()
    num_components = len(truth.weights)
    assert log_weights.shape == (8, num_components)
    assert means.shape == (8, num_components, 3)
    # The last row of MASKS observes every coordinate, the first none.
    np.testing.assert_array_equal(whiteners[-1], np.broadcast_to(np.eye(3), (num_components, 3, 3)))
    np.testing.assert_allclose(np.exp(log_weights[0]), truth.weights, rtol=1e-5)
    np.testing.assert_allclose(means[0], truth.means, atol=1e-6)
    np.testing.assert_allclose(covariances[0], truth.covariances, atol=1e-6)
    whitened = whiteners[0] @ truth.covariances @ np.swapaxes(whiteners[0], 1, 2)
    np.testing.assert_allclose(whitened, np.broadcast_to(np.eye(3), whitened.shape), atol=1e-5)


def test_double_precision_is_kept(truth):
    x, mask = np.random.default_rng(1).normal(scale=3, size=(8, 3)), np.array([False, True, False])

    with enable_x64(True):
        reference = reference_of(truth)
        log_prob, conditional = jax.jit(
            lambda reference: (reference.log_prob(x), reference.condition(x[0], mask).log_prob(x))
        )(reference)
        assert log_prob.dtype == jnp.float64
        np.testing.assert_allclose(log_prob, truth.log_prob(x), rtol=1e-12)
        expected = truth.condition([1], x[0, [1]]).log_prob(x[:, [0, 2]])
        np.testing.assert_allclose(conditional, expected, rtol=1e-11)


def test_draws_have_the_exact_moments(truth, reference, draws):
    check_moments(draws.reshape(-1, 3), truth)
    np.testing.assert_allclose(reference.mean, truth.mean, atol=1e-6)
    np.testing.assert_allclose(reference.variance, np.diag(truth.covariance), rtol=1e-6)


def test_wrong_draws_fail_the_moment_check():
    # Weights assigned to the wrong components.
    truth = TRUTH["mixture"]
    swapped = MixtureReference(truth.weights[::-1], truth.means, truth.covariances)
    draws = np.asarray(sample_of(swapped, jax.random.key(0), (20_000, 8)))
    with pytest.raises(AssertionError, match="is off"):
        check_moments(draws.reshape(-1, 3), truth)
    # A transposed factor: the trace is right and the covariance wrong.
    truth = TRUTH["gaussian"]
    noise = np.random.default_rng(0).standard_normal((160_000, 3))
    with pytest.raises(AssertionError, match="is off"):
        check_moments(truth.means[0] + noise @ np.linalg.cholesky(truth.covariances[0]), truth)


# --- conditionals


def test_conditionals_given_every_subset_are_exact(truth, given):
    assert given.batch_shape == (8,) and given.event_shape == (3,)
    weights, means, covariances = (np.asarray(a) for a in parameters_of(given))
    x = VALUES[::-1]
    log_prob = log_prob_of(given, x)
    for row, (mask, values) in enumerate(zip(MASKS, VALUES, strict=True)):
        seen, free = np.flatnonzero(mask), np.flatnonzero(~mask)
        oracle = truth.condition(seen, values[seen])
        np.testing.assert_allclose(weights[row], oracle.weights, atol=3e-6)
        np.testing.assert_allclose(means[row][:, free], oracle.means, atol=3e-6)
        held = np.broadcast_to(values[seen], means[row][:, seen].shape)
        np.testing.assert_array_equal(means[row][:, seen], held)
        inner = covariances[row][:, free][:, :, free]
        np.testing.assert_allclose(inner, oracle.covariances, atol=3e-6)
        assert (covariances[row][:, seen] == 0).all()
        assert (covariances[row][:, :, seen] == 0).all()
        np.testing.assert_allclose(given.mean[row, free], oracle.mean, atol=3e-6)
        np.testing.assert_allclose(given.mean[row, seen], values[seen], rtol=1e-6)
        np.testing.assert_allclose(given.variance[row, free], np.diag(oracle.covariance), atol=6e-6)
        assert (given.variance[row, seen] == 0).all()
        expected = oracle.log_prob(x[row, free]) if len(free) else 0.0
        np.testing.assert_allclose(log_prob[row], expected, rtol=1e-5, atol=3e-5)


def test_marginals_of_every_subset_are_exact(truth, reference):
    _, log_density = split_of(reference, VALUES, MASKS)
    for row, mask in enumerate(MASKS):
        seen = np.flatnonzero(mask)
        expected = truth.marginal(seen).log_prob(VALUES[row, seen]) if len(seen) else 0.0
        np.testing.assert_allclose(log_density[row], expected, rtol=1e-5, atol=1e-5)


def test_joint_is_marginal_times_conditional(reference):
    rng = np.random.default_rng(3)
    for _ in range(20):
        x = rng.normal(scale=2, size=(8, 3)).astype(np.float32)
        conditional, marginal = split_of(reference, x, rng.random((8, 3)) < 0.5)
        split, joint = marginal + log_prob_of(conditional, x), log_prob_of(reference, x)
        np.testing.assert_allclose(split, joint, rtol=2e-5, atol=2e-4)


def test_nan_marks_free_coordinates(reference, given):
    single = reference.condition(np.array([VALUES[4, 0], np.nan, np.nan]))
    np.testing.assert_array_equal(single.observed, MASKS[4])
    for one, batch in zip(parameters_of(single), parameters_of(given), strict=True):
        np.testing.assert_allclose(one, batch[4], atol=1e-5)
    marginal = reference.marginal_log_prob(np.where(MASKS[4], VALUES[4], np.nan))
    np.testing.assert_allclose(marginal, split_of(reference, VALUES, MASKS)[1][4], rtol=1e-5)


def test_values_of_free_coordinates_are_ignored(reference):
    other = np.where(MASKS, VALUES, np.float32(77))
    one, two = split_of(reference, VALUES, MASKS), split_of(reference, other, MASKS)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


def test_traced_masks_compile_once(reference, given):
    traces = 0

    @jax.jit
    def both(reference, values, mask):
        nonlocal traces
        traces += 1
        one = reference.condition(values, mask)
        marginal, log_prob = reference.marginal_log_prob(values, mask), one.log_prob(values + 1)
        return one.mean, one.variance, one.observed, marginal, log_prob

    marginal, log_prob = split_of(reference, VALUES, MASKS)[1], log_prob_of(given, VALUES + 1)
    mean, variance = given.mean, given.variance
    for row, (mask, values) in enumerate(zip(MASKS, VALUES, strict=True)):
        traced = both(reference, values, mask)
        expected = mean[row], variance[row], mask, marginal[row], log_prob[row]
        for one, other in zip(traced, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)
    assert traces == 1


def test_conditioning_twice_equals_conditioning_once(reference, given):
    # Condition on a random half of each subset first, then on all of it.
    first = MASKS & (np.random.default_rng(5).random(MASKS.shape) < 0.5)
    # New values of coordinates that are observed already are ignored.
    again = np.where(first, np.float32(99), VALUES)
    once, (step, before) = given, split_of(reference, VALUES, first)
    twice, after = split_of(step, again, MASKS)
    for a, b in zip(parameters_of(once), parameters_of(twice), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_array_equal(once.observed, twice.observed)
    log_prob = log_prob_of(once, VALUES), log_prob_of(twice, VALUES)
    np.testing.assert_allclose(*log_prob, rtol=1e-5, atol=1e-5)
    expected = split_of(reference, VALUES, MASKS)[1]
    np.testing.assert_allclose(before + after, expected, rtol=1e-5, atol=1e-5)


def test_covariances_of_observed_coordinates_are_ignored():
    # The docstring of the constructor promises it, also after a further `condition`.
    truth, held = TRUTH["gaussian"], np.array([True, False, False])
    inner = np.where(np.outer(~held, ~held), truth.covariances[0], 0.0)
    values, x = np.array([np.nan, 0.3, np.nan]), np.array([0.5, 0.3, 1.0])
    full = GaussianReference(truth.means[0], truth.covariances[0], observed=held)
    bare = GaussianReference(truth.means[0], inner, observed=held)
    np.testing.assert_allclose(full.log_prob(x), bare.log_prob(x), rtol=1e-6)
    np.testing.assert_array_equal(full.variance, bare.variance)
    one, two = full.condition(values), bare.condition(values)
    np.testing.assert_allclose(one.mean, two.mean, atol=1e-6)
    np.testing.assert_allclose(one.covariance, two.covariance, atol=1e-6)
    full = MixtureReference(
        [2.0, 1.0], [truth.means[0]] * 2, [truth.covariances[0]] * 2, observed=held
    )
    np.testing.assert_allclose(full.condition(values).mean, two.mean, atol=1e-6)


def check_conditional_draws(draws, truth):
    """Check draws (n, 8, 3), one for each row of MASKS: observed values and moments of the rest."""
    for row, mask in enumerate(MASKS):
        seen, free = np.flatnonzero(mask), np.flatnonzero(~mask)
        held = np.broadcast_to(VALUES[row, seen], (len(draws), len(seen)))
        np.testing.assert_array_equal(draws[:, row, seen], held)
        if len(free):
            oracle = truth.condition(seen, VALUES[row, seen])
            check_moments(draws[:, row, free], oracle)


def test_conditional_draws_have_the_exact_moments(truth, given):
    draws = sample_of(given, jax.random.key(1), (40_000,))
    check_conditional_draws(np.asarray(draws), truth)


def test_overwritten_joint_draws_fail_the_check_of_conditionals(truth, draws):
    # Joint draws with the observed values written over them are not conditional draws.
    with pytest.raises(AssertionError, match="is off"):
        check_conditional_draws(np.where(MASKS, VALUES, draws), truth)


def test_tempering_keeps_observed_coordinates(truth, reference, given):
    tempered = jax.jit(lambda given: given.temper(0.5))(given)
    assert isinstance(tempered, type(reference)) and tempered.batch_shape == (8,)
    np.testing.assert_array_equal(tempered.observed, MASKS)
    np.testing.assert_allclose(tempered.mean[MASKS], VALUES[MASKS], rtol=1e-6)
    log_prob = log_prob_of(tempered, VALUES)
    for row, mask in enumerate(MASKS[:-1]):
        seen, free = np.flatnonzero(mask), np.flatnonzero(~mask)
        oracle = truth.condition(seen, VALUES[row, seen])
        log_det = np.linalg.slogdet(2 * np.pi * oracle.covariances)[1]
        weights = oracle.weights**0.5 * np.exp(0.25 * log_det) * 0.5 ** (-len(free) / 2)
        exact = Mixture(weights, oracle.means, oracle.covariances / 0.5)
        expected = exact.log_prob(VALUES[row, free])
        np.testing.assert_allclose(log_prob[row], expected, rtol=1e-5, atol=1e-5)


def test_values_of_another_size_are_refused(reference):
    for values in (np.zeros(2), 0.0):
        with pytest.raises(ValueError, match="last axis of 3 for `values`"):
            reference.condition(values)


# --- NumPyro's laws


def constructor_arguments(truth):
    """A constructor, and its arguments for a batch of three different distributions."""
    shift = np.arange(3.0)[:, None]
    if len(truth.weights) == 1:
        covariances = truth.covariances * np.array([1.0, 2.0, 0.5])[:, None, None]
        return GaussianReference, (truth.means + shift, covariances)
    weights = np.stack([np.roll(truth.weights, i) for i in range(3)])
    means = truth.means + shift[..., None]
    covariances = truth.covariances * np.array([1.0, 2.0, 0.5])[:, None, None, None]
    return MixtureReference, (weights, means, covariances)


def test_flattening_and_unflattening_changes_nothing(reference, given):
    for one in (reference, given):
        leaves, tree = jax.tree.flatten(one)
        other = jax.tree.unflatten(tree, leaves)
        assert type(other) is type(one)
        assert other.batch_shape == one.batch_shape and other.event_shape == one.event_shape
        assert jax.tree.structure(other) == tree
        assert (other.observed is None) == (one.observed is None)
        log_prob = log_prob_of(other, VALUES), log_prob_of(one, VALUES)
        np.testing.assert_array_equal(*log_prob)


def test_jit_accepts_references_without_retracing(reference):
    traces = 0

    @jax.jit
    def log_prob(reference, x):
        nonlocal traces
        traces += 1
        return reference.log_prob(x)

    for one in (reference, reference.temper(0.5)):
        eager = one.log_prob(VALUES)
        np.testing.assert_allclose(log_prob(one, VALUES), eager, rtol=1e-5, atol=1e-5)
    assert traces == 1


def test_vmap_and_batches_agree(truth):
    constructor, arguments = constructor_arguments(truth)
    x, mask = VALUES[:3], np.array([True, False, True])

    def both(x, *arguments):
        reference = constructor(*arguments)
        return reference.log_prob(x), reference.condition(x, mask).log_prob(x + 1)

    compare = jax.jit(lambda *a: (jax.vmap(both)(*a), both(*a)))
    mapped, batched = compare(x, *map(jnp.asarray, arguments))
    for one, other in zip(mapped, batched, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    batch = constructor(*arguments)
    assert batch.batch_shape == (3,)
    # Every member of the batch has its own parameters.
    draws = np.asarray(sample_of(batch, jax.random.key(0), (20_000,)))
    for row in range(3):
        single = [np.asarray(a)[row] for a in arguments]
        oracle = Mixture(*(single if len(single) == 3 else ([1.0], *(a[None] for a in single))))
        np.testing.assert_allclose(mapped[0][row], oracle.log_prob(x[row]), rtol=1e-5)
        check_moments(draws[:, row], oracle)


def test_shapes_follow_numpyro(reference, given):
    key = jax.random.key(0)
    assert reference.batch_shape == () and reference.event_shape == (3,)
    assert given.batch_shape == (8,) and given.event_shape == (3,)
    assert given.mean.shape == given.variance.shape == (8, 3)
    for one in (reference, given):
        for sample_shape in [(), (5,), (2, 4)]:
            expected = (*sample_shape, *one.batch_shape, 3)
            assert one.shape(sample_shape) == expected
            draws = jax.eval_shape(lambda one=one, s=sample_shape: one.sample(key, s))
            assert draws.shape == expected
            log_prob = jax.eval_shape(one.log_prob, draws)
            assert log_prob.shape == expected[:-1]
    assert bool(reference.support(VALUES).all())


def test_expand_mask_and_to_event_work(reference):
    kept = np.arange(8) % 2 == 0

    @jax.jit
    def densities(reference, x):
        expanded = reference.expand((8,))
        assert expanded.batch_shape == (8,) and expanded.event_shape == (3,)
        joint = expanded.to_event(1)
        assert joint.batch_shape == () and joint.event_shape == (8, 3)
        return expanded.log_prob(x), expanded.mask(kept).log_prob(x), joint.log_prob(x)

    expected = np.asarray(log_prob_of(reference, VALUES))
    expanded, masked, joint = densities(reference, VALUES)
    np.testing.assert_allclose(expanded, expected, rtol=1e-5)
    np.testing.assert_allclose(masked, np.where(kept, expected, 0.0), rtol=1e-5)
    np.testing.assert_allclose(joint, expected.sum(), rtol=1e-5)


def test_plates_work(reference):
    def model(obs=None):
        with numpyro.plate("rows", 8):
            return numpyro.sample("x", reference, obs=obs)

    @jax.jit
    def run(key, obs):
        drawn = numpyro.handlers.seed(model, key)()
        return drawn, numpyro.infer.util.log_density(model, (obs,), {}, {})[0]

    drawn, log_density = run(jax.random.key(0), VALUES)
    assert drawn.shape == (8, 3) and len(np.unique(drawn, axis=0)) == 8
    expected = log_prob_of(reference, VALUES).sum()
    np.testing.assert_allclose(log_density, expected, rtol=1e-5)
