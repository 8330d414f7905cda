"""Fresh draws of rows from their references, beside NUTS."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.models import CHAIN_SIGMAS, KEY, chain_means
from helpers.statistics import assert_within
from numpyro.infer import MCMC, NUTS, SA
from numpyro.infer.util import initialize_model
from scipy import stats

import numpyro_disco as disco
from numpyro_disco._tracing import trace_sites
from numpyro_disco.models.refresh import Block, read_blocks, refresh_rows

WEIGHTS = np.array([0.7, 0.3])
MEANS = np.array([[0.0, -4.0], [0.5, 4.0]])
COVARIANCES = np.array([[[1.0, 0.3], [0.3, 1.0]], [[1.0, -0.5], [-0.5, 0.6]]])
EXACT = disco.MixtureReference(WEIGHTS, MEANS, COVARIANCES)
# Other weights and wider, so that proposals are accepted neither always nor rightly without q.
ROUGH = disco.MixtureReference(WEIGHTS[::-1], MEANS + 0.2, 1.5 * COVARIANCES)
TABLE = np.array([[0.3, np.nan], [1.0, 2.0], [-1.0, np.nan]])
Y, NOISE = np.array([2.0, -1.0]), 6.0


def prior_of(reference):
    return disco.EnergyDistribution(lambda x: -EXACT.log_prob(x), reference, names=("a", "b"))


def model():
    x = disco.sample("x", prior_of(ROUGH), obs=TABLE)
    numpyro.sample("y", dist.Normal(x[::2, 1], NOISE), obs=Y)
    numpyro.deterministic("upper", x[::2, 1] > 0)


def upper_masses():
    """Posterior probability that b > 0 for the two rows without it, in closed form."""
    masses = []
    for a, y in zip(TABLE[::2, 0], Y, strict=True):
        gain = COVARIANCES[:, 0, 1] / COVARIANCES[:, 0, 0]
        mean = MEANS[:, 1] + gain * (a - MEANS[:, 0])
        variance = COVARIANCES[:, 1, 1] - gain * COVARIANCES[:, 0, 1]
        weight = WEIGHTS * stats.norm.pdf(a, MEANS[:, 0], np.sqrt(COVARIANCES[:, 0, 0]))
        weight *= stats.norm.pdf(y, mean, np.sqrt(variance + NOISE**2))
        # Each mode lies on one side of 0 up to a probability below 1e-4.
        masses.append(weight[1] / weight.sum())
    return np.array(masses)


def check_masses():
    mcmc = MCMC(
        disco.RowRefresh(NUTS(model)),
        num_warmup=100,
        num_samples=1000,
        num_chains=8,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(KEY)
    estimate, error = chain_means(mcmc, ["upper"])
    assert_within(
        estimate,
        upper_masses(),
        error,
        resolution=0.25,
        sigmas=CHAIN_SIGMAS,
        label="mass of the upper mode",
    )


@pytest.mark.statistics
def test_the_masses_of_two_modes_are_right():
    check_masses()


@pytest.mark.statistics
def test_without_the_density_of_the_proposals_they_are_wrong(monkeypatch):
    monkeypatch.setattr(Block, "log_reference", lambda *_: jnp.zeros(()))
    with pytest.raises(AssertionError, match="is off"):
        check_masses()


# -- every way in which a prior is latent ---------------------------------------------------------


def one_vector():
    numpyro.sample("x", prior_of(EXACT))


def clamped_vectors_in_a_plate():
    with numpyro.plate("rows", 3):
        numpyro.sample("x", prior_of(EXACT).clamp({"a": np.array([0.1, 0.2, 0.3])}))


def coordinates():
    disco.sample("x", prior_of(EXACT))


def coordinates_in_a_plate():
    with numpyro.plate("rows", 3):
        disco.sample("x", prior_of(EXACT))


def table():
    disco.sample("x", prior_of(EXACT), obs=TABLE)


def padded_table():
    disco.sample("x", prior_of(EXACT), obs=TABLE, padded=True)


def conditioned():
    numpyro.handlers.condition(coordinates, {"x.a": 0.3})()


MODELS = {
    one_vector: 1,
    clamped_vectors_in_a_plate: 3,
    coordinates: 1,
    coordinates_in_a_plate: 3,
    table: 2,
    padded_table: 3,
    conditioned: 1,
}


@pytest.mark.parametrize("latent_model", MODELS, ids=lambda m: m.__name__)
def test_draws_of_the_prior_itself_are_always_accepted(latent_model):
    """If the prior is its reference, each row that is proposed moves, and no other."""

    def with_another():
        latent_model()
        numpyro.sample("other", dist.Normal())

    info = initialize_model(KEY, with_another, dynamic_args=True)
    z, sites = info.param_info.z, trace_sites(with_another, (), {})
    (block,) = read_blocks(sites)
    assert block.num_rows == MODELS[latent_model]

    def moved_rows(num_proposals):
        new = jax.jit(
            lambda z: refresh_rows(KEY, block, sites, info.potential_fn(), z, num_proposals)
        )(z)
        assert new["other"] == z["other"]
        rows = set()
        for name, of_numbers in block.rows.items():
            changed = np.asarray(new[name]) != np.asarray(z[name])
            numbers = np.broadcast_to(of_numbers, changed.shape)
            # Every number of a row moves, or none.
            assert set(numbers[changed]).isdisjoint(numbers[~changed])
            rows |= set(numbers[changed].tolist())
        return rows

    assert len(moved_rows(1)) == 1
    assert len(moved_rows(block.num_rows)) == block.num_rows


# -- refusals --------------------------------------------------------------------------------------


def test_kernels_and_models_that_are_refused():
    with pytest.raises(ValueError, match=r"Expected a `numpyro.infer.HMC` or `NUTS`.*got SA"):
        disco.RowRefresh(SA(model))
    with pytest.raises(ValueError, match="of a model for `kernel`"):
        disco.RowRefresh(NUTS(potential_fn=lambda z: 0.5 * z**2))
    with pytest.raises(ValueError, match="num_proposals"):
        disco.RowRefresh(NUTS(model), num_proposals=0)
    kernel = disco.RowRefresh(NUTS(lambda: numpyro.sample("z", dist.Normal())))
    with pytest.raises(ValueError, match="this one has none"):
        kernel.init(jax.random.key(0), 10)
