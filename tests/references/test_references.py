"""References against an oracle in float64, and against what NumPyro asks of a distribution."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
import scipy.stats
from helpers.statistics import Mixture, assert_within, mean_and_error, moments

from numpyro_disco import GaussianReference, MixtureReference

enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64

# Skewed, unequally weighted, strongly correlated in different ways: nothing here is symmetric.
TRUTH = {
    "gaussian": Mixture(
        [1.0], [[0.5, -1.0, 2.0]], [[[1.0, 0.7, -0.3], [0.7, 2.0, 0.4], [-0.3, 0.4, 0.8]]]
    ),
    "mixture": Mixture(
        [0.62, 0.28, 0.10],
        [[0.0, 0.0, 0.0], [2.0, -1.0, 1.5], [-1.5, 3.0, 0.5]],
        [
            [[0.5, 0.3, 0.0], [0.3, 0.6, -0.2], [0.0, -0.2, 0.4]],
            [[0.3, -0.2, 0.1], [-0.2, 0.8, 0.3], [0.1, 0.3, 0.5]],
            [[1.2, 0.0, -0.5], [0.0, 0.2, 0.0], [-0.5, 0.0, 0.9]],
        ],
    ),
}
KINDS = sorted(TRUTH)
# Compiled once for all tests of a kind, which therefore keep to arrays of shape (8, 3).
log_prob_of = jax.jit(lambda reference, x: reference.log_prob(x))
sample_of = jax.jit(lambda reference, key, shape: reference.sample(key, shape), static_argnums=2)
split_of = jax.jit(
    lambda reference, values, mask: (
        reference.condition(values, mask),
        reference.marginal_log_prob(values, mask),
    )
)
# One row for each subset of three coordinates, none and all included.
MASKS = np.array(list(itertools.product([False, True], repeat=3)))
VALUES = np.random.default_rng(0).normal(size=MASKS.shape).astype(np.float32)


def reference_of(truth):
    if len(truth.weights) == 1:
        return GaussianReference(truth.means[0], truth.covariances[0])
    return MixtureReference(truth.weights, truth.means, truth.covariances)


@pytest.fixture(params=KINDS, scope="module")
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


def components(reference):
    """Weights, means and covariances of either kind, with an axis for the components."""
    if isinstance(reference, GaussianReference):
        weights = np.ones((*reference.batch_shape, 1))
        return weights, reference.mean_[..., None, :], reference.covariance[..., None, :, :]
    return reference.weights, reference.means, reference.covariances


# --- densities and draws


def test_log_prob_against_scipy(truth, reference):
    x = 3 * VALUES
    parts = [
        math.log(w) + scipy.stats.multivariate_normal(m, c).logpdf(x)
        for w, m, c in zip(truth.weights, truth.means, truth.covariances, strict=True)
    ]
    expected = np.logaddexp.reduce(parts, axis=0)
    np.testing.assert_allclose(log_prob_of(reference, x), expected, rtol=3e-6, atol=3e-5)
    # The oracle of every other test here is held to the same standard.
    np.testing.assert_allclose(truth.log_prob(x), expected, rtol=1e-12)


def test_describe_says_where_a_point_lies(truth, reference):
    """The mean white residual in float64, and for a mixture the components' probabilities."""
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


def test_double_precision(truth):
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


def check_moments(draws, truth, resolution=0.4):
    # In standard deviations from the true mean, so that one resolution serves every moment.
    loc, scale = truth.mean, np.sqrt(np.diag(truth.covariance))
    estimate, error = mean_and_error(moments((draws - loc) / scale))
    exact = truth.standardize(loc, scale).moments
    assert_within(estimate, exact, error, resolution=resolution, label="moments")


def test_draws_have_the_right_moments(truth, reference, draws):
    check_moments(draws.reshape(-1, 3), truth)
    np.testing.assert_allclose(reference.mean, truth.mean, atol=1e-6)
    np.testing.assert_allclose(reference.variance, np.diag(truth.covariance), rtol=1e-6)


def test_broken_draws_fail_the_moments():
    # Weights of the wrong components.
    truth = TRUTH["mixture"]
    swapped = MixtureReference(truth.weights[::-1], truth.means, truth.covariances)
    draws = np.asarray(sample_of(swapped, jax.random.key(0), (20_000, 8)))
    with pytest.raises(AssertionError, match="is off"):
        check_moments(draws.reshape(-1, 3), truth)
    # A transposed factor: right trace, wrong covariance.
    truth = TRUTH["gaussian"]
    noise = np.random.default_rng(0).standard_normal((160_000, 3))
    with pytest.raises(AssertionError, match="is off"):
        check_moments(truth.means[0] + noise @ np.linalg.cholesky(truth.covariances[0]), truth)


# --- conditionals


def test_condition_on_every_subset(truth, given):
    assert given.batch_shape == (8,) and given.event_shape == (3,)
    weights, means, covariances = (np.asarray(a) for a in components(given))
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


def test_marginal_on_every_subset(truth, reference):
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


def test_nan_means_free(reference, given):
    single = reference.condition(np.array([VALUES[4, 0], np.nan, np.nan]))
    np.testing.assert_array_equal(single.observed, MASKS[4])
    for one, batch in zip(components(single), components(given), strict=True):
        np.testing.assert_allclose(one, batch[4], atol=1e-5)
    marginal = reference.marginal_log_prob(np.where(MASKS[4], VALUES[4], np.nan))
    np.testing.assert_allclose(marginal, split_of(reference, VALUES, MASKS)[1][4], rtol=1e-5)


def test_what_free_entries_hold_does_not_matter(reference):
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


def test_conditioning_twice_is_conditioning_at_once(reference, given):
    # First what an arbitrary half of MASKS holds, then the whole of it.
    first = MASKS & (np.random.default_rng(5).random(MASKS.shape) < 0.5)
    # The value given again for a coordinate that is held already is not listened to.
    again = np.where(first, np.float32(99), VALUES)
    once, (step, before) = given, split_of(reference, VALUES, first)
    twice, after = split_of(step, again, MASKS)
    for a, b in zip(components(once), components(twice), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_array_equal(once.observed, twice.observed)
    log_prob = log_prob_of(once, VALUES), log_prob_of(twice, VALUES)
    np.testing.assert_allclose(*log_prob, rtol=1e-5, atol=1e-5)
    expected = split_of(reference, VALUES, MASKS)[1]
    np.testing.assert_allclose(before + after, expected, rtol=1e-5, atol=1e-5)


def test_covariance_of_held_coordinates_is_ignored():
    # The constructor says so, and a further `condition` must keep the promise.
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
    """Draws (n, 8, 3), one column for each of MASKS: held values, and moments of the rest."""
    for row, mask in enumerate(MASKS):
        seen, free = np.flatnonzero(mask), np.flatnonzero(~mask)
        held = np.broadcast_to(VALUES[row, seen], (len(draws), len(seen)))
        np.testing.assert_array_equal(draws[:, row, seen], held)
        if len(free):
            oracle = truth.condition(seen, VALUES[row, seen])
            check_moments(draws[:, row, free], oracle)


def test_conditional_draws(truth, given):
    draws = sample_of(given, jax.random.key(1), (40_000,))
    check_conditional_draws(np.asarray(draws), truth)


def test_overwriting_is_not_conditioning(truth, draws):
    # Drawing the joint and writing the observed values over it leaves the others where they were.
    with pytest.raises(AssertionError, match="is off"):
        check_conditional_draws(np.where(MASKS, VALUES, draws), truth)


# --- tempering


def test_tempered_gaussian_is_its_power():
    truth = TRUTH["gaussian"]
    reference = reference_of(truth)
    x = 3 * VALUES
    for b in (0.2, 1.0, 4.0):
        tempered = reference.temper(b)
        difference = np.asarray(
            log_prob_of(tempered, x) - b * log_prob_of(reference, x), np.float64
        )
        size = np.abs(b * log_prob_of(reference, x)).max()
        np.testing.assert_allclose(difference, difference[0], atol=1e-6 * size + 1e-5)
        exact = Mixture([1.0], truth.means, truth.covariances / b).log_prob(x)
        np.testing.assert_allclose(log_prob_of(tempered, x), exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("b", [0.1, 0.5, 3.0])
def test_tempered_mixture_bounds_its_power(b):
    truth = TRUTH["mixture"].marginal([0, 1])
    reference = reference_of(truth)
    # The mass of w_k^b N_k^b; (sum a_k)^b is at most sum a_k^b, times K^(b-1) when b > 1.
    log_det = np.linalg.slogdet(2 * np.pi * truth.covariances)[1]
    masses = truth.weights**b * np.exp(0.5 * (1 - b) * log_det) / b
    bound = math.log(masses.sum()) + max(b - 1, 0) * math.log(3)

    def excess(tempered, x):
        return float((b * log_prob_of(reference, x) - log_prob_of(tempered, x)).max())

    tempered = reference.temper(b)
    axis = np.linspace(-40, 40, 321, dtype=np.float32)
    wide = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    assert excess(tempered, wide) <= bound + 1e-3
    np.testing.assert_allclose(tempered.weights, masses / masses.sum(), rtol=1e-5)
    # A single Gaussian of the mixture's mean and covariance bounds no mixture's power.
    moments_only = MixtureReference([1.0] * 3, [truth.mean] * 3, [truth.covariance / b] * 3)
    assert excess(moments_only, wide) > bound + 1
    # Normalised: a Riemann sum with steps of one standard deviation is as good as exact.
    mass = np.exp(np.asarray(log_prob_of(tempered, wide), np.float64)).sum() * 0.25**2
    assert abs(mass - 1) < 1e-5


def test_tempering_keeps_what_is_held(truth, reference, given):
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


# --- NumPyro's laws


def constructor_arguments(truth):
    """Constructor, and arguments with a batch of three different distributions."""
    shift = np.arange(3.0)[:, None]
    if len(truth.weights) == 1:
        covariances = truth.covariances * np.array([1.0, 2.0, 0.5])[:, None, None]
        return GaussianReference, (truth.means + shift, covariances)
    weights = np.stack([np.roll(truth.weights, i) for i in range(3)])
    means = truth.means + shift[..., None]
    covariances = truth.covariances * np.array([1.0, 2.0, 0.5])[:, None, None, None]
    return MixtureReference, (weights, means, covariances)


def test_pytree(reference, given):
    for one in (reference, given):
        leaves, tree = jax.tree.flatten(one)
        other = jax.tree.unflatten(tree, leaves)
        assert type(other) is type(one)
        assert other.batch_shape == one.batch_shape and other.event_shape == one.event_shape
        assert jax.tree.structure(other) == tree
        assert (other.observed is None) == (one.observed is None)
        log_prob = log_prob_of(other, VALUES), log_prob_of(one, VALUES)
        np.testing.assert_array_equal(*log_prob)


def test_jit_takes_the_distribution(reference):
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


def test_shapes(reference, given):
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


def test_expand_mask_and_to_event(reference):
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


def test_inside_a_plate(reference):
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


# --- bad arguments

EYE = np.eye(2)
BAD = {
    "mean without an axis": (GaussianReference, (0.0, EYE), {}, "mean"),
    "mean that is not finite": (GaussianReference, ([0.0, np.nan], EYE), {}, "mean"),
    "covariance of another size": (GaussianReference, (np.zeros(3), EYE), {}, "covariance"),
    "covariance not definite": (
        GaussianReference,
        (np.zeros(2), [[1, 2], [2, 1]]),
        {},
        "covariance",
    ),
    "covariance not symmetric": (
        GaussianReference,
        (np.zeros(2), [[1, 0.9], [0, 1]]),
        {},
        "covariance",
    ),
    "observed of another size": (
        GaussianReference,
        (np.zeros(2), EYE),
        {"observed": [True]},
        "observed",
    ),
    "means without components": (MixtureReference, (np.ones(2), np.zeros(2), EYE), {}, "means"),
    "too few weights": (
        MixtureReference,
        (np.ones(1), np.zeros((2, 2)), [EYE, EYE]),
        {},
        "weights",
    ),
    "too few covariances": (
        MixtureReference,
        (np.ones(2), np.zeros((2, 2)), [EYE]),
        {},
        "covariances",
    ),
    "a covariance not definite": (
        MixtureReference,
        (np.ones(2), np.zeros((2, 2)), [EYE, -EYE]),
        {},
        "covariances",
    ),
    "negative weights": (
        MixtureReference,
        ([1.5, -0.5], np.zeros((2, 2)), [EYE, EYE]),
        {},
        "weights",
    ),
    "weights of NaN": (
        MixtureReference,
        ([1.5, np.nan], np.zeros((2, 2)), [EYE, EYE]),
        {},
        "weights",
    ),
    "weights all zero": (MixtureReference, ([0, 0], np.zeros((2, 2)), [EYE, EYE]), {}, "weights"),
    "weights all zero in one of a batch": (
        MixtureReference,
        ([[0, 0], [1, 1]], np.zeros((2, 2)), [EYE, EYE]),
        {},
        "weights",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    constructor, arguments, keywords, name = BAD[case]
    with pytest.raises(ValueError, match=f"`{name}`"):
        constructor(*map(np.asarray, arguments), **keywords)


def test_bad_values(reference):
    for values in (np.zeros(2), 0.0):
        with pytest.raises(ValueError, match="last axis of 3 for `values`"):
            reference.condition(values)


def test_a_weight_of_zero_is_allowed():
    truth = TRUTH["mixture"]
    without = Mixture(truth.weights[:2], truth.means[:2], truth.covariances[:2])
    reference = MixtureReference([0.62, 0.28, 0.0], truth.means, truth.covariances)
    log_prob = log_prob_of(reference, VALUES)
    np.testing.assert_allclose(log_prob, without.log_prob(VALUES), rtol=1e-5)
    given, _ = split_of(reference, VALUES, MASKS)
    assert (given.weights[:, 2] == 0).all()
    assert np.isfinite(log_prob_of(given, VALUES)).all()
