"""Tempered runs on disk, between two inverse temperatures: arrays only, no pickle."""

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
"""Of log densities, relative and absolute: what rounding does to them elsewhere is less."""


class CheckpointError(ValueError):
    """A file is no checkpoint of this run; the message says what it is."""


def fingerprint(settings: Any, rng_keys: Array, arguments: Pytree) -> str:
    """What two runs have in common if one can go on where the other stopped."""
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
    """Write `state`, all of it or nothing.

    Args:
        path: file to write; an older one there is replaced at the end.
        state: pytree of arrays and random keys.
        mark: the run's `fingerprint`.
        probe: what the model says of some points: another model says something else.
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
    """Read what `save_state` wrote.

    Args:
        path: the file.
        template: pytree of the shapes and types to expect.
        mark: the run's `fingerprint`.
        probe: what the model says of the points that it was asked about before.
        impl: JAX's kind of the random keys.

    Returns:
        A pytree like `template`.

    Raises:
        CheckpointError: the file is something else, or of another run.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        description = json.loads(str(arrays.pop("description")))
        known = description["format"] == FORMAT
        same = np.shape(description["probe"]) == probe.shape and np.allclose(
            description["probe"], probe, rtol=PROBE_TOLERANCE, atol=PROBE_TOLERANCE, equal_nan=True
        )
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise CheckpointError(
            f"'{path}' is not a checkpoint of TemperedSMC, or is damaged ({error}). Delete it to "
            "start anew, or give another path."
        ) from error
    if not known or description["run"] != mark:
        raise CheckpointError(
            f"'{path}' is the checkpoint of another run: key, model arguments or settings differ. "
            "Give another path, or delete it to start anew."
        )
    if not same:
        raise CheckpointError(
            f"'{path}' is the checkpoint of another model, or of other bases, or of other data or "
            "priors inside of the model: log densities differ. Give another path, or delete it to "
            "start anew."
        )

    def fill(place: Any, leaf: Any) -> Array:
        array = arrays.get(jax.tree_util.keystr(place))
        shape = jax.eval_shape(jax.random.key_data, leaf).shape if _is_key(leaf) else leaf.shape
        if array is None or array.shape != shape:
            raise CheckpointError(
                f"'{path}' does not fit this model: {jax.tree_util.keystr(place)} is "
                f"{'missing' if array is None else f'of shape {array.shape}, not {shape}'}."
            )
        if _is_key(leaf):
            return jax.random.wrap_key_data(jax.numpy.asarray(array), impl=impl)
        return jax.numpy.asarray(array)

    return jax.tree_util.tree_map_with_path(fill, template)
