"""What examples/paper learns, and its tempered SMC, where the answers are known."""

import diffusion
import jax
import jax.numpy as jnp
import methods
import numpy as np
import processes
import pytest
import samplers
import sections_b_e
from exact import Mixture, draw_mixture, draw_tempered, paper_mixture, wasserstein
from flax import nnx
from helpers import statistics
from tempered import next_increment, tempered

PROCESS = processes.variance_preserving(6)
SIZES = {"width": 8, "num_blocks": 1, "num_octaves": 1}


def network(energy, seed=0):
    return diffusion.network_of(jax.random.key(seed), 2, energy, **SIZES)


@pytest.mark.parametrize("energy", [False, True])
def test_new_networks_denoise_standard_normal_rows(energy):
    """Networks start at zero, which is exact for rows that are standard normal."""
    process = processes.variance_exploding(6)
    x = process.start(jax.random.key(0), 20, 2)
    found = diffusion.denoiser(process, network(energy))(x, 3)
    np.testing.assert_allclose(found, x / (1 + process.sigma[3] ** 2), rtol=1e-4, atol=1e-5)


def test_jumps_and_their_loss():
    """Between two levels a jump is one step of the teacher's flow, whose network it may share."""
    process = processes.Process(*(array[:2] for array in PROCESS))
    teacher, rows = network(False), jax.random.normal(jax.random.key(1), (50, 2))
    flow = samplers.probability_flow(process, diffusion.denoiser(process, teacher))
    loss = diffusion.consistency_loss(process, flow)
    assert loss(teacher, teacher, jax.random.key(2), rows) < 1e-8
    other = network(False)
    other.linear[...] = jnp.eye(2)
    assert loss(other, other, jax.random.key(2), rows) > 1e-3
    np.testing.assert_allclose(diffusion.jump(process, other)(rows, 0), rows, atol=1e-6)


@pytest.mark.training
@pytest.mark.parametrize(
    ("energy", "make", "loss"),
    [
        (True, processes.variance_exploding, diffusion.denoising_loss),
        (False, processes.straight, diffusion.flow_matching_loss),
    ],
)
def test_training_learns_the_denoiser(energy, make, loss):
    """Rows of variance 1/4: the error of the denoiser falls to less than half."""
    process, rows = make(6), 0.5 * jax.random.normal(jax.random.key(0), (2000, 2))
    start = network(energy)
    settings = {"num_steps": 200, "batch_size": 128, "learning_rate": 1e-2}
    end = diffusion.train(jax.random.key(1), start, loss(process), rows, **settings)
    x, _ = process.noisy(jax.random.key(2), rows[:200], 2)
    exact = Mixture.of(np.ones(1), np.zeros((1, 2)), np.eye(2)[None] / 4).denoiser(process)(x, 2)
    before, after = (
        jnp.linalg.norm(diffusion.denoiser(process, net)(x, 2) - exact) for net in (start, end)
    )
    assert after < before / 2


def test_finished_training_is_not_repeated(tmp_path):
    """A second call with the checkpoint of a finished one returns the same weights."""
    rows, loss = jnp.ones((4, 2)), lambda network, *_: (network(jnp.ones(2), jnp.ones(9)) - 1) ** 2

    def trained(seed):
        settings = {"num_steps": 1000, "batch_size": 1, "checkpoint": tmp_path / "state.npz"}
        return diffusion.train(jax.random.key(0), network(True, seed), loss, rows, **settings)

    first, second = (jax.tree.leaves(nnx.state(trained(seed))) for seed in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_networks_survive_files(tmp_path):
    stored = network(True)
    stored.linear[...] = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    diffusion.store(tmp_path / "weights.npz", stored)
    found = diffusion.restore(tmp_path / "weights.npz", network(True, seed=1))
    x, local = jnp.array([0.3, -0.2]), jnp.ones(1 + 2 * diffusion.NUM_WAVES)
    np.testing.assert_allclose(found(x, local), stored(x, local))


class TestTempered:
    """A mixture of two modes on the line, from a box."""

    weights, means, deviations = np.array([0.3, 0.7]), np.array([-2.0, 1.0]), np.array([0.3, 0.5])

    def energy(self, x, weights=None):
        terms = jax.scipy.stats.norm.logpdf(x, self.means, self.deviations)
        return -jax.nn.logsumexp(jnp.log(self.weights if weights is None else weights) + terms)

    def masses(self, energy):
        keys = jax.random.split(jax.random.key(0), 100)
        run = jax.vmap(lambda key: tempered(key, energy, (-5.0, 5.0), 500)[0])
        draws = np.asarray(jax.jit(run)(keys))
        return statistics.mean_and_error(np.stack([draws < -0.5, draws], -1).mean(1))

    def test_masses_and_mean(self):
        exact = [0.3 * 1 + 0.7 * 0.00135, self.weights @ self.means]
        estimate, error = self.masses(self.energy)
        statistics.assert_within(estimate, exact, error, resolution=[0.03, 0.06])
        twin, error = self.masses(lambda x: self.energy(x, np.array([0.35, 0.65])))
        with pytest.raises(AssertionError, match="is off"):
            statistics.assert_within(twin, exact, error, resolution=1.0)

    def test_increments_keep_the_effective_share(self):
        values = jnp.linspace(0, 100, 50)
        increment = next_increment(values, 1.0)
        weights = jax.nn.softmax(-increment * values)
        assert 0 < increment < 1
        np.testing.assert_allclose(1 / (weights**2).sum() / 50, 0.5, rtol=1e-3)
        assert next_increment(values / 1e4, 1.0) == 1.0


def test_conditionals_of_the_mixture():
    """Against numerical integration of the smoothed joint density along the last coordinate."""
    truth, point, sigma = paper_mixture(3), np.array([0.4, -0.3, 0.0]), 0.1
    grid = np.linspace(-6, 6, 4001)
    points = np.repeat(point[None], len(grid), axis=0)
    points[:, -1] = grid
    log_density = jax.vmap(lambda x: truth.log_prob(x, 1.0, sigma))(jnp.asarray(points))
    density = np.exp(np.asarray(log_density, np.float64) - log_density.max())
    density /= density.sum() * (grid[1] - grid[0])
    weights, means, deviations = truth.last_given_rest(point, sigma)
    kernel = np.exp(-0.5 * ((grid[:, None] - means) / deviations) ** 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(kernel @ (weights / deviations), density, atol=2e-3)
    rng = np.random.default_rng(0)
    draws = [draw_mixture(rng, weights, means, deviations, 20_000) for _ in range(2)]
    assert wasserstein(*draws) < 0.03 < wasserstein(draws[0], draws[1] + 0.1)


def test_a_power_of_a_density():
    """The power b of a Gaussian has its variance divided by b."""
    rng = np.random.default_rng(0)
    draws = draw_tempered(rng, np.ones(1), np.array([2.0]), np.array([0.3]), 4.0, 20_000)
    estimate, error = statistics.mean_and_error(np.stack([draws, (draws - 2) ** 2], axis=-1))
    gates = {"standard_error": error, "resolution": [0.01, 0.002]}
    statistics.assert_within(estimate, [2.0, 0.15**2], **gates)
    with pytest.raises(AssertionError, match="is off"):
        statistics.assert_within(estimate, [2.0, 0.3**2], **gates)


def test_draws_on_a_grid():
    """The last coordinate of two correlated Gaussian ones, given the first."""

    def energy(x):
        return 0.5 * ((x[1] - 0.5 * x[0]) / 0.3) ** 2

    draws, _ = methods.disco_on_grid(energy, 20_000)(jax.random.key(0), jnp.array([2.0, 0.0]))
    draws = np.asarray(draws)
    estimate, error = statistics.mean_and_error(np.stack([draws, (draws - 1) ** 2], axis=-1))
    gates = {"standard_error": error, "resolution": [0.02, 0.01]}
    statistics.assert_within(estimate, [1.0, 0.09], **gates)
    # The mean given the opposite value.
    with pytest.raises(AssertionError, match="is off"):
        statistics.assert_within(estimate, [-1.0, 0.09], **gates)


def test_masses_on_a_grid():
    """Two modes apart: shares of draws are those of `masses`, their means those of `energy`."""

    def pair(share, mean):
        weights = np.array([share, 1 - share])
        means, variances = np.array([[0.0, mean], [0.0, -2.0]]), np.tile(0.1 * np.eye(2), (2, 1, 1))
        mixture = Mixture.of(weights, means, variances)
        return lambda x: -mixture.log_prob(x)

    shapes, masses = pair(0.9, 2.2), pair(0.3, 2.0)
    run = methods.disco_on_grid(shapes, 20_000, masses, pair(0.5, 2.0))
    draws = np.asarray(run(jax.random.key(0), jnp.zeros(2))[0], np.float64)
    upper = draws > 0
    statistics.assert_within(upper.mean(), 0.3, (0.21 / len(draws)) ** 0.5, resolution=0.02)
    error = (0.1 / upper.sum()) ** 0.5
    statistics.assert_within(draws[upper].mean(), 2.2, error, resolution=0.05)
    with pytest.raises(AssertionError, match="is off"):
        statistics.assert_within(upper.mean(), 0.9, (0.09 / len(draws)) ** 0.5, resolution=0.02)


def test_minimisers_of_one_row():
    """The smoothed row is Gaussian at each level, so DISCO's minimiser is -(x - r) / sigma_0^2."""
    points = jnp.array([[-1.0], [0.5]])
    found = sections_b_e.minimisers(np.array([[0.25]]), points)
    expected = -(points - 0.25) / sections_b_e.SMALLEST**2
    np.testing.assert_allclose(found["DISCO"], expected, rtol=1e-4)
    assert (np.abs(found["time-independent diffusion"]) < np.abs(found["DISCO"])).all()
    np.testing.assert_allclose(found["MDSM"], expected, rtol=1e-4)
