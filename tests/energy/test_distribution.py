"""`EnergyDistribution` around energies of one's own.

Almost every distribution here is one family, a mixture of two Gaussians in three dimensions with
its parameters as leaves, so that Gaussian, mixture, shifted and walled-off targets share the few
compiled programs of tempered sampling.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from flax import nnx
from helpers.statistics import assert_within
from jax.flatten_util import ravel_pytree
from jax.scipy.special import logsumexp
from numpyro.infer import MCMC, NUTS

import numpyro_disco as disco

NAMES = ("a", "b", "c")
KEY = jax.random.key(20)
REPEATS = 20
# Student's t with 19 degrees of freedom is as rarely beyond 7.4 as a Gaussian is beyond 5.
SIGMAS = 7.4

MEAN = np.array([0.5, -0.3, 0.2])
COVARIANCE = np.array([[1.0, 0.6, 0.2], [0.6, 1.5, -0.4], [0.2, -0.4, 0.8]])
# Unequal weights and widths: a symmetric target would hide errors of sign and of mode masses.
WEIGHTS = np.array([0.25, 0.75])
MEANS = np.stack([MEAN, MEAN + [1.5, 2.0, -1.5]])
COVARIANCES = np.stack([COVARIANCE, 0.3 * np.diag([1.0, 0.5, 2.0])])


def family(parameters, x):
    """-log of an unnormalised mixture, +offset; +infinity beyond `wall`, NaN beyond `cliff`."""
    white = jnp.einsum("kij,kj->ki", parameters["whiteners"], x - parameters["means"])
    log_density = logsumexp(parameters["log_masses"] - 0.5 * (white**2).sum(-1))
    distance = jnp.sqrt(((x - parameters["means"][0]) ** 2).sum() + 1e-12)
    energy = parameters["offset"] - log_density
    energy = jnp.where(distance > parameters["wall"], jnp.inf, energy)
    return jnp.where(distance > parameters["cliff"], jnp.nan, energy)


def parameters_of(weights, means, covariances, offset=0.0, wall=np.inf, cliff=np.inf):
    # log_masses leave out the Gaussians' normalisers (they are kept relative to each other), so
    # that log Z is known and is not zero.
    log_det = np.linalg.slogdet(covariances)[1]
    return {
        "log_masses": jnp.asarray(np.log(weights) - 0.5 * log_det),
        "means": jnp.asarray(means),
        "whiteners": jnp.asarray(np.linalg.inv(np.linalg.cholesky(covariances))),
        "offset": jnp.asarray(offset),
        "wall": jnp.asarray(wall),
        "cliff": jnp.asarray(cliff),
    }


LOG_NORMALIZER = 1.5 * np.log(2 * np.pi)


def reference():
    return disco.GaussianReference(MEAN, 9.0 * np.eye(3))


def prior_of(weights=WEIGHTS, means=MEANS, covariances=COVARIANCES, **kwargs):
    energy = jax.tree_util.Partial(family, parameters_of(weights, means, covariances, **kwargs))
    return disco.EnergyDistribution(energy, reference(), names=NAMES)


def gaussian_log_density(x, mean, covariance):
    residual = np.asarray(x) - mean
    quadratic = (residual * np.linalg.solve(covariance, residual[..., None])[..., 0]).sum(-1)
    return -0.5 * (quadratic + np.linalg.slogdet(2 * np.pi * covariance)[1])


def mixture_log_marginal(values, places, weights=WEIGHTS, means=MEANS, covariances=COVARIANCES):
    places = list(places)
    parts = [
        np.log(w) + gaussian_log_density(values, m[places], c[np.ix_(places, places)])
        for w, m, c in zip(weights, means, covariances, strict=True)
    ]
    return np.logaddexp(*parts)


@pytest.fixture(scope="module")
def mixture():
    return prior_of()


@pytest.fixture(scope="module")
def gaussian():
    return prior_of(WEIGHTS, np.stack([MEAN, MEAN]), np.stack([COVARIANCE, COVARIANCE]))


# -- three ways of giving an energy ------------------------------------------------------------


def skewed(x):
    """Correlated, with an exponential tail on one side and a double exponential on the other."""
    z = jnp.array([[1.0, 0.0, 0.0], [0.7, 1.2, 0.0], [-0.3, 0.4, 0.8]]) @ x
    return (jnp.exp(0.5 * z) - z).sum() + 0.05 * (x @ x)


class Quadratic(nnx.Module):
    def __init__(self, diagonal):
        self.diagonal = nnx.Param(jnp.asarray(diagonal))

    def __call__(self, x):
        return 0.5 * (self.diagonal[...] * x**2).sum() + 0.1 * x[0] * x[1]


@jax.tree_util.register_pytree_node_class
class Cubic:
    """A pytree callable that knows nothing of any framework."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, x):
        return 0.5 * (x @ x) + 0.01 * self.scale * (x**3).sum() ** 2

    def tree_flatten(self):
        return (self.scale,), None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)


def energies():
    return {
        "function": skewed,
        "partial": jax.tree_util.Partial(family, parameters_of(WEIGHTS, MEANS, COVARIANCES)),
        "nnx": Quadratic([1.0, 2.0, 0.5]),
        "pytree": Cubic(jnp.asarray(1.5)),
    }


@pytest.fixture(params=["function", "partial", "nnx", "pytree"])
def any_prior(request):
    return disco.EnergyDistribution(energies()[request.param], reference(), names=NAMES)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (0,)])
def test_shapes_follow_the_points(any_prior, batch):
    x = jax.random.normal(KEY, (*batch, 3))
    assert any_prior.log_prob(x).shape == batch
    assert any_prior.energy(x).shape == batch
    assert any_prior.score(x).shape == (*batch, 3)
    np.testing.assert_array_equal(any_prior.log_prob(x), -any_prior.energy(x))


def test_a_batch_is_its_points_one_by_one(any_prior):
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


def test_a_constant_in_the_energy_changes_no_score(mixture):
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


# -- clamping ----------------------------------------------------------------------------------


def test_clamp_by_mapping_and_by_array_agree(any_prior):
    by_name = any_prior.clamp({"b": 0.7})
    by_array = any_prior.clamp(np.array([np.nan, 0.7, np.nan]))
    assert by_name.observed == by_array.observed == (False, True, False)
    # In float64, as a user has them: the support must not miss its own value by rounding.
    x = np.random.default_rng(0).normal(size=(4, 3))
    x[:, 1] = 0.7
    assert by_name.support(x).all()
    np.testing.assert_array_equal(by_name.log_prob(x), by_array.log_prob(x))
    np.testing.assert_array_equal(by_name.log_prob(x), -any_prior.energy(x))
    # Energies are read at the clamped values, whatever stands in that place of x.
    elsewhere = np.where(np.arange(3) == 1, 99.0, x)
    np.testing.assert_array_equal(by_name.energy(x), by_name.energy(elsewhere))
    with pytest.warns(UserWarning, match="support"):
        assert (by_name.log_prob(elsewhere) == -np.inf).all()
    assert by_name.event_shape == (3,) and by_name.names == NAMES


def test_the_reduced_energy_and_what_is_observed_make_the_full_energy(any_prior):
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
    # One point broadcasts against the values of the batch, which win in an energy.
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


def test_clamping_nothing_is_no_change(mixture):
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
        ({0: 0.3}, "names 0, which is not a coordinate"),
        ({"a": 1, "b": 2, "c": 3}, "at least one free coordinate"),
        (np.zeros(3), "at least one free coordinate"),
        (np.array([[1, np.nan, np.nan], [np.nan, 1, np.nan]]), "same coordinates"),
        (np.zeros(2), r"last axis of 3 for `observed`.*got shape \(2,\)"),
        (0.5, r"last axis of 3 for `observed`.*got shape \(\)"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "one batch shape"),
        ({"a": np.inf}, "infinity"),
        ({"a": "high"}, "Expected numbers in `observed`"),
    ],
)
def test_clamping_to_what_makes_no_sense(mixture, observed, message):
    with pytest.raises(ValueError, match=message):
        mixture.clamp(observed)


def test_clamping_the_last_free_coordinate(mixture):
    with pytest.raises(ValueError, match="at least one free coordinate"):
        mixture.clamp({"a": 0.0, "b": 0.0}).clamp({"c": 0.0})


def test_points_with_the_wrong_last_axis(mixture):
    for x in (jnp.zeros(2), jnp.zeros((3, 4)), jnp.zeros(())):
        with pytest.raises(ValueError, match=r"last axis of 3.*\('a', 'b', 'c'\).*got shape"):
            mixture.log_prob(x)


# -- tempering ---------------------------------------------------------------------------------


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
    # What was known of Z is not known of Z_b.
    assert prior.replace(log_normalizer=jnp.zeros(())).temper(2.0).log_normalizer is None


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, "hot"])
def test_tempering_by_what_is_no_inverse_temperature(mixture, value):
    with pytest.raises(ValueError, match="positive.*`inverse_temperature`"):
        mixture.temper(value)


def test_cooling_is_tempering_by_the_ratio_of_squares():
    prior = disco.EnergyDistribution(skewed, reference(), names=NAMES, noise_scale=0.1)
    x = jax.random.normal(KEY, (5, 3))
    cooled = prior.cool(0.05)
    np.testing.assert_allclose(cooled.energy(x), prior.temper(4.0).energy(x), rtol=1e-5)
    np.testing.assert_allclose(cooled.noise_scale, 0.05, rtol=1e-6)
    # Two steps make the whole way.
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


# -- normalising -------------------------------------------------------------------------------


def assert_normalizer(prior, truth, label):
    """The estimate against a closed form, by the standard error that it reports itself."""
    assert_within(
        prior.log_normalizer,
        truth,
        prior.log_normalizer_error,
        resolution=5 * 0.05,
        label=label,
    )


@pytest.fixture(scope="module")
def normalized(mixture):
    return mixture.normalize(KEY)


def test_log_z_of_a_gaussian_and_of_a_mixture(gaussian, normalized):
    assert_normalizer(gaussian.normalize(KEY), LOG_NORMALIZER, "Gaussian")
    assert_normalizer(normalized, LOG_NORMALIZER, "mixture")
    # The broken twin: an energy that has lost its factor 1/2.
    with pytest.raises(AssertionError, match="is off"):
        assert_normalizer(gaussian.temper(2.0).normalize(KEY), LOG_NORMALIZER, "no 1/2")


def test_log_z_of_a_tempered_gaussian(gaussian):
    # Z_b = integral of Z^b N^b, in closed form; and N(x; m, C) / b is what the reference becomes.
    b = 0.5
    log_det = np.linalg.slogdet(COVARIANCE)[1]
    truth = -0.5 * b * log_det + 0.5 * (log_det + 3 * np.log(2 * np.pi / b))
    assert_normalizer(gaussian.temper(b).normalize(KEY), truth, "tempered")


def test_a_constant_moves_log_z_and_no_normalised_density(normalized):
    shifted = prior_of(offset=37.0).normalize(KEY)
    x = jax.random.normal(KEY, (6, 3))
    error = jnp.hypot(shifted.log_normalizer_error, normalized.log_normalizer_error)
    difference = shifted.log_prob(x) - normalized.log_prob(x)
    assert_within(difference, 0.0, error, resolution=0.25, label="normalised log density")
    unnormalized = prior_of(offset=37.0).log_prob(x) - normalized.log_prob(x)
    with pytest.raises(AssertionError, match="is off"):
        assert_within(unnormalized, 0.0, error, resolution=0.25, label="constant kept")


def test_normalised_log_prob(mixture, normalized):
    x = jax.random.normal(KEY, (6, 3))
    expected = mixture.log_prob(x) - normalized.log_normalizer
    np.testing.assert_allclose(normalized.log_prob(x), expected, rtol=1e-6)
    assert mixture.log_normalizer is None
    # A conditional of a normalised density is not normalised.
    assert normalized.clamp({"a": 0.0}).log_normalizer is None


def test_a_clamped_normaliser_integrates_over_the_free_coordinates(mixture, gaussian):
    values = np.array([-0.5, 1.5])
    # Two rows of eight runs are the compiled program of one row of sixteen.
    clamped = mixture.clamp({"b": values}).normalize(KEY, num_runs=8)
    assert clamped.log_normalizer.shape == clamped.log_normalizer_error.shape == (2,)
    truth = LOG_NORMALIZER + mixture_log_marginal(values[:, None], [1])
    assert_normalizer(clamped, truth, "clamped mixture")
    # The joint's normaliser in place of the conditional's is the mistake this would hide.
    with pytest.raises(AssertionError, match="is off"):
        assert_normalizer(clamped, np.full(2, LOG_NORMALIZER), "joint in place of marginal")

    step = 0.1
    axis = np.arange(-10.0, 10.0, step)
    a, c = np.meshgrid(axis, axis, indexing="ij")
    for index, value in enumerate(values):
        one = mixture.clamp({"b": value}).replace(
            log_normalizer=clamped.log_normalizer[index],
            log_normalizer_error=clamped.log_normalizer_error[index],
        )
        density = np.exp(one.log_prob(np.stack([a, np.full_like(a, value), c], axis=-1)))
        total = density.sum() * step**2
        error = float(one.log_normalizer_error) * total
        assert_within(total, 1.0, error, resolution=0.25, label="mass on a grid")
        with pytest.raises(AssertionError, match="is off"):
            assert_within(total / step, 1.0, error, resolution=0.25, label="cell forgotten")


def test_normalisers_of_clamped_and_joint_give_the_marginal(gaussian):
    joint = gaussian.normalize(KEY)
    clamped = gaussian.clamp({"a": 1.0}).normalize(jax.random.fold_in(KEY, 1))
    estimate = float(clamped.log_normalizer - joint.log_normalizer)
    error = float(jnp.hypot(clamped.log_normalizer_error, joint.log_normalizer_error))
    truth = gaussian_log_density(np.array([1.0]), MEAN[:1], COVARIANCE[:1, :1])
    assert_within(estimate, truth, error, resolution=0.25, label="log marginal")
    with pytest.raises(AssertionError, match="is off"):
        assert_within(-estimate, truth, error, resolution=0.25, label="sign")


def test_normalising_needs_runs_and_a_key(mixture):
    with pytest.raises(ValueError, match="at least 2 for `num_runs`"):
        mixture.normalize(KEY, num_runs=1)
    with pytest.raises(ValueError, match="random key"):
        mixture.normalize(None)


# -- draws -------------------------------------------------------------------------------------


def repeated_moments(prior, num_repeats=REPEATS):
    """Mean and second moments of draws, with standard errors from runs of different keys.

    Draws of one run share ancestors, so their spread would understate the error of their mean.
    """
    moments = []
    for index in range(num_repeats):
        x = np.asarray(prior.sample(jax.random.fold_in(KEY, index), (1000,)), float)
        assert x.shape == (1000, 3)
        square = x[:, :, None] * x[:, None, :]
        moments.append(np.concatenate([x.mean(0), square.mean(0)[np.triu_indices(3)]]))
    return np.mean(moments, 0), np.std(moments, 0, ddof=1) / np.sqrt(num_repeats)


def true_moments():
    second = COVARIANCES + MEANS[:, :, None] * MEANS[:, None, :]
    second = np.einsum("k,kij->ij", WEIGHTS, second)
    return np.concatenate([WEIGHTS @ MEANS, second[np.triu_indices(3)]])


def assert_moments(prior):
    estimate, error = repeated_moments(prior)
    assert_within(
        estimate, true_moments(), error, resolution=0.4, sigmas=SIGMAS, label="moments of draws"
    )


def test_moments_of_draws(mixture):
    assert_moments(mixture)


def test_the_check_of_moments_sees_wrong_masses_and_a_lost_half(mixture):
    with pytest.raises(AssertionError, match="is off"):
        assert_moments(prior_of(weights=WEIGHTS[::-1]))
    with pytest.raises(AssertionError, match="is off"):
        assert_moments(mixture.temper(2.0))


def test_a_constant_in_the_energy_changes_no_draws():
    # In law: a rounding that flips one ancestor moves every later particle to another slot, so
    # draws of the same key need not be the same one by one.
    assert_moments(prior_of(offset=37.0))


def test_shapes_of_draws(mixture):
    grid = mixture.clamp({"b": np.array([-1.0, 1.0])}).sample(KEY, (2, 3))
    assert grid.shape == (2, 3, 2, 3)
    np.testing.assert_array_equal(grid[..., 0, 1], -1.0)
    np.testing.assert_array_equal(grid[..., 1, 1], 1.0)
    # Every draw is another one.
    assert len(np.unique(np.asarray(grid)[..., 0, 0])) == 6


def test_one_draw_with_a_legacy_key(mixture):
    draw = mixture.sample(jax.random.PRNGKey(0))
    assert draw.shape == (3,) and np.isfinite(draw).all()


def test_no_draws_are_an_empty_array_as_for_other_distributions(mixture):
    assert mixture.sample(KEY, (0,)).shape == (0, 3)


def test_drawing_without_a_key_says_so(mixture):
    with pytest.raises(ValueError, match="Expected a random key; got None.*`seed`"):
        mixture.sample(None)


@pytest.fixture(scope="module")
def compiled_sample():
    return jax.jit(lambda prior, key: prior.sample(key, (1000,)))


def test_draws_inside_a_compiled_function(mixture, compiled_sample):
    inside = compiled_sample(mixture, KEY)
    outside = mixture.sample(KEY, (1000,))
    assert np.isclose(inside, outside, atol=1e-2).all(-1).mean() > 0.9


def test_a_target_out_of_reach_raises_outside_and_is_nan_inside(compiled_sample):
    # Only a ball around the reference's mean, far smaller than draws of it ever hit.
    walled = prior_of(wall=1e-3)
    with pytest.raises(RuntimeError, match=r"1 of 1 conditionals.*-infinity.*Widen the reference"):
        walled.sample(KEY, (1000,))
    assert np.isnan(compiled_sample(walled, KEY)).all()
    with pytest.raises(RuntimeError, match="Widen the reference"):
        walled.normalize(KEY)


def test_an_energy_that_is_nan_far_out_gives_no_nan_silently():
    # No trial point of the constructor falls there, yet particles may: a run that meets it
    # has to say so, and no draw may be NaN.
    prior = prior_of(cliff=11.0)
    outcomes = []
    for index in range(5):
        try:
            draws = prior.sample(jax.random.fold_in(KEY, index), (1000,))
        except RuntimeError as error:
            assert "NaN" in str(error) and "narrow the reference" in str(error)
            outcomes.append("raised")
        else:
            assert np.isfinite(draws).all()
    assert outcomes, "no run met the NaN: the test has lost its point"


# -- laws of pytrees ---------------------------------------------------------------------------


def test_flattening_is_undone(any_prior):
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
    # A plain function has none; the others do.
    num_weights = len(jax.tree.leaves(any_prior.energy_fn))
    assert (num_weights == 0) == (
        any_prior.energy_fn.__class__ is jax.tree_util.Partial
        and any_prior.energy_fn.func is skewed
    )


@pytest.mark.parametrize("kind", ["partial", "nnx", "pytree"])
def test_new_weights_compile_nothing_anew(kind):
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


def test_validation_refuses_points_off_the_support():
    prior = disco.EnergyDistribution(skewed, reference(), names=NAMES, validate_args=True)
    with pytest.warns(UserWarning, match="support"):
        prior.log_prob(jnp.array([jnp.inf, 0.0, 0.0]))


def test_a_hole_has_no_density():
    with pytest.raises(ValueError, match="without NaN.*`numpyro_disco.sample"):
        prior_of().log_prob(jnp.array([jnp.nan, 0.0, 0.0]))


# -- the guard: no normaliser may depend on what is inferred -----------------------------------

X = jnp.array([0.1, 0.2, 0.3])
GUARD = r"being inferred.*Keep one joint site"


def through_clamp(prior, value):
    return prior.clamp({"a": value}).log_prob(X.at[0].set(value))


def through_temper(prior, value):
    return prior.temper(value).log_prob(X)


def through_weights(prior, value):
    leaves, rebuild = ravel_pytree(prior.energy_fn)
    return prior.replace(energy_fn=rebuild(leaves * value)).log_prob(X)


def through_normalizer(prior, value):
    return prior.replace(log_normalizer=value).log_prob(X)


def through_vmap(prior, value):
    return jax.vmap(lambda v: prior.clamp({"a": v}).log_prob(X.at[0].set(v)))(
        value * jnp.ones(2)
    ).sum()


def through_scan(prior, value):
    return jax.lax.scan(
        lambda total, _: (total + prior.clamp({"a": value}).log_prob(X.at[0].set(value)), None),
        0.0,
        None,
        2,
    )[0]


@pytest.mark.parametrize(
    "path",
    [
        through_clamp,
        through_temper,
        through_weights,
        through_normalizer,
        through_vmap,
        through_scan,
    ],
)
def test_differentiating_through_what_z_depends_on_raises(mixture, path):
    value = jnp.asarray(0.5)
    along = partial(path, mixture)
    assert np.isfinite(along(value))
    for program in (
        jax.grad(along),
        jax.jit(jax.grad(along)),
        jax.grad(jax.jit(along)),
        jax.jacfwd(along),
    ):
        with pytest.raises(ValueError, match=GUARD):
            program(value)


def test_the_guard_lets_points_and_weights_of_energies_through(mixture):
    clamped = mixture.clamp({"a": X[0]})
    gradient = jax.jit(jax.grad(clamped.log_prob))(X)
    np.testing.assert_allclose(gradient, clamped.score(X), rtol=1e-5)
    assert np.isfinite(jax.hessian(clamped.log_prob)(X)).all()
    weights, rebuild = ravel_pytree(mixture.energy_fn)

    def energy(weights):
        return mixture.replace(energy_fn=rebuild(weights)).energy(X)

    by_weights = jax.grad(energy)(weights)
    assert np.isfinite(by_weights).all() and (by_weights != 0).any()


def test_the_guard_speaks_from_within_nuts(mixture):
    def clamped_to_a_latent():
        z = numpyro.sample("z", dist.Normal())
        disco.sample("x", mixture.clamp({"a": z}))

    def tempered_by_a_latent():
        b = numpyro.sample("b", dist.LogNormal())
        numpyro.sample("x", mixture.temper(b))

    for model in (clamped_to_a_latent, tempered_by_a_latent):
        mcmc = MCMC(NUTS(model), num_warmup=2, num_samples=2, progress_bar=False)
        with pytest.raises(ValueError, match=GUARD):
            mcmc.run(KEY)


# -- energies and references that cannot be ----------------------------------------------------


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
        # Nothing can be differentiated: better said here than by a sampler's gradient.
        (lambda x: (x > 0).sum(), "floating|real number"),
        (lambda x: x[0] > 0, "floating|real number"),
        (3.0, "Expected a function for `energy_fn`; got 3.0"),
    ],
    ids=["vector", "length-one", "tuple", "nan", "-inf", "half-nan", "inf", "int", "bool", "none"],
)
def test_energies_that_cannot_be(energy, message):
    with pytest.raises(ValueError, match=message):
        disco.EnergyDistribution(energy, reference())


def test_an_energy_may_be_infinite_somewhere():
    prior = disco.EnergyDistribution(lambda x: jnp.where(x[0] > 0, x @ x, jnp.inf), reference())
    assert prior.log_prob(jnp.array([-1.0, 0.0, 0.0])) == -jnp.inf


def test_references_that_cannot_be(mixture):
    wrong = dist.MultivariateNormal(jnp.zeros(3), jnp.eye(3))
    with pytest.raises(ValueError, match="`GaussianReference` or a `MixtureReference`.*Multivari"):
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
        (("a", "b", "c/d"), "without '/'"),
        (("a", "b", 3), "non-empty strings"),
    ],
)
def test_names_that_cannot_be(names, message):
    with pytest.raises(ValueError, match=message):
        disco.EnergyDistribution(skewed, reference(), names=names)
