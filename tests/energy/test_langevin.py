import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.statistics import assert_within, mean_and_error, moments

import numpyro_disco as disco
from numpyro_disco.energy.learned import Learned, LearnedEnergy
from numpyro_disco.energy.score_function import ScoreFunction
from numpyro_disco.tables.variable import Variable
from numpyro_disco.tables.variables import Variables

SHAPE = (1, 3)
MEAN = np.array([1.0, -2.0, 0.5])
COVARIANCE = np.array([[1.0, 0.6, 0.1], [0.6, 2.0, -0.3], [0.1, -0.3, 0.5]])
PRECISION = jnp.asarray(np.linalg.inv(COVARIANCE))
GIVEN = np.array([[np.nan, 0.0, np.nan]])


def gaussian_energy(x, slip=1.0):
    return 0.5 * slip * (x - MEAN) @ PRECISION @ (x - MEAN)


def prior(slip=1.0, **settings):
    reference = disco.GaussianReference(MEAN, 2 * COVARIANCE)
    energy = jax.tree_util.Partial(gaussian_energy, slip=jnp.asarray(slip))
    scale = np.sqrt(np.diag(COVARIANCE))
    vector = disco.EnergyDistribution(energy, reference, scale=scale, **settings)
    return vector.over(Variables((Variable("", SHAPE),)))


def conditional():
    """Mean (2,) and covariance (2, 2) of the free elements given the middle one."""
    free = [0, 2]
    gain = COVARIANCE[free, 1] / COVARIANCE[1, 1]
    covariance = COVARIANCE[np.ix_(free, free)] - np.outer(gain, COVARIANCE[1, free])
    return MEAN[free] + gain * (0.0 - MEAN[1]), covariance


def check_conditional_moments(draws):
    free = np.asarray(draws)[:, 0, [0, 2]]
    np.testing.assert_array_equal(np.asarray(draws)[:, 0, 1], 0.0)
    mean, covariance = conditional()
    exact = np.random.default_rng(0).multivariate_normal(mean, covariance, 400_000)
    # A Gaussian: coordinates and products of pairs say all, the cubes that follow say nothing new.
    truth = moments(exact).mean(0)[:5]
    estimate, error = mean_and_error(moments(free)[:, :5])
    assert_within(estimate, truth, error, resolution=0.6)


def test_metropolis_corrected_draws_have_the_moments_of_the_conditional():
    sampler = disco.Langevin(num_steps=200, step_size=0.8, metropolis=True)
    draws = disco.sample_langevin(jax.random.key(0), prior(), 2000, observed=GIVEN, sampler=sampler)
    assert draws.shape == (2000, *SHAPE)
    check_conditional_moments(draws)


def test_arrays_of_a_stack_may_observe_different_elements():
    stack = np.stack([GIVEN, np.array([[0.3, np.nan, np.nan]])])
    sampler = disco.Langevin(num_steps=200, step_size=0.8, metropolis=True)
    draws = disco.sample_langevin(jax.random.key(0), prior(), 1000, observed=stack, sampler=sampler)
    assert draws.shape == (1000, 2, *SHAPE)
    check_conditional_moments(draws[:, 0])
    np.testing.assert_array_equal(np.asarray(draws)[:, 1, 0, 0], np.float32(0.3))
    assert np.asarray(draws)[:, 1, 0, 1:].std(0).min() > 0.1


def test_uncorrected_draws_with_large_steps_do_not():
    # The broken twin: no Metropolis correction.
    sampler = disco.Langevin(num_steps=200, step_size=1.2)
    draws = disco.sample_langevin(jax.random.key(0), prior(), 2000, observed=GIVEN, sampler=sampler)
    with pytest.raises(AssertionError, match="is off"):
        check_conditional_moments(draws)


def check_joint_moments(draws):
    deviation = np.sqrt(np.diag(COVARIANCE))
    standard = (np.asarray(draws, np.float64).reshape(-1, 3) - MEAN) / deviation
    correlation = COVARIANCE / np.outer(deviation, deviation)
    truth = np.concatenate([np.zeros(3), correlation[np.triu_indices(3)]])
    estimate, error = mean_and_error(moments(standard)[:, :9])
    assert_within(estimate, truth, error, resolution=0.3)


def test_annealed_draws_end_at_the_density():
    sampler = disco.AnnealedLangevin(num_steps=400, step_size=0.3)
    draws = disco.sample_langevin(jax.random.key(0), prior(), 1500, sampler=sampler)
    # The steps at the end leave a bias of the order of their square, within the errors.
    check_joint_moments(draws)
    # The broken twin: elements that are independent, as at the start.
    alone = np.random.default_rng(0).permuted(np.asarray(draws), axis=0)
    with pytest.raises(AssertionError, match="is off"):
        check_joint_moments(alone)


def test_heun_flow_ends_near_the_data():
    # One point as the data: the denoiser is constant, and the flow goes straight to it.
    def energy(x):
        return 0.5 * (((x - MEAN) / 0.1) ** 2).sum()

    reference = disco.GaussianReference(MEAN, 0.04 * np.eye(3))
    target = disco.EnergyDistribution(energy, reference, scale=np.ones(3), noise_scale=0.1)
    draws = disco.sample_langevin(jax.random.key(0), target, 5, sampler=disco.Heun())
    np.testing.assert_allclose(draws, np.broadcast_to(MEAN, (5, 3)), atol=1e-3)


def test_heun_needs_noise_of_the_same_size_in_each_unit():
    reference = disco.GaussianReference(MEAN, COVARIANCE)
    lower = jnp.asarray(np.linalg.cholesky(COVARIANCE), jnp.float32)
    model = LearnedEnergy({}, reference, jnp.zeros(3), lower, jnp.zeros(()), None)
    score = ScoreFunction(model, jnp.zeros(3), jnp.ones(3), SHAPE, 0.1)
    with pytest.raises(ValueError, match="whiten=False"):
        disco.sample_langevin(jax.random.key(0), score, sampler=disco.Heun())
    score = dataclasses.replace(score, model=dataclasses.replace(model, whitener=jnp.eye(3)))
    with pytest.raises(ValueError, match="more than the smoothing 0.1"):
        disco.sample_langevin(jax.random.key(0), score, sampler=disco.Heun(max_noise_scale=0.1))
    score = dataclasses.replace(score, noise_scale=None)
    with pytest.raises(ValueError, match="learned with `disco.Disco"):
        disco.sample_langevin(jax.random.key(0), score, sampler=disco.Heun())


def test_a_score_without_a_density_checks_its_points():
    score = ScoreFunction(None, jnp.zeros(3), jnp.ones(3), SHAPE, 0.1)
    with pytest.raises(ValueError, match=r"last axes are \(1, 3\)"):
        score.score(np.zeros((3, 1)))
    for observed, message in (({"a": 1.0}, "a mapping"), (np.full(SHAPE, np.inf), "finite")):
        with pytest.raises(ValueError, match=message):
            disco.sample_langevin(jax.random.key(0), score, observed=observed)


def test_a_mask_says_what_is_not_observed():
    @dataclasses.dataclass(frozen=True)
    class Standard(Learned):
        def score(self, z):
            return -z

    jax.tree_util.register_dataclass(
        Standard,
        data_fields=["weights", "reference", "loc", "whitener", "log_det", "smoothed"],
        meta_fields=["graph"],
    )
    reference = disco.GaussianReference(np.zeros(3), np.eye(3))
    model = Standard({}, reference, jnp.zeros(3), jnp.eye(3), jnp.zeros(()), None)
    score = ScoreFunction(model, jnp.zeros(3), jnp.ones(3), SHAPE, None)
    observed = np.ma.masked_array([[7.0, 0.5, 7.0]], [[True, False, True]])
    sampler = disco.Langevin(num_steps=2)
    draws = disco.sample_langevin(jax.random.key(0), score, 2, observed=observed, sampler=sampler)
    assert (np.asarray(draws)[:, 0, 1] == 0.5).all() and (np.asarray(draws)[:, 0, 0] != 7).all()
    stack = np.ma.stack([observed, observed, observed])
    draws = disco.sample_langevin(jax.random.key(0), score, 2, observed=stack, sampler=sampler)
    assert draws.shape == (2, 3, *SHAPE) and (np.asarray(draws)[..., 1] == 0.5).all()
    with pytest.raises(ValueError, match="a stack of such arrays"):
        disco.sample_langevin(jax.random.key(0), score, observed=stack[None])


def test_annealing_starts_at_one_or_below():
    with pytest.raises(ValueError, match="at most 1 for `lowest`"):
        disco.AnnealedLangevin(lowest=5.0)


def test_what_needs_a_density_or_a_smoothing_says_so():
    score = ScoreFunction(None, jnp.zeros(3), jnp.ones(3), SHAPE, 0.1)
    corrected = disco.Langevin(metropolis=True)
    with pytest.raises(ValueError, match="a score network, which has none"):
        disco.sample_langevin(jax.random.key(0), score, sampler=corrected)
    with pytest.raises(ValueError, match="learned with `disco.Disco"):
        disco.sample_langevin(jax.random.key(0), prior(), sampler=disco.Heun())
    with pytest.raises(ValueError, match="for `sampler`"):
        disco.sample_langevin(jax.random.key(0), prior(), sampler="heun")
    with pytest.raises(ValueError, match="for `target`"):
        disco.sample_langevin(jax.random.key(0), gaussian_energy)
    with pytest.raises(ValueError, match="last axes are"):
        disco.sample_langevin(jax.random.key(0), prior(), observed=np.zeros(3))
