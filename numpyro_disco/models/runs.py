"""Independent tempered runs of one NumPyro model.

`ModelRuns` turns the model's arguments into a result. It decides which arguments are compiled for
by shape and which by value, keeps the compiled programs of each signature of the arguments, spreads
particles over devices and resumes runs from checkpoints.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from numpyro.distributions import Distribution

from numpyro_disco._devices import local, make_mesh
from numpyro_disco._typing import Array, Pytree
from numpyro_disco.models.bases import BaseBlock
from numpyro_disco.models.programs import (
    FinishedRuns,
    Inputs,
    Programs,
    RunOptions,
    Signature,
    StaticNames,
)
from numpyro_disco.tempering.checkpoints import fingerprint, load_state, save_state
from numpyro_disco.tempering.noise import quick_key, threefry_key
from numpyro_disco.tempering.peaks import Peak
from numpyro_disco.tempering.settings import TemperingSettings
from numpyro_disco.tempering.status import RUNNING


class ModelRuns:
    """Runs of one model with one set of settings.

    Args:
        model: a NumPyro model.
        settings: see `TemperingSettings`.
        num_chains: number of independent runs.
        base: distributions from which some sites start, see `prepare_model`.
        devices: JAX devices over which the particles of each run are spread.
        jit_model_args: compile for the shapes of arrays and floats, not for their values.
        report: called with a run's index and its inverse temperature after each step, or None.
        search_peaks: search for a peak that the particles missed, see `find_peak`.

    Raises:
        ValueError: The devices cannot share the particles equally.
    """

    def __init__(
        self,
        model: Callable,
        settings: TemperingSettings,
        num_chains: int,
        *,
        base: Mapping[str, Distribution],
        devices: Sequence[jax.Device] | None,
        jit_model_args: bool,
        report: Callable[[Any, Any], None] | None,
        search_peaks: bool,
    ) -> None:
        if devices is not None and settings.num_survivors % len(devices):
            raise ValueError(
                f"Expected a number of particles that {len(devices)} `devices` can share equally; "
                f"got {settings.num_survivors} (`num_particles` over `chain_length`)."
            )
        mesh = None if devices is None else make_mesh(devices)
        self.options = RunOptions(model, settings, num_chains, base, mesh, report, search_peaks)
        self.jit_model_args = jit_model_args
        self._programs: dict[Signature, Programs] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what belongs to this process: programs, and devices, of which ids stay."""
        mesh = self.options.mesh
        return {
            **self.__dict__,
            "options": self.options._replace(mesh=None),
            "devices": None if mesh is None else [device.id for device in mesh.devices.flat],
            "_programs": {},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Find the devices by their ids; programs are compiled when they are needed."""
        ids = state.pop("devices")
        here = {device.id: device for device in jax.devices()} if ids else {}
        self.__dict__.update(state)
        # A process that lacks some of the devices runs on its default one.
        if ids and {*ids} <= {*here}:
            self.options = self.options._replace(mesh=make_mesh([here[index] for index in ids]))

    def run(
        self, rng_keys: Array, args: tuple, kwargs: dict, block: BaseBlock | None
    ) -> FinishedRuns:
        """All runs as one compiled program.

        Args:
            rng_keys: one key for each run.
            args: arguments of the model.
            kwargs: keyword arguments of the model.
            block: a joint base of several sites, or None.

        Returns:
            `FinishedRuns`.
        """
        programs, inputs = self._prepare(rng_keys, args, kwargs, block)
        return self._collect(programs, inputs, programs.whole(inputs))

    def run_with_checkpoints(
        self,
        rng_keys: Array,
        args: tuple,
        kwargs: dict,
        block: BaseBlock | None,
        path: Path,
        every: int,
    ) -> FinishedRuns:
        """All runs, saved after every few inverse temperatures and resumed from an earlier file.

        Args:
            rng_keys: one key for each run.
            args: arguments of the model.
            kwargs: keyword arguments of the model.
            block: a joint base of several sites, or None.
            path: file of the checkpoint.
            every: number of steps between two checkpoints.

        Returns:
            `FinishedRuns`, with the numbers that `run` gives.

        Raises:
            CheckpointError: `path` holds something else, or another run.
        """
        programs, inputs = self._prepare(rng_keys, args, kwargs, block)
        settings, num_chains = self.options.settings, self.options.num_chains
        mark = fingerprint((settings, num_chains), rng_keys, (args, kwargs, block))
        probe = np.asarray(self._local(programs.probe(inputs)), np.float64)
        if path.exists():
            template = jax.eval_shape(programs.init, inputs)
            state = load_state(path, template, mark, probe, programs.signature.key_impl)
        else:
            state = programs.init(inputs)
        while (running := np.asarray(state.status) == RUNNING).any():
            until = int(np.asarray(state.num_steps)[running].min()) + every
            state = jax.block_until_ready(programs.advance(state, inputs, until))
            save_state(path, self._local(state), mark, probe)
        return self._collect(programs, inputs, programs.finish(state, inputs))

    def _prepare(
        self, rng_keys: Array, args: tuple, kwargs: dict, block: BaseBlock | None
    ) -> tuple[Programs, Inputs]:
        """The programs for these arguments, compiled before or new, and their inputs."""
        leaves, structure = jax.tree.flatten((args, kwargs))
        dynamic = tuple(self.jit_model_args and _is_numeric(leaf) for leaf in leaves)
        pairs = list(zip(leaves, dynamic, strict=True))
        # Only the draws of JAX's default kind of key are split over devices.
        keys = (threefry_key if self.options.mesh is not None else quick_key)(rng_keys)
        signature = Signature(
            structure,
            fixed=tuple(None if is_dynamic else leaf for leaf, is_dynamic in pairs),
            dynamic=dynamic,
            key_impl=jax.random.key_impl(keys),
            block_names=None if block is None else block.names,
        )
        inputs = Inputs(
            jax.random.key_data(keys),
            [leaf for leaf, is_dynamic in pairs if is_dynamic],
            None if block is None else BaseBlock(StaticNames(block.names), block.density),
        )
        if self.options.mesh is not None:
            everywhere = NamedSharding(self.options.mesh, PartitionSpec())
            inputs = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf), everywhere), inputs)
        return self._programs_for(signature), inputs

    def _programs_for(self, signature: Signature) -> Programs:
        try:
            hash(signature)
        except TypeError:
            # Arguments that cannot be hashed (arrays, with `jit_model_args` off) compile each time.
            return Programs(self.options, signature)
        if signature not in self._programs:
            self._programs[signature] = Programs(self.options, signature)
        return self._programs[signature]

    def _collect(self, programs: Programs, inputs: Inputs, finished: FinishedRuns) -> FinishedRuns:
        finished = jax.block_until_ready(finished)
        if self.options.search_peaks:
            finished = finished._replace(peak=_searched(programs, inputs, finished))
        names = {"latent": tuple(programs.latent), "padded": tuple(programs.padded)}
        return self._local(finished)._replace(**names)

    def _local(self, tree: Pytree) -> Pytree:
        """Results as arrays of this process, if they are spread over devices."""
        return tree if self.options.mesh is None else local(tree)


def _searched(programs: Programs, inputs: Inputs, finished: FinishedRuns) -> Peak | None:
    """The heaviest peak, or None with a warning if the model has no such derivatives."""
    starts = finished.result.starts
    starts = starts.reshape((-1, starts.shape[-1]))
    try:
        return jax.block_until_ready(programs.peak(inputs, starts, finished.scale))
    except Exception as error:
        # The runs have ended and are worth more than the search.
        warnings.warn(
            f"The search for peaks failed ({type(error).__name__}: {error}), so nothing is known "
            "of modes that the runs missed; the runs themselves have ended. Leave out "
            "`search_peaks` for a model without second derivatives.",
            stacklevel=5,
        )
        return None


def _is_numeric(leaf: Any) -> bool:
    """Return True for arrays and floats, which are compiled for by shape."""
    if isinstance(leaf, bool | int | complex | str):
        return False
    return isinstance(leaf, float | jax.Array | np.generic) or (
        isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf"
    )
