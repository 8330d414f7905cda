"""Tempered runs on disk, between two inverse temperatures.

A checkpoint is an npz file of arrays, without pickle: the leaves of a run's `State`, a fingerprint
of the run, and the model's log densities at some points.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from numpyro_disco._typing import Array, Pytree

FORMAT = "numpyro_disco tempered runs"
PROBE_TOLERANCE = 1e-3
"""Relative and absolute tolerance of log densities, above their rounding on another machine."""


class CheckpointError(ValueError):
    """A file or a folder is not a checkpoint of this run; the message says why."""


def fingerprint(settings: Any, rng_keys: Array, arguments: Pytree) -> str:
    """Compute a digest that two runs share if one can continue where the other stopped.

    Args:
        settings: settings of the run; their `repr` counts.
        rng_keys: random keys of the run.
        arguments: arguments of the model.

    Returns:
        A hexadecimal digest.
    """
    digest = hashlib.sha256(repr(settings).encode())
    leaves, structure = jax.tree.flatten(arguments)
    digest.update(str(structure).encode())
    for leaf in [jax.random.key_data(rng_keys), *leaves]:
        if isinstance(leaf, jax.Array | np.ndarray | np.generic):
            array = np.asarray(leaf)
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        else:
            digest.update(repr(leaf).encode())
    return digest.hexdigest()


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def save_state(path: Path, state: Pytree, mark: str, probe: np.ndarray) -> None:
    """Write `state` completely, or not at all.

    Args:
        path: file to write; an existing one is replaced once the new one is complete.
        state: pytree of arrays and random keys.
        mark: the run's `fingerprint`.
        probe: log densities of the model at fixed points, which tell models apart.
    """
    description = {"format": FORMAT, "run": mark, "probe": probe.tolist()}
    arrays = {"description": np.asarray(json.dumps(description))}
    for place, leaf in jax.tree_util.tree_leaves_with_path(state):
        data = jax.random.key_data(leaf) if _is_key(leaf) else leaf
        arrays[jax.tree_util.keystr(place)] = np.asarray(data)
    unfinished = path.with_name(path.name + ".part")
    with open(unfinished, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    os.replace(unfinished, path)


def load_state(path: Path, template: Pytree, mark: str, probe: np.ndarray, impl: Any) -> Pytree:
    """Read a state that `save_state` wrote.

    Args:
        path: the file.
        template: pytree with the shapes and types to expect.
        mark: the run's `fingerprint`.
        probe: log densities of the model at the same points as before.
        impl: JAX's kind of the random keys.

    Returns:
        A pytree like `template`.

    Raises:
        CheckpointError: the file is not a checkpoint, or is one of another run.
    """
    arrays = _read(path, mark, probe)

    def fill(place: Any, leaf: Any) -> Array:
        array = arrays.get(jax.tree_util.keystr(place))
        shape = jax.eval_shape(jax.random.key_data, leaf).shape if _is_key(leaf) else leaf.shape
        if array is None or array.shape != shape:
            raise CheckpointError(
                f"Expected an array of shape {shape} for {jax.tree_util.keystr(place)} in the "
                f"checkpoint '{path}'; got {'none' if array is None else array.shape}. Delete the "
                "file to start again, or give another path."
            )
        if _is_key(leaf):
            return jax.random.wrap_key_data(jax.numpy.asarray(array), impl=impl)
        return jax.numpy.asarray(array)

    return jax.tree_util.tree_map_with_path(fill, template)


def _read(path: Path, mark: str, probe: np.ndarray) -> dict[str, np.ndarray]:
    """Read the arrays of a file, if it is a checkpoint of this run."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        description = json.loads(str(arrays.pop("description")))
        known = description["format"] == FORMAT
        same_model = np.shape(description["probe"]) == probe.shape and np.allclose(
            description["probe"], probe, rtol=PROBE_TOLERANCE, atol=PROBE_TOLERANCE, equal_nan=True
        )
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise CheckpointError(
            f"'{path}' is not a checkpoint of TemperedSMC, or is damaged ({error}). Delete it to "
            "start again, or give another path."
        ) from error
    if not known or description["run"] != mark:
        raise CheckpointError(
            f"'{path}' is the checkpoint of another run: its key, model arguments or settings "
            "differ. Give another path, or delete the file to start again."
        )
    if not same_model:
        raise CheckpointError(
            f"'{path}' is the checkpoint of another model, base or data inside the model: the log "
            "densities differ. Give another path, or delete the file to start again."
        )
    return arrays
