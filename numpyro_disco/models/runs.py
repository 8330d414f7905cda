"""Independent tempered runs of one NumPyro model, compiled together.

`ModelRuns` is everything between the model's arguments and a result: which of them are compiled for
by shape and which by value, which devices take part, and where a long run is saved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from numpyro.distributions import Distribution

from numpyro_disco._numpyro import constrain_fn
from numpyro_disco._typing import Array, Pytree
from numpyro_disco.models.reading import (
    BaseBlock,
    TemperedModel,
    prepare_model,
    refuse_inferred_normalizers,
)
from numpyro_disco.tempering.checkpoints import fingerprint, load_state, save_state
from numpyro_disco.tempering.devices import make_mesh
from numpyro_disco.tempering.program import Program, quick_key
from numpyro_disco.tempering.settings import TemperingSettings
from numpyro_disco.tempering.state import State, TemperedResult
from numpyro_disco.tempering.status import RUNNING


class FinishedRuns(NamedTuple):
    """What runs leave."""

    draws: Pytree
    """Constrained draws by site, (num_chains, num_particles, ...)."""
    result: TemperedResult
    """Of all runs, a leading axis for them; without positions, which `draws` has."""
    r_hat: Array
    """Across runs, of each unconstrained coordinate, shape (d,)."""
    latent: tuple[str, ...] = ()
    """Names of the latent sites."""


class _Inputs(NamedTuple):
    """What changes from call to call without a new compilation."""

    rng_keys: Array
    """Data of one random key for each run."""
    arrays: list[Any]
    """The model's arguments that are compiled for by shape."""
    block: BaseBlock | None


class _Compiled(NamedTuple):
    """The programs for one structure of arguments."""

    whole: Callable[[_Inputs], FinishedRuns]
    init: Callable[[_Inputs], State]
    advance: Callable[[State, _Inputs, Any], State]
    finish: Callable[[State, _Inputs], FinishedRuns]
    probe: Callable[[_Inputs], Array]
    """Log densities of base and target at points that are always the same draws of the base."""
    latent: list[str]
    """Names of the latent sites, once one of the programs was traced."""
    kind: Any
    """JAX's kind of the random keys."""


class ModelRuns:
    """Runs of one model with one set of settings.

    Args:
        model: a NumPyro model.
        settings: see `TemperingSettings`.
        num_chains: independent runs.
        base: as for `numpyro_disco.models.reading.prepare_model`.
        devices: JAX devices over which each run's particles are spread.
        jit_model_args: compile for arrays and floats of the same shapes, not for their values.
        report: called with a run's index and its inverse temperature after each step, or None.
    """

    def __init__(
        self,
        model: Callable,
        settings: TemperingSettings,
        num_chains: int,
        base: Mapping[str, Distribution],
        devices: Sequence[jax.Device] | None,
        jit_model_args: bool,
        report: Callable[[Any, Any], None] | None,
    ) -> None:
        self.model, self.settings, self.num_chains = model, settings, num_chains
        self.base = base
        self.mesh = None if devices is None else make_mesh(devices)
        self.jit_model_args, self.report = jit_model_args, report
        self._programs: dict[Any, _Compiled] = {}

    def run(
        self, rng_keys: Array, args: tuple, kwargs: dict, block: BaseBlock | None
    ) -> FinishedRuns:
        """All runs as one program.

        Args:
            rng_keys: one key for each run.
            args: the model's arguments.
            kwargs: the model's keyword arguments.
            block: a base for several sites, see `BaseBlock`.

        Returns:
            `FinishedRuns`.
        """
        compiled, inputs = self._prepare(rng_keys, args, kwargs, block)
        return self._collect(compiled, compiled.whole(inputs))

    def run_with_checkpoints(
        self,
        rng_keys: Array,
        args: tuple,
        kwargs: dict,
        block: BaseBlock | None,
        path: Path,
        every: int,
    ) -> FinishedRuns:
        """As `run`, saved after every so many inverse temperatures, and resumed from what is there.

        Args:
            rng_keys: one key for each run.
            args: the model's arguments.
            kwargs: the model's keyword arguments.
            block: a base for several sites, see `BaseBlock`.
            path: file of the checkpoint.
            every: steps between two of them.
        """
        compiled, inputs = self._prepare(rng_keys, args, kwargs, block)
        mark = fingerprint((self.settings, self.num_chains), rng_keys, (args, kwargs, block))
        probe = np.asarray(self._local(compiled.probe(inputs)), np.float64)
        if path.exists():
            template = jax.eval_shape(compiled.init, inputs)
            state = load_state(path, template, mark, probe, compiled.kind)
        else:
            state = compiled.init(inputs)
        while (np.asarray(state.status) == RUNNING).any():
            steps = np.asarray(state.num_steps)[np.asarray(state.status) == RUNNING]
            state = jax.block_until_ready(compiled.advance(state, inputs, int(steps.min()) + every))
            save_state(path, self._local(state), mark, probe)
        return self._collect(compiled, compiled.finish(state, inputs))

    def _collect(self, compiled: _Compiled, finished: FinishedRuns) -> FinishedRuns:
        finished = jax.block_until_ready(finished)
        return self._local(finished)._replace(latent=tuple(compiled.latent))

    def _local(self, tree: Pytree) -> Pytree:
        """Results as arrays of this process alone."""
        if self.mesh is None:
            return tree

        def local(leaf: Array) -> Array:
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                data = np.asarray(jax.random.key_data(leaf))
                return jax.random.wrap_key_data(jnp.asarray(data), impl=jax.random.key_impl(leaf))
            return jnp.asarray(np.asarray(leaf))

        return jax.tree.map(local, tree)

    def _prepare(
        self, rng_keys: Array, args: tuple, kwargs: dict, block: BaseBlock | None
    ) -> tuple[_Compiled, _Inputs]:
        leaves, structure = jax.tree.flatten((args, kwargs))
        dynamic = tuple(self.jit_model_args and _is_numeric(leaf) for leaf in leaves)
        fixed = tuple(None if d else leaf for leaf, d in zip(leaves, dynamic, strict=True))
        arrays = [leaf for leaf, d in zip(leaves, dynamic, strict=True) if d]
        if self.mesh is None:
            keys = jax.vmap(quick_key)(rng_keys)
        else:
            # Of JAX's kinds of keys, the default's draws alone are split over devices.
            keys = rng_keys
        kind = jax.random.key_impl(keys)
        names = None if block is None else block.names

        def read(inputs: _Inputs) -> tuple[TemperedModel, tuple, dict]:
            values = iter(inputs.arrays)
            filled = [next(values) if d else leaf for leaf, d in zip(fixed, dynamic, strict=True)]
            args, kwargs = jax.tree.unflatten(structure, filled)
            prepared = prepare_model(self.model, args, kwargs, self.base, inputs.block)
            if self.settings.kernel == "random_walk":
                refuse_inferred_normalizers(prepared)
            return prepared, args, kwargs

        key: Any = (structure, fixed, dynamic, kind, names, self.report is not None)
        try:
            compiled = self._programs.get(key)
        except TypeError:
            # Arguments that cannot be hashed (arrays, with `jit_model_args` off) compile each time.
            compiled, key = None, None
        if compiled is None:
            compiled = self._compile(read, kind)
            if key is not None:
                self._programs[key] = compiled
        data = jax.random.key_data(keys)
        if block is not None:
            block = BaseBlock(_Static(block.names), block.density)
        inputs = _Inputs(data, arrays, block)
        if self.mesh is not None:
            everywhere = NamedSharding(self.mesh, PartitionSpec())
            inputs = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf), everywhere), inputs)
        return compiled, inputs

    def _compile(self, read: Callable, kind: Any) -> _Compiled:
        latent: list[str] = []

        def program(prepared: TemperedModel, index: Array) -> Program:
            latent[:] = prepared.latent
            return Program(
                prepared.draw_base,
                prepared.log_densities,
                self.settings,
                report=None
                if self.report is None
                else partial(jax.debug.callback, self.report, index),
                mesh=self.mesh,
            )

        # A CPU is kept busy by the particles of one run; run after run, none waits for the slowest.
        one_by_one = jax.default_backend() == "cpu" or self.mesh is not None
        # (A `batch_size` of one would still batch every loop, and double what there is to compile.)
        each = jax.lax.map if one_by_one else partial(jax.lax.map, batch_size=self.num_chains)
        runs = jnp.arange(self.num_chains)

        def init(inputs: _Inputs) -> State:
            prepared, _, _ = read(inputs)
            keys = jax.random.wrap_key_data(inputs.rng_keys, impl=kind)
            return each(lambda run: program(prepared, run[1]).init(run[0]), (keys, runs))

        def advance(state: State, inputs: _Inputs, until: Any) -> State:
            prepared, _, _ = read(inputs)
            return each(lambda run: program(prepared, run[1]).advance(run[0], until), (state, runs))

        def finish(state: State, inputs: _Inputs) -> FinishedRuns:
            prepared, args, kwargs = read(inputs)
            result = each(lambda run: program(prepared, run[1]).result(run[0]), (state, runs))
            return _finished(prepared, args, kwargs, result)

        def probe(inputs: _Inputs) -> Array:
            prepared, _, _ = read(inputs)
            # The model stands in no file, and its closures in no argument: ask it.
            keys = jax.random.split(jax.random.wrap_key_data(inputs.rng_keys, impl=kind)[0], 3)
            return jnp.stack(jax.vmap(prepared.log_densities)(jax.vmap(prepared.draw_base)(keys)))

        def whole(inputs: _Inputs) -> FinishedRuns:
            prepared, args, kwargs = read(inputs)
            keys = jax.random.wrap_key_data(inputs.rng_keys, impl=kind)

            def one(run: tuple[Array, Array]) -> TemperedResult:
                steps = program(prepared, run[1])
                state = steps.advance(steps.init(run[0]), self.settings.max_temperatures)
                return steps.result(state)

            return _finished(prepared, args, kwargs, each(one, (keys, runs)))

        options: dict[str, Any] = {}
        if self.mesh is not None:
            options["out_shardings"] = NamedSharding(self.mesh, PartitionSpec())
        jit = partial(jax.jit, **options)
        return _Compiled(jit(whole), jit(init), jit(advance), jit(finish), jit(probe), latent, kind)


@jax.tree_util.register_static
class _Static(tuple):
    """Names that are part of a program, not of its inputs."""


def _finished(
    prepared: TemperedModel, args: tuple, kwargs: dict, result: TemperedResult
) -> FinishedRuns:
    unravel = jax.vmap(jax.vmap(prepared.unravel))
    draws = constrain_fn(
        prepared.model,
        args,
        kwargs,
        unravel(result.position),
        # What depends on a discrete site that was summed out has no value of its own.
        return_deterministic=not prepared.enumerated,
        batch_ndims=2,
    )
    r_hat = _potential_scale_reduction(result.position)
    nothing = jnp.zeros(len(result.status))
    return FinishedRuns(draws, result._replace(position=nothing, log_base=nothing), r_hat)


def _potential_scale_reduction(position: Array) -> Array:
    """Gelman and Rubin's R-hat of each coordinate across runs, (d,); 1 for one run.

    The draws of a run count as many, so this is the square root of 1 + between / within.
    """
    if len(position) == 1:
        return jnp.ones(position.shape[-1], position.dtype)
    within = position.var(axis=1).mean(axis=0)
    between = position.mean(axis=1).var(axis=0, ddof=1)
    return jnp.sqrt(1 + between / jnp.where(within > 0, within, 1.0))


def _is_numeric(leaf: Any) -> bool:
    if isinstance(leaf, bool | int | complex | str):
        return False
    return isinstance(leaf, float | jax.Array | np.generic) or (
        isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf"
    )
