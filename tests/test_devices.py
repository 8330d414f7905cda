"""Batches that several devices share, in one process and in two."""

import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.fits import TARGET, quick_fit
from helpers.processes import free_port, results_of

import numpyro_disco as disco
from numpyro_disco._devices import local, make_mesh, shard, spread, spread_over
from numpyro_disco.tempering.state import Particles

ROOT = pathlib.Path(disco.__file__).parents[1]

SHARED = """
import json, sys
kind, process, port, checkpoint = sys.argv[1:]
import jax
if kind == "processes":
    jax.distributed.initialize(f"localhost:{port}", 2, int(process))
import jax.numpy as jnp, numpy as np, numpyro_disco as disco
from helpers.fits import TARGET
from numpyro_disco import _compiling
from numpyro_disco._devices import same_everywhere, spread, spread_over

# As conftest.py has it.
_compiling._OPTIONS.pop("xla_backend_optimization_level")
rows = TARGET.draw(np.random.default_rng(0), 600)

def learned(devices, objective="contrastive", checkpoint=None):
    fit = disco.fit(
        jax.random.key(0), rows, objective=objective, devices=devices, checkpoint=checkpoint,
        reference=disco.GaussianReference(np.zeros(2), 4 * np.eye(2)), num_steps=50,
        network=disco.MLP(width=8, num_blocks=1), batch_size=64, progress_bar=False,
    )
    assert all(leaf.is_fully_addressable for leaf in jax.tree.leaves(fit.distribution))
    scores = np.asarray(fit.score(rows[:9])).ravel()
    return [fit.best_step, *fit.history.held_out_loss, *scores.tolist()]

if kind == "processes":
    # The arrays of the first process are those of all, in double precision.
    arrays = {"a": np.arange(2.0 + int(process)) / 3, "b": np.array([process == "0"])}
    arrays = same_everywhere(arrays)
    np.testing.assert_array_equal(arrays["a"], np.arange(2) / 3)
    assert arrays["b"].all()
    results = {n: learned(jax.devices(), checkpoint=checkpoint) for n in ("first", "again")}
elif kind == "devices":
    results = {"8": learned(jax.devices()), "without": learned(None)}
    with spread_over(jax.devices()):
        program = jax.jit(lambda x: spread(x).sum()).lower(jnp.ones(16)).compile()
    assert "all-reduce" in program.as_text()
else:
    results = {"8": learned(jax.devices(), "disco"), "without": learned(None, "disco")}
print("RESULT", json.dumps(results))
"""


def shared(kind, num_devices, num_processes=1, checkpoint="none"):
    """Results of every process, with devices that are forced upon the host."""
    environment = {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} "
        f"--xla_force_host_platform_device_count={num_devices // num_processes}",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        # Steps amplify rounding; in double precision nothing else would stay unseen beside it.
        "JAX_ENABLE_X64": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }
    port = free_port()
    results = results_of(
        SHARED,
        lambda process: (kind, str(process), port, str(checkpoint)),
        # The order of sets of names differs between these processes.
        [environment | {"PYTHONHASHSEED": str(process)} for process in range(num_processes)],
    )
    return [json.loads(result) for result in results]


@pytest.fixture(scope="module")
def in_one_process():
    return shared("devices", 8)[0]


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.training
def test_devices_share_batches(in_one_process):
    assert_close(in_one_process["8"], in_one_process["without"])
    # The scores are those of a trained network, and not of its start.
    first, last = np.array(in_one_process["without"])[[1, 2]]
    assert last < first - 0.01


@pytest.mark.training
def test_two_processes_share_batches(in_one_process, tmp_path):
    one, other = shared("processes", 2, 2, tmp_path / "checkpoint")
    assert one == other
    assert_close(one["first"], in_one_process["without"])
    assert one["again"] == one["first"]


@pytest.mark.slow
def test_devices_share_noisy_points():
    results = shared("disco", 8)[0]
    assert_close(results["8"], results["without"])


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


def particles():
    return Particles(
        jnp.arange(8.0).reshape(1, 4, 2), jnp.zeros((1, 4)), jnp.ones((1, 4)), jnp.zeros((1, 4))
    )


def test_without_a_mesh_nothing_changes():
    before = particles()
    assert shard(before, None, 1) is before


def test_particles_keep_their_values():
    mesh = make_mesh(jax.devices()[:1])
    divided = jax.jit(lambda record: shard(record, mesh, 1))(particles())
    for leaf, expected in zip(divided, particles(), strict=True):
        np.testing.assert_array_equal(leaf, expected)
