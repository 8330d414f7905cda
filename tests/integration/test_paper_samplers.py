"""The samplers of examples/paper on one Gaussian, where each has a law in closed form."""

import exact
import jax
import jax.numpy as jnp
import labels
import numpy as np
import processes
import pytest
import samplers
from helpers.linear_gaussian import Affine, GaussianRows
from helpers.statistics import Mixture, assert_within, mean_and_error, moments

MEAN = np.array([0.5, -1.0])
COVARIANCE = np.array([[1.0, 1.5], [1.5, 5.0]])
NUM_DRAWS = 60_000

PROCESSES = {
    "variance exploding": processes.variance_exploding(8, 0.2, 3.0),
    "variance preserving": processes.variance_preserving(8, 0.2),
    "sub-VP": processes.sub_variance_preserving(8, 0.2),
    "DDPM": processes.ddpm(40, smallest=4e-4),
    "straight": processes.straight(8, 0.2),
}
EXPLODING = PROCESSES["variance exploding"]


def rows_under(process):
    """The Gaussian rows in float64, and their denoiser for the samplers."""
    rows = GaussianRows(MEAN, COVARIANCE, *(np.asarray(a, np.float64) for a in process))
    truth = exact.Mixture.of(np.ones(1), MEAN[None], COVARIANCE[None])
    return rows, truth.denoiser(process)


def draws_of(step, process):
    start_key, key = jax.random.split(jax.random.key(0))
    x = process.start(start_key, NUM_DRAWS, 2)
    return jax.jit(lambda x: samplers.descend(key, step, x, process.levels))(x)


def assert_law(draws, mean, covariance, resolution=0.1):
    """Assert that draws are Gaussian with this mean and covariance, by moments up to the third."""
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), (np.asarray(draws) - mean).T).T
    standard = Mixture(np.ones(1), np.zeros((1, len(mean))), np.eye(len(mean))[None])
    estimate, error = mean_and_error(moments(whitened))
    assert_within(estimate, standard.moments, error, resolution=resolution)


def pairs(process):
    levels = np.asarray(process.levels)
    return zip(levels[:-1], levels[1:], strict=True)


def ancestral_law(rows, process):
    return rows.law(rows.backward(rows.denoiser(t), t, s) for t, s in pairs(process))


def flow_step(rows, t, s, second_order):
    """Affine step of the flow, from the exponential integrator in x / sigma."""

    def moved(clean):
        grown = rows.alpha[s] / rows.sigma[s] - rows.alpha[t] / rows.sigma[t]
        matrix = np.eye(2) / rows.sigma[t] + grown * clean.matrix
        return Affine(rows.sigma[s] * matrix, rows.sigma[s] * grown * clean.shift)

    clean = rows.denoiser(t)
    if second_order:
        end = rows.denoiser(s).after(moved(clean))
        clean = Affine((clean.matrix + end.matrix) / 2, (clean.shift + end.shift) / 2)
    return moved(clean)


@pytest.mark.parametrize("name", PROCESSES)
def test_ancestral_sampler(name):
    process = PROCESSES[name]
    rows, denoise = rows_under(process)
    draws = draws_of(samplers.ancestral(process, denoise), process)
    assert_law(draws, *ancestral_law(rows, process))


@pytest.mark.parametrize(
    ("name", "second_order"), [*((name, False) for name in PROCESSES), ("sub-VP", True)]
)
def test_probability_flow(name, second_order):
    process = PROCESSES[name]
    rows, denoise = rows_under(process)
    draws = draws_of(samplers.probability_flow(process, denoise, second_order), process)
    assert_law(draws, *rows.law(flow_step(rows, t, s, second_order) for t, s in pairs(process)))


def test_annealed_langevin():
    rows, denoise = rows_under(EXPLODING)
    draws = draws_of(samplers.annealed_langevin(EXPLODING, denoise, 3, 0.2), EXPLODING)
    assert_law(draws, *rows.law(rows.langevin(s, 0.2, 3) for _, s in pairs(EXPLODING)))


def test_predictor_corrector():
    rows, denoise = rows_under(EXPLODING)
    draws = draws_of(samplers.predictor_corrector(EXPLODING, denoise, 2, 0.2), EXPLODING)
    steps = [
        rows.langevin(s, 0.2, 2).after(rows.backward(rows.denoiser(t), t, s))
        for t, s in pairs(EXPLODING)
    ]
    assert_law(draws, *rows.law(steps))


def consistency_step(rows, t, s):
    """The exact flow to level 0, then the noise of level s again."""
    factor = rows.alpha[s] / rows.alpha[0]
    noise = rows.sigma[s] ** 2 - factor**2 * rows.sigma[0] ** 2
    return Affine(factor * np.eye(2), np.zeros(2), noise * np.eye(2)).after(rows.flow(t, 0))


def test_consistency_sampler():
    process = PROCESSES["variance preserving"]
    rows, _ = rows_under(process)
    maps = [rows.flow(t, 0) for t in range(len(rows.sigma))]
    matrices, shifts = (jnp.asarray(np.stack(a)) for a in list(zip(*maps, strict=True))[:2])
    step = samplers.consistency(process, lambda x, t: x @ matrices[t].T + shifts[t])
    expected = rows.law(consistency_step(rows, t, s) for t, s in pairs(process))
    assert_law(draws_of(step, process), *expected)


def test_many_levels_give_the_smoothed_rows():
    """The laws themselves tend to that of the rows at level 0."""
    for make in (processes.variance_exploding, processes.variance_preserving):
        process = make(2000, 0.2)
        rows, _ = rows_under(process)
        # The start is not exact either, so it is replaced by the law of the rows there.
        mean, covariance = rows.at(-1)
        for t, s in pairs(process):
            step = rows.backward(rows.denoiser(t), t, s)
            mean, covariance = step.push(mean, covariance)
        np.testing.assert_allclose(mean, rows.at(0)[0], atol=0.01)
        np.testing.assert_allclose(covariance, rows.at(0)[1], atol=0.03)


def test_other_samplers_have_other_laws():
    """Broken twins: the step of one sampler fails the law of another."""
    rows, denoise = rows_under(EXPLODING)
    draws = draws_of(samplers.probability_flow(EXPLODING, denoise), EXPLODING)
    with pytest.raises(AssertionError, match="is off"):
        assert_law(draws, *ancestral_law(rows, EXPLODING))
    uncorrected = draws_of(samplers.ancestral(EXPLODING, denoise), EXPLODING)
    with pytest.raises(AssertionError, match="is off"):
        assert_law(uncorrected, *rows.at(0))


def test_exact_denoiser_and_score():
    """Tweedie's formula: the score of a mixture from its denoiser and by differentiation."""
    truth = exact.paper_mixture(2)
    process = PROCESSES["variance preserving"]
    x = process.start(jax.random.key(1), 20, 2)
    for t in (0, 4, 7):
        level = [a[t] for a in process]
        score = jax.vmap(jax.grad(lambda x, level=level: truth.log_prob(x, *level)))(x)
        found = process.score(x, truth.denoiser(process)(x, t), t)
        np.testing.assert_allclose(found, score, rtol=2e-3, atol=2e-3)


class TestLabels:
    """A labelled mixture: the second of two Gaussians is the label that we ask for."""

    pair = exact.Mixture.of(
        np.array([0.7, 0.3]), np.array([[-1.0, 0.0], MEAN]), np.stack([np.eye(2) / 2, COVARIANCE])
    )

    def log_prob_label(self, x, t):
        alpha, sigma = EXPLODING.alpha[t], EXPLODING.sigma[t]
        both = jax.vmap(lambda x: self.pair.component_log_probs(x, alpha, sigma))(x)
        return jax.nn.log_softmax(both)[:, 1]

    def denoisers(self, weight):
        rows, label = rows_under(EXPLODING)
        plain = self.pair.denoiser(EXPLODING)
        classifier = labels.classifier_guided(EXPLODING, plain, self.log_prob_label, weight)
        return rows, classifier, labels.classifier_free(plain, label, weight)

    @pytest.mark.parametrize("which", [1, 2], ids=["classifier", "classifier-free"])
    def test_weight_one_draws_the_conditional(self, which):
        made = self.denoisers(1.0)
        draws = draws_of(samplers.ancestral(EXPLODING, made[which]), EXPLODING)
        assert_law(draws, *ancestral_law(made[0], EXPLODING))

    def test_other_weights_do_not(self):
        rows, classifier, free = self.denoisers(2.0)
        x = EXPLODING.start(jax.random.key(2), 50, 2)
        np.testing.assert_allclose(classifier(x, 3), free(x, 3), rtol=1e-3, atol=1e-3)
        draws = draws_of(samplers.ancestral(EXPLODING, free), EXPLODING)
        with pytest.raises(AssertionError, match="is off"):
            assert_law(draws, *ancestral_law(rows, EXPLODING), resolution=1.0)
