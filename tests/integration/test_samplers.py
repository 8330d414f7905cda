"""NumPyro's samplers on models with learned priors, against closed-form posteriors.

NUTS with `condition`, in both precisions, is in `test_nuts.py`.
"""

import os
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.statistics import assert_within, mean_and_error
from helpers.two_coordinates import (
    COVARIANCE,
    KEY,
    MEAN,
    NOISE,
    POINT,
    PRIOR,
    SHIFT,
    TWIN,
    WEIGHT,
    Y,
    both_ways,
    model,
    posterior,
    posterior_switched,
    switched,
)
from numpyro.infer import (
    AIES,
    ESS,
    HMC,
    HMCECS,
    MCMC,
    NUTS,
    SA,
    BarkerMH,
    DiscreteHMCGibbs,
    HMCGibbs,
    MixedHMC,
    init_to_feasible,
    init_to_mean,
    init_to_sample,
    init_to_uniform,
    init_to_value,
)
from numpyro.infer.util import initialize_model

# -- starts and continuations -------------------------------------------------------------------


@pytest.mark.parametrize(
    "strategy",
    [
        init_to_uniform,
        init_to_feasible,
        init_to_value(values={"x": POINT}),
        init_to_mean,
        # The start is drawn by tempered SMC, which takes tens of seconds to compile.
        pytest.param(init_to_sample, marks=pytest.mark.statistics),
    ],
    ids=["uniform", "feasible", "value", "mean", "sample"],
)
def test_init_strategies_start_a_vector_site(strategy):
    info = initialize_model(
        KEY, model, init_strategy=strategy, model_kwargs={"vector": True}, dynamic_args=True
    )
    assert np.isfinite(info.param_info.potential_energy)
    start = info.postprocess_fn(vector=True)(info.param_info.z)["x"]
    if strategy is init_to_feasible:
        np.testing.assert_allclose(start, PRIOR.loc, atol=1e-6)
    if getattr(strategy, "keywords", {}).get("values"):
        np.testing.assert_allclose(start, POINT, rtol=1e-6)


@both_ways
def test_a_run_continues_where_another_ended(vector):
    kernel = HMC(model, trajectory_length=None, num_steps=3)
    mcmc = MCMC(kernel, num_warmup=20, num_samples=10, progress_bar=False)
    mcmc.warmup(KEY, vector=vector)
    warm = mcmc.post_warmup_state
    mcmc.run(warm.rng_key, vector=vector)
    first = jax.tree.map(np.asarray, mcmc.get_samples())
    # The first run repeats from the same state; the second continues from the end of the first.
    for state, same in ((warm, True), (mcmc.last_state, False)):
        mcmc.post_warmup_state = state
        mcmc.run(state.rng_key, vector=vector)
        for name, draws in mcmc.get_samples().items():
            assert np.array_equal(draws, first[name]) == same
        step_size = mcmc.last_state.adapt_state.step_size
        np.testing.assert_array_equal(step_size, warm.adapt_state.step_size)


# -- kernels ------------------------------------------------------------------------------------


# Ten replications: Student's t with 9 degrees of freedom is beyond 10 about as rarely as a
# Gaussian beyond 5.
REPLICATIONS, SIGMAS = 10, 10


def replications(mcmc, names, interacting):
    """Means of independent chains, or of long stretches of one run if walkers interact."""
    samples = mcmc.get_samples(group_by_chain=True)
    columns = []
    for name in names:
        draws = np.asarray(samples[name], np.float64)
        columns.append(draws if draws.ndim == 3 else draws[..., None])
    draws = np.concatenate(columns, axis=-1)
    if interacting:
        draws = draws.mean(0).reshape(REPLICATIONS, -1, draws.shape[-1])
    return draws.mean(1)


def check_chains(mcmc, names, truth, resolution=0.5, interacting=False):
    estimate, error = mean_and_error(replications(mcmc, names, interacting))
    assert_within(
        estimate, truth, error, resolution=resolution, sigmas=SIGMAS, label="posterior mean"
    )


def mcmc_of(kernel, *, num_samples, interacting=False):
    return MCMC(
        kernel,
        num_warmup=500,
        num_samples=num_samples,
        num_chains=2 * REPLICATIONS if interacting else REPLICATIONS,
        chain_method="vectorized" if interacting else jax.vmap,
        progress_bar=False,
        # NumPyro's ensemble kernels compile the arguments of the first run into the program.
        jit_model_args=not interacting,
    )


KERNELS = {
    "HMC": (lambda model: HMC(model, trajectory_length=2.0), 1000),
    "BarkerMH": (lambda model: BarkerMH(model), 4000),
    "SA": (lambda model: SA(model), 40000),
    "AIES": (lambda model: AIES(model, moves={AIES.DEMove(): 0.5, AIES.StretchMove(): 0.5}), 2000),
    "ESS": (lambda model: ESS(model, moves={ESS.DifferentialMove(): 1.0}), 2000),
}


@pytest.mark.statistics
@pytest.mark.parametrize(
    ("kernel", "vector"),
    [
        ("HMC", True),
        ("AIES", False),
        pytest.param("BarkerMH", False, marks=pytest.mark.slow),
        pytest.param("SA", True, marks=pytest.mark.slow),
        pytest.param("ESS", True, marks=pytest.mark.slow),
    ],
)
def test_kernels_find_the_posterior(kernel, vector):
    make, num_samples = KERNELS[kernel]
    interacting = kernel in ("AIES", "ESS")
    mcmc = mcmc_of(
        make(partial(model, vector=vector)), num_samples=num_samples, interacting=interacting
    )
    names = ["x"] if vector else ["x.a", "x.b"]
    truth, *_ = posterior()
    mcmc.run(KEY, PRIOR, Y)
    check_chains(mcmc, names, truth, interacting=interacting)
    # Under the twin, an observed x_a moves b in the other direction.
    mcmc.run(KEY, TWIN, Y)
    with pytest.raises(AssertionError, match="is off"):
        check_chains(mcmc, names, truth, interacting=interacting)


def draw_the_state(vector):
    """A Gibbs step for z given x."""

    def step(rng_key, gibbs_sites, hmc_sites):
        a = hmc_sites["x"][0] if vector else hmc_sites["x.a"]
        logit = jnp.log(WEIGHT / (1 - WEIGHT))
        logit += dist.Normal(a + SHIFT, NOISE).log_prob(Y) - dist.Normal(a, NOISE).log_prob(Y)
        return {"z": dist.Bernoulli(logits=logit).sample(rng_key)}

    return step


GIBBS = {
    "HMCGibbs": lambda model, vector: HMCGibbs(
        NUTS(model), gibbs_fn=draw_the_state(vector), gibbs_sites=["z"]
    ),
    "DiscreteHMCGibbs": lambda model, vector: DiscreteHMCGibbs(NUTS(model)),
    "MixedHMC": lambda model, vector: MixedHMC(HMC(model, trajectory_length=1.5)),
}


@pytest.mark.statistics
@pytest.mark.parametrize(
    ("kernel", "vector"),
    [
        ("DiscreteHMCGibbs", True),
        pytest.param("HMCGibbs", False, marks=pytest.mark.slow),
        pytest.param("MixedHMC", False, marks=pytest.mark.slow),
    ],
)
def test_kernels_for_a_discrete_latent_find_the_posterior(kernel, vector):
    mcmc = mcmc_of(GIBBS[kernel](partial(switched, vector=vector), vector), num_samples=2000)
    names = ["z", "x"] if vector else ["z", "x.a", "x.b"]
    mcmc.run(KEY, PRIOR)
    check_chains(mcmc, names, posterior_switched(), [0.2, 0.4, 0.6])
    mcmc.run(KEY, TWIN)
    with pytest.raises(AssertionError, match="is off"):
        check_chains(mcmc, names, posterior_switched(), [0.2, 0.4, 0.6])


@pytest.mark.statistics
@pytest.mark.slow
def test_subsampled_likelihoods_with_energy_conserving_subsampling():
    """Many rows share one vector, and each step of the chain uses a few of them."""
    rows = np.asarray(1.0 + 0.5 * np.random.default_rng(0).standard_normal(40), np.float32)

    def shared(prior):
        x = numpyro.sample("x", prior)
        with numpyro.plate("rows", 40, subsample_size=8):
            seen = numpyro.subsample(jnp.asarray(rows), event_dim=0)
            numpyro.sample("y", dist.Normal(x[0], 1.5), obs=seen)

    precision = np.linalg.inv(COVARIANCE) + np.diag([40 / 1.5**2, 0.0])
    pull = np.linalg.inv(COVARIANCE) @ MEAN + [rows.sum(dtype=float) / 1.5**2, 0.0]
    proxy = HMCECS.taylor_proxy({"x": jnp.asarray(MEAN)})
    mcmc = mcmc_of(HMCECS(NUTS(shared), num_blocks=4, proxy=proxy), num_samples=1000)
    mcmc.run(KEY, PRIOR)
    check_chains(mcmc, ["x"], np.linalg.solve(precision, pull))
    mcmc.run(KEY, TWIN)
    with pytest.raises(AssertionError, match="is off"):
        check_chains(mcmc, ["x"], np.linalg.solve(precision, pull))


# -- chains -------------------------------------------------------------------------------------


CHAIN_METHODS = """
    import jax, numpy as np, sys
    from numpyro.infer import MCMC, NUTS
    from helpers.two_coordinates import KEY, PRIOR, Y, model

    assert jax.local_device_count() == 2
    drawn = {}
    for method in ("sequential", "parallel", "vectorized"):
        mcmc = MCMC(NUTS(model), num_warmup=30, num_samples=20, num_chains=2,
                    chain_method=method, progress_bar=False)
        mcmc.run(KEY, PRIOR, Y)
        drawn[method] = mcmc.get_samples()
    for name, draws in drawn["sequential"].items():
        assert np.isfinite(draws).all()
        np.testing.assert_allclose(drawn["parallel"][name], draws, rtol=1e-5)
        assert drawn["vectorized"][name].shape == draws.shape
"""


@pytest.mark.statistics
@pytest.mark.slow
def test_sequential_parallel_and_vectorized_chains():
    """In a separate process, since the number of devices is fixed when JAX starts."""
    tests = str(Path(__file__).parents[1])
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    path = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
    settings = {
        "XLA_FLAGS": flags.strip(),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": path,
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        # Rounding differs between devices, and in single precision a chain soon amplifies it.
        "JAX_ENABLE_X64": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHAIN_METHODS)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
