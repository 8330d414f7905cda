"""What TemperedSMC can be given: bases, schedules, kernels, checkpoints, devices."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.statistics import assert_within, mean_and_error
from scipy.special import betaln, logsumexp
from scipy.stats import norm

import numpyro_disco as disco
from numpyro_disco.models import runs
from numpyro_disco.models.reading import prepare_model

Y = np.array([-2.1, -1.0, 2.2, 1.5, 3.0], np.float32)
NOISE = 0.7


def conjugate(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
    numpyro.sample("y", dist.Normal(mu, NOISE), obs=y)
    numpyro.sample("s", dist.LogNormal(jnp.log(scale), 0.5), obs=2.0)


def conjugate_evidence(y):
    """mu is conjugate to the rows, the logarithm of scale to the one observation."""
    covariance = NOISE**2 * np.eye(len(y)) + 1
    quadratic = y @ np.linalg.solve(covariance, y)
    of_y = -0.5 * (quadratic + np.linalg.slogdet(2 * np.pi * covariance)[1])
    return of_y + norm.logpdf(np.log(2), 0, np.sqrt(0.5)) - np.log(2)


def run(model, *args, num_particles=512, num_chains=8, seed=0, **settings):
    smc = disco.TemperedSMC(
        model,
        num_particles=num_particles,
        num_chains=num_chains,
        progress_bar=False,
        **settings,
    )
    smc.run(jax.random.key(seed), *args)
    return smc


def check_evidence(smc, truth):
    """mean(Z-hat / Z) = 1, from the mixture's draws and from the path alone."""
    estimates = {"evidence": smc.log_normalizer, "path alone": smc.log_path_normalizer}
    for label, estimate in estimates.items():
        mean, error = mean_and_error(np.exp(np.asarray(estimate, np.float64) - truth))
        assert_within(mean, 1.0, error, resolution=0.6, sigmas=7.4, label=label)


@pytest.fixture(scope="module")
def from_prior():
    return run(conjugate, Y)


def test_evidence_from_the_priors(from_prior):
    check_evidence(from_prior, conjugate_evidence(Y))


class TestBase:
    def test_distribution(self):
        smc = run(conjugate, Y, base={"mu": dist.StudentT(4.0, 0.5, 0.5)})
        check_evidence(smc, conjugate_evidence(Y))
        densities = prepare_model(conjugate, (Y,), {}, {"mu": dist.Normal(3.0, 2.0)})
        u = densities.unravel(jnp.zeros(2)) | {"mu": jnp.array(0.4), "scale": jnp.array(0.0)}
        flat = jnp.stack([u["mu"], u["scale"]])
        base = norm.logpdf(0.4, 3, 2) + norm.logpdf(0, 0, 0.5)
        np.testing.assert_allclose(densities.log_densities(flat)[0], base, rtol=1e-5)

    def test_earlier_draws_shorten_the_path(self, from_prior):
        smc = run(conjugate, Y, base=from_prior.get_samples())
        check_evidence(smc, conjugate_evidence(Y))
        assert smc.history.inverse_temperature.shape[1] < 3

    def test_fitted_guide(self):
        guide = numpyro.infer.autoguide.AutoNormal(conjugate)
        svi = numpyro.infer.SVI(
            conjugate, guide, numpyro.optim.Adam(0.05), numpyro.infer.Trace_ELBO()
        )
        params = svi.run(jax.random.key(0), 200, Y, progress_bar=False).params
        check_evidence(run(conjugate, Y, base=(guide, params)), conjugate_evidence(Y))

    def test_a_learned_prior_starts_from_given_draws(self):
        """All free coordinates of a learned prior together, or none of them."""
        reference = disco.GaussianReference(jnp.zeros(2), 9 * jnp.eye(2))
        prior = disco.EnergyDistribution(lambda x: 0.5 * (x @ x), reference, names=("a", "b"))

        def model():
            disco.sample("x", prior)

        draws = np.random.default_rng(0).standard_normal((400, 2))
        smc = run(model, base={"x.a": draws[:, 0], "x.b": draws[:, 1]})
        check_evidence(smc, np.log(2 * np.pi))
        with pytest.raises(ValueError, match="start together"):
            run(model, base={"x.a": draws[:, 0]})

    @pytest.mark.parametrize(
        ("base", "message"),
        [
            ({"nu": dist.Normal(0, 1)}, "'nu', which is not a continuous latent site"),
            ({"mu": dist.Normal(0, 1).expand([3])}, r"shape \(\) for site 'mu'; got \(3,\)"),
            ({"scale": dist.Normal(0, 1)}, "support of site 'scale'"),
            ({"mu": 0.3}, "at least 10 draws, for 'mu'"),
            ({"mu": np.zeros((20, 2))}, "draws of shape"),
            ({"mu": np.zeros(20), "scale": np.ones(30)}, "equally many draws"),
            (dist.Normal(0, 1), "mapping from names of sites"),
        ],
    )
    def test_errors(self, base, message):
        with pytest.raises(ValueError, match=message):
            run(conjugate, Y, base=base)


class TestDiscrete:
    @pytest.mark.statistics
    def test_enumerable_sites_are_summed_out(self):
        """The colour of each of five balls, drawn from an urn with a Beta prior."""
        other = np.array([0.1, 0.9])

        def model(y):
            share = numpyro.sample("share", dist.Beta(2.0, 3.0))
            with numpyro.plate("balls", len(y)):
                colour = numpyro.sample("colour", dist.Bernoulli(share))
                numpyro.sample("y", dist.Bernoulli(jnp.asarray(other)[colour]), obs=y)
            numpyro.deterministic("twice", 2 * colour)

        y = np.array([1, 1, 0, 1, 0])
        terms = []
        for colours in np.ndindex(*(2,) * 5):
            colours = np.array(colours)
            likelihood = np.where(y, other[colours], 1 - other[colours])
            ones = colours.sum()
            terms.append(np.log(likelihood).sum() + betaln(2 + ones, 3 + 5 - ones) - betaln(2, 3))
        smc = run(model, y)
        check_evidence(smc, logsumexp(terms))
        assert set(smc.get_samples()) == {"share"}


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel": "mala"},
        {"kernel": "random_walk", "max_moves": 16},
        {"chain_length": 4},
        {"base_draws": 1},
        {"schedule": (0.1, 0.4, 1.0), "resampling": "residual"},
        {"particles_at_once": 100, "dense_mass": False, "resampling": "multinomial"},
    ],
    ids=lambda s: next(iter(s)),
)
def test_evidence_with_other_settings(settings):
    smc = run(conjugate, Y, **settings)
    check_evidence(smc, conjugate_evidence(Y))
    if "schedule" in settings:
        expected = np.broadcast_to(settings["schedule"], (8, 3))
        np.testing.assert_allclose(smc.history.inverse_temperature, expected, rtol=1e-6)


def test_mass_of_the_path_is_that_of_its_history(from_prior):
    last = np.asarray(from_prior.history.log_normalizer)
    steps = np.isfinite(last).sum(1)
    np.testing.assert_array_equal(
        last[np.arange(len(last)), steps - 1], from_prior.log_path_normalizer
    )


def test_plot_history(from_prior):
    pytest.importorskip("matplotlib")
    axes = from_prior.plot_history()
    assert [len(axis.lines) for axis in axes] == [8, 8, 8, 8]


def test_runs_that_disagree_say_so():
    """Two far modes and a handful of particles: each run ends in one of them."""

    def model():
        x = numpyro.sample("x", dist.Normal(0.0, 5.0).expand([4]).to_event(1))
        modes = jnp.array([[9.0], [-9.0]])
        numpyro.factor("f", jax.nn.logsumexp(-0.5 * ((x - modes) ** 2).sum(1) / 0.1**2))

    with pytest.raises(RuntimeError, match="independent runs found different distributions"):
        run(model, num_particles=16, num_chains=6, num_sweeps=0)


class TestCheckpoint:
    SETTINGS = {
        "num_particles": 64,
        "num_chains": 2,
        "base_draws": 1,
        "target_ess": 0.9,
        "checkpoint_every": 2,
    }

    def test_resumed_to_the_same_numbers(self, tmp_path, monkeypatch):
        path = tmp_path / "runs.npz"
        whole = run(conjugate, Y, checkpoint=tmp_path / "whole.npz", **self.SETTINGS)
        saved, writes = runs.save_state, []

        def stop_after_two(*args):
            saved(*args)
            writes.append(args)
            if len(writes) == 2:
                raise KeyboardInterrupt

        smc = disco.TemperedSMC(conjugate, progress_bar=False, checkpoint=path, **self.SETTINGS)
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

        other = disco.TemperedSMC(elsewhere, progress_bar=False, checkpoint=path, **self.SETTINGS)
        with pytest.raises(ValueError, match="checkpoint of another model"):
            other.run(jax.random.key(0), Y)
        settings = {**self.SETTINGS, "base": {"mu": dist.Normal(1.0, 2.0)}}
        other = disco.TemperedSMC(conjugate, progress_bar=False, checkpoint=path, **settings)
        with pytest.raises(ValueError, match="checkpoint of another model"):
            other.run(jax.random.key(0), Y)
        path.write_bytes(b"PK\x03\x04 nothing")
        with pytest.raises(ValueError, match="not a checkpoint of TemperedSMC, or is damaged"):
            smc.run(jax.random.key(0), Y)


SHARED = """
import sys
import jax, jax.numpy as jnp, numpy as np
process, port = int(sys.argv[1]), sys.argv[2]
if port != "alone":
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=process)
import numpyro, numpyro.distributions as dist, numpyro_disco as disco

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
    """log evidence of 8 runs, and the mean of their draws, with particles over devices."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices // num_processes}",
        "JAX_PLATFORMS": "cpu",
    }
    port = "alone"
    if num_processes > 1:
        import socket

        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SHARED, str(process), port],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(num_processes)
    ]
    results = []
    for process in started:
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err[-3000:]
        fields = next(line for line in out.splitlines() if line.startswith("RESULT")).split()[1:]
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


def test_particles_over_two_processes():
    """Two processes of one device each, through jax.distributed; both see the whole result."""
    check_shared(shared_run(2, 2))


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [1, 8])
def test_particles_over_devices(num_devices):
    check_shared(shared_run(num_devices, 1))


def test_devices_share_particles_equally():
    with pytest.raises(ValueError, match="2 `devices` can share equally; got 15"):
        disco.TemperedSMC(conjugate, num_particles=15, devices=jax.devices() * 2)
