"""Priors learned from Gaussian random fields of 8 x 8 pixels, against closed form."""

import jax
import numpy as np
import pytest

import numpyro_disco as disco

pytestmark = pytest.mark.training

SIZE, SIGMA, LEVELS = 8, 0.2, (0.2, 0.5, 1.0)
PLACES = np.stack(np.meshgrid(*[np.arange(SIZE)] * 2, indexing="ij"), -1).reshape(-1, 2)
SQUARES = ((PLACES[:, None] - PLACES) ** 2).sum(-1)
COVARIANCE = 0.95 * np.exp(-SQUARES / 8) + 0.05 * np.eye(SIZE**2)


def draw(seed, count):
    factor = np.linalg.cholesky(COVARIANCE)
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, SIZE**2)) @ factor.T).reshape(-1, SIZE, SIZE)


def learned(fields):
    return disco.fit(
        jax.random.key(0),
        fields,
        objective=disco.Disco(noise_scale=SIGMA, max_noise_scale=1.0),
        network=disco.MLP(width=16, num_blocks=1, num_octaves=0),
        num_steps=100,
        batch_size=256,
        progress_bar=False,
    )


@pytest.fixture(scope="module")
def prior():
    return learned(draw(0, 20_000)).distribution


@pytest.fixture(scope="module")
def twin():
    """The broken twin: pixels in random order."""
    rng = np.random.default_rng(1)
    shuffled = rng.permuted(draw(0, 20_000).reshape(-1, SIZE**2), axis=1)
    return learned(shuffled.reshape(-1, SIZE, SIZE)).distribution


def smoothed(prior):
    return COVARIANCE + (SIGMA * float(prior.scale[0])) ** 2 * np.eye(SIZE**2)


def score_errors(prior):
    """Error of the score relative to the exact one, at each level of noise."""
    precision, rng, errors = np.linalg.inv(smoothed(prior)), np.random.default_rng(2), []
    for level in LEVELS:
        x = draw(3, 200)
        x = x + level * float(prior.scale[0]) * rng.normal(size=x.shape)
        exact = -(x.reshape(len(x), -1) @ precision).reshape(x.shape)
        errors.append(np.sqrt(((prior.score(x) - exact) ** 2).mean() / (exact**2).mean()))
    return np.array(errors)


def half_given(prior):
    """One smoothed field whose right half is free, and the exact conditional of that half."""
    covariance = smoothed(prior)
    field = np.linalg.cholesky(covariance) @ np.random.default_rng(4).normal(size=SIZE**2)
    free = np.zeros((SIZE, SIZE), bool)
    free[:, SIZE // 2 :] = True
    free = free.ravel()
    seen = covariance[np.ix_(~free, ~free)]
    gain = np.linalg.solve(seen, covariance[np.ix_(~free, free)]).T
    within = covariance[np.ix_(free, free)] - gain @ covariance[np.ix_(~free, free)]
    values = field[~free]
    log_density = -0.5 * (
        values @ np.linalg.solve(seen, values) + np.linalg.slogdet(2 * np.pi * seen)[1]
    )
    return np.where(free, np.nan, field).reshape(SIZE, SIZE), gain @ values, within, log_density


def evidence(prior, given):
    """Log density of what is given: that of the reference, and means of its weighted draws."""
    reference, values = prior.joint_reference, given.ravel()

    def log_mean_weight(q):
        draws = q.sample(jax.random.key(1), (1000,))
        log_weights = prior.as_vector.log_prob(draws) - reference.log_prob(draws)
        return float(jax.nn.logsumexp(log_weights)) - np.log(1000)

    of_given = log_mean_weight(reference.condition(values))
    return float(reference.marginal_log_prob(values)) + of_given - log_mean_weight(reference)


def conditional_errors(prior):
    """Largest error of a mean in deviations and of a deviation, coverage, and nats of evidence."""
    given, mean, covariance, log_density = half_given(prior)
    draws = disco.sample_conditional(jax.random.key(0), prior, given, num_samples=4000)
    draws = np.asarray(draws)[:, np.isnan(given)]
    deviation = np.sqrt(np.diag(covariance))
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    exact = np.random.default_rng(5).multivariate_normal(mean, covariance, size=2000)
    return {
        "mean": np.abs((draws.mean(0) - mean) / deviation).max(),
        "deviation": np.abs(draws.std(0) / deviation - 1).max(),
        "coverage": ((exact >= low) & (exact <= high)).mean(),
        "evidence": evidence(prior, given) - log_density,
    }


def test_the_score_at_all_levels_of_noise(prior, twin):
    assert score_errors(prior).max() < 0.05
    assert score_errors(twin).min() > 0.2


def test_a_hidden_half_and_the_evidence_of_the_other(prior, twin):
    found, broken = conditional_errors(prior), conditional_errors(twin)
    assert found["mean"] < 0.2 and found["deviation"] < 0.1, found
    assert 0.87 < found["coverage"] < 0.93 and abs(found["evidence"]) < 1, found
    assert broken["deviation"] > 0.3 and abs(broken["evidence"]) > 5, broken
