"""Runs of a model: compilation, checkpoints, and particles over devices."""

import os

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.processes import free_port, results_of
from helpers.smc import QUICK, Y, conjugate, tempered
from helpers.statistics import assert_within, mean_and_error
from scipy.stats import norm

import numpyro_disco as disco
from numpyro_disco.models import runs


def test_new_values_do_not_compile_again():
    traces = 0

    def model(y):
        nonlocal traces
        traces += 1
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    smc = tempered(model, np.zeros(3), **QUICK)
    first = traces
    smc.run(jax.random.key(1), np.ones(3))
    assert traces == first
    smc.run(jax.random.key(1), np.ones(4))
    assert traces > first


# -- checkpoints ---------------------------------------------------------------------------------


CHECKPOINTED = {
    "num_particles": 64,
    "num_chains": 2,
    "base_draws": 1,
    "target_ess": 0.9,
    "checkpoint_every": 2,
    "num_sweeps": 0,
}


def test_a_resumed_run_gives_the_same_numbers(tmp_path, monkeypatch):
    path = tmp_path / "runs.npz"
    whole = tempered(conjugate, Y, checkpoint=tmp_path / "whole.npz", **CHECKPOINTED)
    saved, writes = runs.save_state, []

    def stop_after_two(*args):
        saved(*args)
        writes.append(args)
        if len(writes) == 2:
            raise KeyboardInterrupt

    smc = disco.TemperedSMC(conjugate, progress_bar=False, checkpoint=path, **CHECKPOINTED)
    monkeypatch.setattr(runs, "save_state", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        smc.run(jax.random.key(0), Y)
    monkeypatch.setattr(runs, "save_state", saved)
    smc.run(jax.random.key(0), Y)
    assert len(writes) == 2
    np.testing.assert_array_equal(smc.log_normalizer, whole.log_normalizer)
    np.testing.assert_array_equal(smc.get_samples()["mu"], whole.get_samples()["mu"])
    with pytest.raises(ValueError, match="checkpoint of another run"):
        smc.run(jax.random.key(1), Y)

    def elsewhere(y):
        mu = numpyro.sample("mu", dist.Normal(10.0, 1.0))
        numpyro.sample("y", dist.Normal(mu, 0.5), obs=y)

    other = disco.TemperedSMC(elsewhere, progress_bar=False, checkpoint=path, **CHECKPOINTED)
    with pytest.raises(ValueError, match="checkpoint of another model"):
        other.run(jax.random.key(0), Y)
    settings = {**CHECKPOINTED, "base": {"mu": dist.Normal(1.0, 2.0)}}
    other = disco.TemperedSMC(conjugate, progress_bar=False, checkpoint=path, **settings)
    with pytest.raises(ValueError, match="checkpoint of another model"):
        other.run(jax.random.key(0), Y)
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ValueError, match="not a checkpoint of TemperedSMC, or is damaged"):
        smc.run(jax.random.key(0), Y)


# -- devices -------------------------------------------------------------------------------------


SHARED = """
import sys
import jax, jax.numpy as jnp, numpy as np
process, port = int(sys.argv[1]), sys.argv[2]
if port != "alone":
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=process)
import numpyro, numpyro.distributions as dist, numpyro_disco as disco
from numpyro_disco import _compiling

# As conftest.py has it.
_compiling._OPTIONS.pop("xla_backend_optimization_level")

def model(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(mu.sum(), 0.5), obs=y)

smc = disco.TemperedSMC(
    model, num_particles=256, num_chains=8, progress_bar=False, devices=jax.devices()
)
smc.run(jax.random.key(0), np.float32(1.5))
draws = np.asarray(smc.get_samples()["mu"])
print("RESULT", len(jax.devices()), *np.asarray(smc.log_normalizer), *draws.mean(0), draws.shape[0])
"""


def shared_run(num_devices, num_processes):
    """Log evidence of 8 runs, and the mean of their draws, with particles spread over devices."""
    environment = {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} "
        f"--xla_force_host_platform_device_count={num_devices // num_processes}",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    port = "alone" if num_processes == 1 else free_port()
    results = []
    environments = [environment] * num_processes
    for line in results_of(SHARED, lambda process: (str(process), port), environments):
        fields = line.split()
        assert int(fields[0]) == num_devices and int(fields[-1]) == 8 * 256
        results.append(np.array(fields[1:-1], float))
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])
    return results[0]


def check_shared(result):
    covariance = 0.25 + 2
    truth = norm.logpdf(1.5, 0, np.sqrt(covariance))
    mean, error = mean_and_error(np.exp(result[:8] - truth))
    assert_within(mean, 1.0, error, resolution=0.3, sigmas=7.4, label="evidence")
    np.testing.assert_allclose(result[8:], 1.5 / covariance, atol=0.1)


@pytest.mark.statistics
def test_particles_over_two_processes():
    """Two processes with one device each, under jax.distributed, both get the whole result."""
    result = shared_run(2, 2)
    check_shared(result)
    # The broken twin: a process divides by the particles of both.
    with pytest.raises(AssertionError, match="is off"):
        check_shared(result - np.log(2))


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [1, 8])
def test_particles_over_devices(num_devices):
    check_shared(shared_run(num_devices, 1))


def test_devices_share_particles_equally():
    with pytest.raises(ValueError, match="2 `devices` can share equally; got 15"):
        disco.TemperedSMC(conjugate, num_particles=15, devices=jax.devices() * 2)
