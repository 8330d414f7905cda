"""TemperedSMC on published problems whose answers are known.

The default suite runs two of the problems; the others are run before a release.
"""

import jax
import numpy as np
import pytest
from helpers import reference_models as models
from helpers.statistics import assert_within, mean_and_error
from helpers.two_sample import two_sample_accuracy
from scipy.stats import multivariate_normal

import numpyro_disco as disco

pytestmark = pytest.mark.statistics

RUNS, PARTICLES = 20, 1000
LOWEST, HIGHEST = 0.48, 0.55


class Sampler:
    """Runs one model with any arguments of the same shapes, compiled once."""

    def __init__(self, model, *args, num_particles=PARTICLES):
        self.smc = disco.TemperedSMC(
            model, num_particles=num_particles, num_chains=RUNS, progress_bar=False
        )
        self.log_evidence, self.draws = self.run(*args)

    def run(self, *args, seed=0):
        """Log evidence of each run, (RUNS,), and draws by site, (RUNS, PARTICLES, ...)."""
        self.smc.run(jax.random.key(seed), *(np.asarray(a, np.float32) for a in args))
        draws = self.smc.get_samples(group_by_chain=True)
        draws = {name: np.asarray(value, np.float64) for name, value in draws.items()}
        return np.asarray(self.smc.log_normalizer, np.float64), draws


def check_evidence(estimates, truth, label):
    """Check mean(Z-hat / Z) = 1 within 5 standard errors of independent runs, at most 0.25."""
    mean, error = mean_and_error(np.exp(estimates - truth))
    print(f"{label}: Z-hat / Z = {mean:.4f} +- {error:.4f}; log Z = {truth:.4f}")
    assert_within(mean, 1.0, error, resolution=0.25, label=f"{label}: Z-hat / Z")


def check_moments(draws, truth, label, resolution=0.15):
    """Check the mean and variance of each coordinate, in units of the posterior's deviation.

    An error of `resolution` in a deviation is an error of twice that in its square.
    """
    for name in truth.mean:
        u = (draws[name] - truth.mean[name]) / truth.deviation[name]
        u = u.reshape(*u.shape[:2], -1)
        for power, expected in (1, 0.0), (2, 1.0):
            mean, error = mean_and_error((u**power).mean(1))
            z = (mean - expected) / error
            worst = np.abs(z).argmax()
            print(
                f"{label}, {name}: moment {power}, worst error {mean[worst] - expected:.4f} "
                f"+- {error[worst]:.4f}, mean z {z.mean():.1f}"
            )
            # Exceeding 7.4 standard errors from 20 runs is as rare as exceeding 5 known ones.
            assert_within(
                mean,
                expected,
                error,
                resolution=power * resolution,
                sigmas=7.4,
                label=f"{label}: {name}, moment {power}",
            )


def accuracy(draws, exact, observation, label):
    """Classifier accuracy on every other particle, because neighbours often share an ancestor."""
    draws = draws["theta"][:, ::2].reshape(-1, 2)
    result = two_sample_accuracy(draws, exact(np.random.default_rng(0), observation, len(draws)))
    print(f"{label}: classifier two-sample test {result:.4f} on {len(draws)} draws of each")
    return result


def check_shares(sampler, args, exact, observation, shares, label, resolution=0.03):
    """Compare the shares of draws in some regions with those of exact draws, over 100 runs.

    A classifier averages over all draws and is insensitive to the mass of a mode.
    """
    runs = np.concatenate([shares(sampler.run(*args, seed=seed)[1]["theta"]) for seed in range(5)])
    mean, error = mean_and_error(runs)
    many = 1_000_000
    truth = shares(exact(np.random.default_rng(0), observation, many)[None])[0]
    error = np.sqrt(error**2 + truth * (1 - truth) / many)
    print(f"{label}: shares {mean.round(4)} +- {error.round(4)}, exact {truth.round(4)}")
    assert_within(mean, truth, error, resolution=resolution, label=f"{label}: shares")


# -- a Gaussian prior and a Gaussian likelihood --------------------------------------------------

LINEAR = models.gaussian_linear_truth(models.LINEAR_OBSERVATION)


@pytest.fixture(scope="module")
def linear():
    return Sampler(models.gaussian_linear, models.LINEAR_OBSERVATION, 0.1)


def test_gaussian_linear(linear):
    assert LINEAR.log_evidence == pytest.approx(-8.0706, abs=5e-5)
    check_evidence(linear.log_evidence, LINEAR.log_evidence, "linear")
    check_moments(linear.draws, LINEAR, "linear")


def test_gaussian_linear_with_a_variance_taken_for_a_deviation_fails(linear):
    log_evidence, draws = linear.run(models.LINEAR_OBSERVATION, 0.1**2)
    with pytest.raises(AssertionError, match="is off"):
        check_evidence(log_evidence, LINEAR.log_evidence, "linear, broken")
    with pytest.raises(AssertionError, match="is off"):
        check_moments(draws, LINEAR, "linear, broken")


# -- two Gaussians of one mean -------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixture():
    return Sampler(models.gaussian_mixture, models.MIXTURE_OBSERVATION, models.MIXTURE_SCALES)


def mixture_accuracy(draws, label):
    return accuracy(draws, models.gaussian_mixture_draws, models.MIXTURE_OBSERVATION, label)


def test_gaussian_mixture(mixture):
    truth = models.gaussian_mixture_log_evidence(models.MIXTURE_OBSERVATION)
    check_evidence(mixture.log_evidence, truth, "mixture")
    assert LOWEST < mixture_accuracy(mixture.draws, "mixture") < HIGHEST


def test_gaussian_mixture_with_a_narrow_component_twice_as_wide_fails(mixture):
    _, draws = mixture.run(models.MIXTURE_OBSERVATION, [1.0, 0.2])
    assert mixture_accuracy(draws, "mixture, broken") > HIGHEST


def near_and_far(theta):
    """Shares of draws within reach of the narrow component and far outside it, (runs, 2)."""
    distance = np.linalg.norm(theta - models.MIXTURE_OBSERVATION, axis=-1)
    return np.stack([(distance < 0.25).mean(1), (distance > 1.5).mean(1)], axis=1)


def check_mixture_shares(mixture, scales, label):
    args = models.MIXTURE_OBSERVATION, scales
    exact = models.gaussian_mixture_draws
    check_shares(mixture, args, exact, models.MIXTURE_OBSERVATION, near_and_far, label)


@pytest.mark.slow
def test_components_of_the_gaussian_mixture_have_their_shares(mixture):
    check_mixture_shares(mixture, models.MIXTURE_SCALES, "mixture")
    with pytest.raises(AssertionError, match="is off"):
        check_mixture_shares(mixture, [1.0, 0.2], "mixture, broken")


# -- two moons -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moons():
    return Sampler(models.two_moons, models.MOONS_OBSERVATION, models.MOONS_RADIUS)


def moons_accuracy(draws, label):
    return accuracy(draws, models.two_moons_draws, models.MOONS_OBSERVATION, label)


def test_crescent_has_mass_one():
    step = 1 / 2000
    axes = np.meshgrid(np.arange(0.25, 0.41, step), np.arange(-0.16, 0.16, step))
    density = np.exp(models.crescent_log_density(np.stack(axes, -1) + step / 2, 0.1))
    assert density.sum(dtype=float) * step**2 == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_two_moons(moons):
    truth = models.two_moons_log_evidence(models.MOONS_OBSERVATION)
    check_evidence(moons.log_evidence, truth, "two moons")
    assert LOWEST < moons_accuracy(moons.draws, "two moons") < HIGHEST


@pytest.mark.slow
def test_two_moons_with_a_radius_off_by_half_its_spread_fails(moons):
    _, draws = moons.run(models.MOONS_OBSERVATION, 0.105)
    assert moons_accuracy(draws, "two moons, broken") > HIGHEST


def one_moon_and_tips(theta):
    """Shares of draws in one moon and in the outer quarters of both, (runs, 2)."""
    along, across = theta[..., 0] + theta[..., 1], theta[..., 1] - theta[..., 0]
    x = models.MOONS_OBSERVATION
    u = x[0] + np.abs(along) / 2**0.5 - models.MOONS_SHIFT
    v = x[1] - across / 2**0.5
    return np.stack([(along > 0).mean(1), (np.abs(v) > u).mean(1)], axis=1)


def check_moons_shares(moons, observation, label):
    args, exact = (observation, models.MOONS_RADIUS), models.two_moons_draws
    # The share of a whole mode varies most between runs.
    check_shares(moons, args, exact, models.MOONS_OBSERVATION, one_moon_and_tips, label, 0.05)


@pytest.mark.slow
def test_two_moons_and_their_tips_have_their_shares(moons):
    check_moons_shares(moons, models.MOONS_OBSERVATION, "two moons")
    # For another observation the tips are elsewhere.
    with pytest.raises(AssertionError, match="is off"):
        check_moons_shares(moons, models.MOONS_OBSERVATION + [0.02, 0.0], "two moons, broken")


# -- a random walk observed at its two ends ------------------------------------------------------


def test_truth_of_a_walk_of_known_scales():
    """The truth agrees with a Gaussian of 30 dimensions that is conditioned directly."""
    step, noise = models.BROWNIAN_SCALES
    seen = models.BROWNIAN_SEEN
    prior = step**2 * np.minimum.outer(np.arange(1, 31), np.arange(1, 31))
    covariance = prior[np.ix_(seen, seen)] + noise**2 * np.eye(20)
    gain = prior[:, seen] @ np.linalg.inv(covariance)
    y = models.BROWNIAN_OBSERVATION
    truth = models.brownian_motion_truth(y, models.BROWNIAN_SCALES)
    expected = multivariate_normal.logpdf(y, cov=covariance)
    assert truth.log_evidence == pytest.approx(expected, rel=1e-10)
    assert truth.log_evidence == pytest.approx(5.6130, abs=5e-5)
    np.testing.assert_allclose(truth.mean["walk"], gain @ y)
    variance = np.diagonal(prior - gain @ prior[seen])
    np.testing.assert_allclose(truth.deviation["walk"], np.sqrt(variance))


def test_quadrature_over_the_scales_of_a_walk_has_converged():
    truth = models.brownian_motion_truth(models.BROWNIAN_OBSERVATION)
    finer = models.brownian_motion_truth(models.BROWNIAN_OBSERVATION, grid=300)
    assert truth.log_evidence == pytest.approx(1.18775, abs=1e-5)
    for value, expected in zip(jax.tree.leaves(truth), jax.tree.leaves(finer), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def check_walk(sampler, scales, label):
    y = models.BROWNIAN_OBSERVATION
    given = [] if scales is None else [scales]
    truth = models.brownian_motion_truth(y, *given)
    check_evidence(sampler.log_evidence, truth.log_evidence, label)
    check_moments(sampler.draws, truth, label)
    log_evidence, draws = sampler.run(y[::-1], *given)
    with pytest.raises(AssertionError, match="is off"):
        check_evidence(log_evidence, truth.log_evidence, f"{label}, backwards")
    with pytest.raises(AssertionError, match="is off"):
        check_moments(draws, truth, f"{label}, backwards")


@pytest.mark.slow
def test_walk_of_known_scales():
    sampler = Sampler(models.brownian_motion, models.BROWNIAN_OBSERVATION, models.BROWNIAN_SCALES)
    check_walk(sampler, models.BROWNIAN_SCALES, "walk of known scales")


@pytest.mark.slow
def test_walk_of_unknown_scales():
    sampler = Sampler(models.brownian_motion, models.BROWNIAN_OBSERVATION, num_particles=4000)
    check_walk(sampler, None, "walk")


# -- eight schools -------------------------------------------------------------------------------

SCHOOLS = models.eight_schools_truth(models.SCHOOL_EFFECTS, models.SCHOOL_ERRORS)


@pytest.fixture(scope="module")
def schools():
    return Sampler(models.eight_schools, models.SCHOOL_EFFECTS, models.SCHOOL_ERRORS)


def test_quadrature_over_the_spread_of_schools_has_converged():
    finer = models.eight_schools_truth(models.SCHOOL_EFFECTS, models.SCHOOL_ERRORS, grid=300)
    assert SCHOOLS.log_evidence == pytest.approx(-36.13082, abs=1e-5)
    for value, expected in zip(jax.tree.leaves(SCHOOLS), jax.tree.leaves(finer), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.slow
def test_eight_schools(schools):
    check_evidence(schools.log_evidence, SCHOOLS.log_evidence, "eight schools")
    check_moments(schools.draws, SCHOOLS, "eight schools")


@pytest.mark.slow
def test_eight_schools_with_variances_taken_for_errors_fail(schools):
    log_evidence, draws = schools.run(models.SCHOOL_EFFECTS, models.SCHOOL_ERRORS**2)
    with pytest.raises(AssertionError, match="is off"):
        check_evidence(log_evidence, SCHOOLS.log_evidence, "eight schools, broken")
    with pytest.raises(AssertionError, match="is off"):
        check_moments(draws, SCHOOLS, "eight schools, broken")
