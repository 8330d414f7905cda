"""Fits on disk, between two rounds of training.

A checkpoint is a folder. It holds one subfolder for each time that the network is trained ("fit",
then "refit_1", ... with `Refit`), and in it what took time: the mixture ("reference"), the order of
columns ("order"), imputed rows ("imputed"), and the latest state of training ("rounds"). Orbax
writes each of them under another name and renames it once it is complete, so a reader finds the
former state or the new one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from numpyro_disco._devices import same_everywhere
from numpyro_disco._typing import Array, Pytree
from numpyro_disco.references.base import Reference
from numpyro_disco.tempering.checkpoints import CheckpointError
from numpyro_disco.training.loop import Carry, Plan, Run
from numpyro_disco.training.optimizer import AdamW, transformation
from numpyro_disco.training.settings import FitSettings

SECONDS_BETWEEN = 30.0
"""Training is saved after the first round that ends so long after the former save."""
NUM_PROBES = 3
"""Updates by which the optax optimisers of users are told apart."""


class Saved(NamedTuple):
    """A state of training that was read from a checkpoint."""

    run: Run
    """State of training after a round."""
    finished: bool
    """True if training had ended."""


class Checkpoint:
    """The folder in which one fit saves its state; without a folder, nothing is saved.

    Args:
        path: the folder, which need not exist; or None.
        marks: what identifies the fit, see `fit_marks`.

    Raises:
        CheckpointError: `path` is a file, or a folder that holds something else.
    """

    def __init__(self, path: str | os.PathLike[str] | None, marks: Mapping[str, str]) -> None:
        self.path = None if path is None else Path(path).absolute()
        self.marks = dict(marks)
        self._saved_at = time.monotonic()
        if self.path is not None and self.path.exists():
            _check_folder(self.path)

    def subfolder(self, name: str) -> Checkpoint:
        """The part of the checkpoint for one training of the network."""
        part = Checkpoint(None, self.marks)
        part.path = None if self.path is None else self.path / name
        return part

    def kept(self, name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Read arrays that were stored before, or make and store them.

        Args:
            name: name of the arrays within the folder.
            make: makes them; not called if they are found.

        Raises:
            CheckpointError: they are damaged, or belong to another fit.
        """
        if self.path is None:
            return make()
        found = _read(self.path / name, self.marks)
        if found is not None:
            return found[0]
        arrays = make()
        _write(self.path / name, 0, arrays, {"marks": self.marks})
        return arrays

    def read_run(self, weights: Pytree, plan: Plan) -> Saved | None:
        """Read the latest state of training; None if there is none.

        Args:
            weights: weights of the network, for their structure.
            plan: what the training loop reads.

        Raises:
            CheckpointError: the state is damaged, or belongs to another fit.
        """
        if self.path is None:
            return None
        optimizer = transformation(plan.optimizer, plan.num_steps)
        state = optimizer.init(weights)
        if not isinstance(plan.optimizer, AdamW):
            # The settings of an optax optimiser are in closures; what it does identifies it.
            self.marks |= {"optimizer": _probe(optimizer, state, weights)}
        found = _read(self.path / "rounds", self.marks)
        if found is None:
            return None
        arrays, about = found
        carry = Carry(weights, state, weights, jnp.zeros((), jnp.int32))
        template = Run(carry, weights, **_NO_RECORDS)
        return Saved(_run_of(self.path / "rounds", arrays, template), bool(about["finished"]))

    def write_run(self, run: Run, finished: bool) -> None:
        """Save a state of training in place of the former one.

        Args:
            run: the state after a round.
            finished: True if training has ended.
        """
        if self.path is None:
            return
        about = {"marks": self.marks, "finished": finished}
        # A finished run may have the step of a state that was saved before.
        place = 2 * int(run.carry.step) + finished
        _write(self.path / "rounds", place, _arrays_of(run), about)
        self._saved_at = time.monotonic()

    def after_round(self, run: Run) -> None:
        """Save a state of training if the former one is older than `SECONDS_BETWEEN`."""
        if self.path is None:
            return
        # All processes write together, when the first one says so.
        due = np.array([time.monotonic() - self._saved_at >= SECONDS_BETWEEN])
        if same_everywhere({"due": due})["due"].any():
            self.write_run(run, finished=False)


def fit_marks(
    rng_key: Array,
    names: tuple[str, ...],
    arrays: Iterable[np.ndarray],
    settings: FitSettings,
    resumed: Run | None,
) -> dict[str, str]:
    """Texts that are the same for two calls of `fit` if one can continue the other.

    Args:
        rng_key: the key of the fit.
        names: names of the columns.
        arrays: the rows.
        settings: settings of the fit, before defaults are resolved.
        resumed: the state of training that `resume` brings, or None.

    Returns:
        Texts by the name of what they stand for.
    """
    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return {
        "rng_key": _digest([np.asarray(jax.random.key_data(rng_key))]),
        "names": repr(names),
        "data": _digest(arrays),
        "resume": _digest([] if resumed is None else map(np.asarray, jax.tree.leaves(resumed))),
        "precision": str(jnp.result_type(float)),
        **{name: _description(value) for name, value in fields.items()},
    }


def _description(value: Any) -> str:
    if isinstance(value, Reference):
        return f"{type(value).__name__} {_digest(map(np.asarray, jax.tree.leaves(value)))}"
    # Functions are shown with their address, which differs between processes.
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _digest(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _probe(optimizer: optax.GradientTransformation, state: Pytree, weights: Pytree) -> str:
    """Digest of the first updates for gradients of one."""
    gradient, found = jax.tree.map(jnp.ones_like, weights), []
    for _ in range(NUM_PROBES):
        updates, state = optimizer.update(gradient, state, weights)
        found += [np.asarray(leaf) for leaf in jax.tree.leaves(updates)]
    return _digest(found)


def _arrays_of(run: Run) -> dict[str, np.ndarray]:
    """The leaves of a run by their place in it."""
    flat = run._replace(history=np.asarray(run.history, np.float64))  # type: ignore[arg-type]
    return {
        jax.tree_util.keystr(place, simple=True, separator="."): np.asarray(leaf)
        for place, leaf in jax.tree_util.tree_leaves_with_path(flat)
    }


def _run_of(folder: Path, arrays: dict[str, np.ndarray], template: Run) -> Run:
    """The run that `_arrays_of` took apart; the template gives its structure."""

    def stored(place: Any, leaf: Array) -> Array:
        array = arrays.get(jax.tree_util.keystr(place, simple=True, separator="."))
        if array is None or array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise _damaged(folder, f"{jax.tree_util.keystr(place)} is missing or has another shape")
        return jnp.asarray(array)

    learned = jax.tree_util.tree_map_with_path(stored, template)
    try:
        history = tuple((int(step), *map(float, rest)) for step, *rest in arrays["history"])
        return learned._replace(
            best_step=int(arrays["best_step"]),
            start=arrays["start"],
            lowest=arrays["lowest"],
            rise=float(arrays["rise"]),
            history=history,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, error) from error


_NO_RECORDS: dict[str, Any] = {name: None for name in Run._fields if name not in ("carry", "best")}
"""Fields of a run that are no arrays of a fixed shape."""


_PARTS = r"fit|refit_\d+"
"""Names of the parts of a checkpoint, one for each training of a network."""


def _check_folder(path: Path) -> None:
    """Refuse a file, and a folder with something else in it."""
    if path.is_dir():
        foreign = sorted(
            child.name for child in path.iterdir() if not re.fullmatch(_PARTS, child.name)
        )
        if not foreign:
            return
        found = f"a folder that holds {foreign[:3]}"
    else:
        found = "a file"
    raise CheckpointError(
        f"Expected a new folder, or that of an earlier fit, for `checkpoint`; '{path}' is {found}. "
        "Give another path."
    )


def _manager(folder: Path) -> Any:
    import orbax.checkpoint as ocp

    # An asynchronous save could be cut off by the end of the process.
    options = ocp.CheckpointManagerOptions(
        max_to_keep=1, enable_async_checkpointing=False, cleanup_tmp_directories=True
    )
    return ocp.CheckpointManager(folder, options=options)


def _write(folder: Path, step: int, arrays: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """Write arrays and their description completely, or not at all; then delete the former ones."""
    import orbax.checkpoint as ocp

    # Orbax refuses arrays without entries.
    empty = {name: array.shape for name, array in arrays.items() if not array.size}
    filled = {name: array for name, array in arrays.items() if array.size}
    digest = _digest(arrays[name] for name in sorted(arrays))
    about = about | {"digest": digest, "empty": empty}
    content = ocp.args.Composite(
        arrays=ocp.args.StandardSave(filled), about=ocp.args.JsonSave(about)
    )
    with _manager(folder) as manager:
        manager.save(step, args=content)


def _read(
    folder: Path, marks: Mapping[str, str]
) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Read what `_write` wrote last, if it belongs to this fit; None if there is nothing."""
    if not folder.exists():
        return None
    import orbax.checkpoint as ocp

    content = ocp.args.Composite(arrays=ocp.args.StandardRestore(), about=ocp.args.JsonRestore())
    with _manager(folder) as manager:
        if manager.latest_step() is None:
            return None
        try:
            found = manager.restore(manager.latest_step(), args=content)
            arrays = {name: np.asarray(array) for name, array in found.arrays.items()}
            arrays |= {name: np.zeros(shape) for name, shape in found.about["empty"].items()}
            stored, digest = found.about["marks"], found.about["digest"]
        # Orbax raises errors of many kinds on damaged bytes.
        except Exception as error:
            raise _damaged(folder, error) from error
    if digest != _digest(arrays[name] for name in sorted(arrays)):
        raise _damaged(folder, "its numbers have changed")
    differing = [name for name, mark in marks.items() if stored.get(name) != mark]
    if differing:
        raise CheckpointError(
            f"'{folder.parents[1]}' belongs to a fit with other values of "
            f"{', '.join(f'`{name}`' for name in differing)}. Give another `checkpoint`, or delete "
            "the folder to start again."
        )
    return arrays, found.about


def _damaged(folder: Path, problem: Any) -> CheckpointError:
    return CheckpointError(
        f"'{folder.parents[1]}' is not a checkpoint of `fit`, or is damaged: {folder.name} cannot "
        f"be read ({problem}). Delete the folder to start again, or give another `checkpoint`."
    )
