"""Checkpoints give back what was saved, and refuse what belongs to another run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_disco.tempering.checkpoints import (
    CheckpointError,
    fingerprint,
    load_state,
    save_state,
)

PROBE = np.array([1.0, -np.inf, np.nan, 3.0])


def state():
    return {
        "key": jax.random.split(jax.random.key(0, impl="rbg"), 2),
        "history": (jnp.arange(3.0), jnp.array([True, False])),
    }


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "run.npz"
    save_state(path, state(), "mark", PROBE)
    return path


def load(path, template=None, mark="mark", probe=PROBE):
    template = jax.eval_shape(state) if template is None else template
    return load_state(path, template, mark, probe, "rbg")


def test_state_is_restored_with_its_keys(path):
    loaded = load(path)
    for leaf, expected in zip(loaded["history"], state()["history"], strict=True):
        np.testing.assert_array_equal(leaf, expected)
    np.testing.assert_array_equal(
        jax.random.key_data(loaded["key"]), jax.random.key_data(state()["key"])
    )
    assert [child.name for child in path.parent.iterdir()] == ["run.npz"]


def test_rounding_of_the_probe_is_allowed(path):
    load(path, probe=PROBE * (1 + 1e-5))


def test_other_runs_models_and_files_are_refused(path):
    with pytest.raises(CheckpointError, match="another run"):
        load(path, mark="other")
    with pytest.raises(CheckpointError, match="another model"):
        load(path, probe=PROBE + 0.1)
    wider = {**jax.eval_shape(state), "history": (jnp.zeros(4), jnp.zeros(2, bool))}
    with pytest.raises(CheckpointError, match=r"Expected an array of shape \(4,\).*got \(3,\)"):
        load(path, template=wider)
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="is damaged"):
        load(path)


def test_fingerprints_differ_by_settings_keys_and_arguments():
    key = jax.random.key(0)
    marks = {
        fingerprint("settings", key, (np.ones(2),)),
        fingerprint("others", key, (np.ones(2),)),
        fingerprint("settings", jax.random.key(1), (np.ones(2),)),
        fingerprint("settings", key, (np.zeros(2),)),
        fingerprint("settings", key, (np.ones(2, np.float32),)),
        fingerprint("settings", key, (np.ones(2), "more")),
    }
    assert len(marks) == 6
    assert fingerprint("settings", key, (np.ones(2),)) in marks
