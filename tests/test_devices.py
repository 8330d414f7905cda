"""Batches that several devices share, in one process and in two."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.fits import TARGET, quick_fit

import numpyro_disco as disco
from numpyro_disco._devices import local, spread, spread_over

ROOT = pathlib.Path(disco.__file__).parents[1]

SHARED = """
import json, sys
process, num_processes, port, checkpoint = (*map(int, sys.argv[1:4]), sys.argv[4])
import jax
if num_processes > 1:
    jax.distributed.initialize(f"localhost:{port}", num_processes, process)
import jax.numpy as jnp, numpy as np, numpyro_disco as disco
from helpers.fits import SMALL, TARGET
from numpyro_disco._devices import spread, spread_over

rows = TARGET.draw(np.random.default_rng(0), 600)

def learned(devices, objective, checkpoint=None):
    fit = disco.fit(
        jax.random.key(0), rows, objective=objective, devices=devices, checkpoint=checkpoint,
        reference=disco.GaussianReference(np.zeros(2), 4 * np.eye(2)),
        **(SMALL | {"num_steps": 100}),
    )
    assert all(leaf.is_fully_addressable for leaf in jax.tree.leaves(fit.distribution))
    scores = np.asarray(fit.distribution.score(rows[:9]))
    return [fit.best_step, *fit.history.held_out_loss, *scores.ravel()]

contrast = disco.Contrastive(num_redraws=1)
if num_processes > 1:
    results = {"processes": learned(jax.devices(), contrast, checkpoint)}
    results["again"] = learned(jax.devices(), contrast, checkpoint)
else:
    results = {n: learned(jax.devices()[:n], contrast) for n in (1, 2, 8)}
    results["without"] = learned(None, contrast)
    results["disco 8"] = learned(jax.devices(), disco.Disco())
    results["disco"] = learned(None, disco.Disco())
    with spread_over(jax.devices()):
        program = jax.jit(lambda x: spread(x).sum()).lower(jnp.ones(16)).compile()
    assert "all-reduce" in program.as_text()
print("RESULT", json.dumps(results))
"""


def shared(num_devices, num_processes, checkpoint="none"):
    """Results of every process, with devices that are forced upon the host."""
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} "
        f"--xla_force_host_platform_device_count={num_devices // num_processes}",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SHARED, str(process), str(num_processes), port, str(checkpoint)],
            # The order of sets of names differs between these processes.
            env=environment | {"PYTHONHASHSEED": str(process)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(num_processes)
    ]
    results = []
    for process in started:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err[-3000:]
        line = next(line for line in out.splitlines() if line.startswith("RESULT"))
        results.append(json.loads(line.removeprefix("RESULT")))
    return results


@pytest.fixture(scope="module")
def in_one_process():
    return shared(8, 1)[0]


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("num_devices", ["1", "2", "8"])
def test_devices_share_batches(in_one_process, num_devices):
    assert_close(in_one_process[num_devices], in_one_process["without"])


def test_devices_share_noisy_points(in_one_process):
    assert_close(in_one_process["disco 8"], in_one_process["disco"])


def test_another_objective_is_noticed(in_one_process):
    with pytest.raises(AssertionError):
        assert_close(in_one_process["disco"], in_one_process["without"])


def test_processes_share_batches(in_one_process, tmp_path):
    first, second = shared(2, 2, tmp_path / "checkpoint")
    assert first == second
    assert_close(first["processes"], in_one_process["without"])
    assert first["again"] == first["processes"]


def test_batches_have_to_be_shared_equally():
    few = TARGET.draw(np.random.default_rng(0), 100)
    with pytest.raises(ValueError, match="2 `devices` can share equally; got 63"):
        quick_fit(few, devices=jax.devices() * 2, batch_size=63)


def test_outside_of_the_context_nothing_changes():
    tree = {"a": jnp.arange(3)}
    assert spread(tree) is tree
    with spread_over(None):
        assert spread(tree) is tree


def test_local_copies_arrays_and_leaves_the_rest():
    tree = {"a": jnp.arange(3), "b": 2, "c": np.ones(2)}
    copied = local(tree)
    np.testing.assert_array_equal(copied["a"], tree["a"])
    assert copied["b"] == 2 and copied["c"] is tree["c"]
