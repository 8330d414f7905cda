"""The compiled programs of a tempered model: a whole run, or its parts between checkpoints.

All independent runs of a model are one program. A program reads the model while it is traced, from
a `Signature`, which it is compiled for, and `Inputs`, which may change from call to call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from numpyro.distributions import Distribution
from scipy import stats

from numpyro_disco._compiling import compiler_options
from numpyro_disco._numpyro import constrain_fn
from numpyro_disco._statistics import log_mean
from numpyro_disco._typing import Array, Pytree
from numpyro_disco.models.bases import BaseBlock
from numpyro_disco.models.reading import (
    TemperedModel,
    prepare_model,
    refuse_inferred_normalizers,
)
from numpyro_disco.tempering.noise import threefry_key
from numpyro_disco.tempering.peaks import Peak, find_peak
from numpyro_disco.tempering.program import Program
from numpyro_disco.tempering.settings import TemperingSettings
from numpyro_disco.tempering.state import State, TemperedResult
from numpyro_disco.tempering.status import (
    CONVERGED,
    DISAGREE,
    MISSED,
    NON_FINITE,
    status_message,
)

MAX_R_HAT = 1.1
"""R-hat across runs of any coordinate above which runs have found different distributions."""
LEAST_EXCESS = 0.2
"""Nats by which the mass of a peak has to exceed the evidence to speak against it."""
EXCESS_SIGMAS = 5
"""Standard errors of the difference, likewise."""
CHANCE = 1e-4
"""Chance of such an excess for a few runs, whose spread says little about their error."""
UNKNOWN_EXCESS = 1.0
"""Nats for a single run, whose error is unknown; and for a few runs, if their chance asks for
more."""


class FinishedRuns(NamedTuple):
    """Draws and diagnostics of all runs."""

    draws: Pytree
    """Constrained draws by site, shape (num_chains, num_particles, ...)."""
    result: TemperedResult
    """Results with a leading axis for the runs, without positions, which `draws` holds."""
    r_hat: Array
    """R-hat across runs of each unconstrained coordinate, shape (d,)."""
    scale: Array
    """Standard deviation of each unconstrained coordinate in all runs, shape (d,)."""
    latent: tuple[str, ...] = ()
    """Names of the latent sites."""
    padded: tuple[str, ...] = ()
    """Names of those that have a value for every entry of a table."""
    peak: Peak | None = None
    """The heaviest peak of the target, if one was searched for."""

    @property
    def status(self) -> np.ndarray:
        """Status code of each run.

        If all runs converged on their own, all have the code DISAGREE if their distributions
        differ, or else MISSED if a peak holds more mass than they found.

        Returns:
            An integer array of shape (num_chains,).
        """
        result = self.result
        status = np.array(result.status)
        if (status == CONVERGED).all():
            if (np.asarray(self.r_hat) > MAX_R_HAT).any():
                status[:] = DISAGREE
            elif self.peak is not None and self._excess(self.peak) > 0:
                status[:] = MISSED
        return status

    def _excess(self, peak: Peak) -> float:
        """Nats by which the mass of a peak exceeds all that the runs found, beyond errors."""
        log_normalizers = np.asarray(self.result.log_normalizer, np.float64)
        log_mass, error = log_mean(log_normalizers)
        runs = UNKNOWN_EXCESS
        if len(log_normalizers) > 1:
            quantile = stats.t.isf(CHANCE, len(log_normalizers) - 1)
            runs = min(max(runs, EXCESS_SIGMAS * error), quantile * error)
        margin = max(LEAST_EXCESS, np.hypot(runs, EXCESS_SIGMAS * float(peak.error)))
        return float(peak.log_mass) - float(log_mass) - margin

    @property
    def status_messages(self) -> list[str]:
        """The outcome of each run and, if it failed, what to do."""
        table = np.asarray(self.result.history.inverse_temperature)
        steps = np.asarray(self.result.num_steps)
        reached = [float(row[n - 1]) if n else 0.0 for row, n in zip(table, steps, strict=True)]
        shares = np.asarray(self.result.impossible, np.float64)
        return [
            status_message(int(code), b, int(n)) + (_remedy(share) if code == NON_FINITE else "")
            for code, b, n, share in zip(self.status, reached, steps, shares, strict=True)
        ]


def _remedy(share: float) -> str:
    """Advice if the log density is NaN at a share of the draws of the base."""
    if share == 0:
        return ""
    return (
        f" It is NaN at {share:.2g} of the draws. If these are points where the model fails, such "
        'as a solver, and which are to count as impossible, give `non_finite="impossible"`.'
    )


@jax.tree_util.register_static
class StaticNames(tuple):
    """Names that belong to a compiled program, not to its inputs."""


class Inputs(NamedTuple):
    """Inputs of a program, which may change from call to call without a new compilation."""

    rng_keys: Array
    """Data of one random key for each run."""
    arrays: list[Any]
    """The arguments of the model that are compiled for by shape."""
    block: BaseBlock | None
    """A joint base of several sites, with `StaticNames`."""


class Signature(NamedTuple):
    """Key of a set of compiled programs: all that a new compilation depends on."""

    structure: Any
    """Tree structure of the model's (args, kwargs)."""
    fixed: tuple
    """Leaves that are compiled for by value, None for the others."""
    dynamic: tuple[bool, ...]
    """True for the leaves that are compiled for by shape."""
    key_impl: Any
    """JAX's implementation of the random keys."""
    block_names: tuple[str, ...] | None
    """Sites of the joint base, or None."""

    def arguments(self, arrays: Sequence[Any]) -> tuple[tuple, dict]:
        """Put the leaves that are compiled for by shape back into (args, kwargs)."""
        values = iter(arrays)
        leaves = [
            next(values) if is_dynamic else leaf
            for leaf, is_dynamic in zip(self.fixed, self.dynamic, strict=True)
        ]
        return jax.tree.unflatten(self.structure, leaves)


class RunOptions(NamedTuple):
    """Options that all compiled programs of a `ModelRuns` share."""

    model: Callable
    settings: TemperingSettings
    num_chains: int
    base: Mapping[str, Distribution]
    """Distributions from which some sites start."""
    mesh: jax.sharding.Mesh | None
    """Devices over which particles are spread, or None for the default device."""
    report: Callable[[Any, Any], None] | None
    """Called with a run's index and its inverse temperature after each step."""
    search_peaks: bool = False
    """Search for a peak that the particles missed."""


class Programs:
    """The programs for one signature of a model's arguments, each compiled at its first call.

    Args:
        options: what all programs share.
        signature: what these programs are for.
    """

    latent: tuple[str, ...]
    """Names of the latent sites, once one of the programs was traced."""
    padded: tuple[str, ...]
    """Names of those that are padded, likewise."""

    def __init__(self, options: RunOptions, signature: Signature) -> None:
        self.options, self.signature = options, signature
        self.latent = self.padded = ()
        jit_options: dict[str, Any] = {"compiler_options": compiler_options(hoist=False)}
        if options.mesh is not None:
            jit_options["out_shardings"] = NamedSharding(options.mesh, PartitionSpec())
        jit = partial(jax.jit, **jit_options)
        self.whole: Callable[[Inputs], FinishedRuns] = jit(self._whole)
        self.init: Callable[[Inputs], State] = jit(self._init)
        self.advance: Callable[[State, Inputs, Any], State] = jit(self._advance)
        self.finish: Callable[[State, Inputs], FinishedRuns] = jit(self._finish)
        self.probe: Callable[[Inputs], Array] = jit(self._probe)
        self.peak: Callable[[Inputs, Array, Array], Peak] = jit(self._peak)

    def _whole(self, inputs: Inputs) -> FinishedRuns:
        """All runs from start to end."""
        prepared = self._read(inputs)

        def run(rng_key: Array, index: Array) -> TemperedResult:
            program = self._program(prepared, index)
            state = program.init(rng_key)
            return program.result(program.advance(state, self.options.settings.max_temperatures))

        return self._finished(prepared, inputs, self._each_run(run, self._keys(inputs)))

    def _init(self, inputs: Inputs) -> State:
        """All runs before their first step."""
        prepared = self._read(inputs)
        return self._each_run(
            lambda rng_key, index: self._program(prepared, index).init(rng_key),
            self._keys(inputs),
        )

    def _advance(self, state: State, inputs: Inputs, until: Any) -> State:
        """All runs, each until it has ended or has taken `until` steps."""
        prepared = self._read(inputs)
        return self._each_run(
            lambda one, index: self._program(prepared, index).advance(one, until), state
        )

    def _finish(self, state: State, inputs: Inputs) -> FinishedRuns:
        """The results of runs that have ended."""
        prepared = self._read(inputs)
        result = self._each_run(
            lambda one, index: self._program(prepared, index).result(one), state
        )
        return self._finished(prepared, inputs, result)

    def _probe(self, inputs: Inputs) -> Array:
        """Log densities of base and target at three draws of the base, the same for one key.

        A checkpoint holds neither the model nor what its closures hold; these numbers identify it.
        """
        prepared = self._read(inputs)
        keys = jax.random.split(self._keys(inputs)[0], 3)
        return jnp.stack(jax.vmap(prepared.log_densities)(jax.vmap(prepared.draw_base)(keys)))

    def _peak(self, inputs: Inputs, starts: Array, scale: Array) -> Peak:
        """The heaviest peak on whose slopes some start lies."""
        log_densities = self._read(inputs).log_densities
        rng_key = jax.random.fold_in(threefry_key(self._keys(inputs)[0]), 1)
        return find_peak(rng_key, lambda u: log_densities(u)[1], starts, scale)

    def _read(self, inputs: Inputs) -> TemperedModel:
        options = self.options
        args, kwargs = self.signature.arguments(inputs.arrays)
        prepared = prepare_model(options.model, args, kwargs, options.base, inputs.block)
        if options.settings.kernel == "random_walk":
            refuse_inferred_normalizers(prepared)
        self.latent, self.padded = prepared.latent, prepared.padded
        return prepared

    def _program(self, prepared: TemperedModel, index: Array) -> Program:
        options, report = self.options, None
        if options.report is not None:
            report = partial(jax.debug.callback, options.report, index)
        return Program(
            prepared.draw_base,
            prepared.log_densities,
            options.settings,
            report=report,
            mesh=options.mesh,
        )

    def _keys(self, inputs: Inputs) -> Array:
        return jax.random.wrap_key_data(inputs.rng_keys, impl=self.signature.key_impl)

    def _each_run(self, function: Callable[[Any, Array], Any], entries: Pytree) -> Any:
        """Map `function(entry, index)` over the runs, along the leading axis of `entries`."""
        num_chains = self.options.num_chains
        # The particles of one run keep a CPU busy, and in sequence no run waits for the slowest.
        in_sequence = jax.default_backend() == "cpu" or self.options.mesh is not None
        # A `batch_size` of 1 would batch every loop all the same, and double what is compiled.
        batch_size = {} if in_sequence else {"batch_size": num_chains}
        runs = entries, jnp.arange(num_chains)
        return jax.lax.map(lambda run: function(*run), runs, **batch_size)

    def _finished(
        self, prepared: TemperedModel, inputs: Inputs, result: TemperedResult
    ) -> FinishedRuns:
        args, kwargs = self.signature.arguments(inputs.arrays)
        draws = constrain_fn(
            prepared.model,
            args,
            kwargs,
            jax.vmap(jax.vmap(prepared.unravel))(result.position),
            # Sites that depend on a discrete site that was summed out have no single value.
            return_deterministic=not prepared.enumerated,
            batch_ndims=2,
        )
        r_hat = potential_scale_reduction(result.position)
        nothing = jnp.zeros(len(result.status))
        scale = result.position.std(axis=(0, 1))
        result = result._replace(position=nothing, log_base=nothing)
        return FinishedRuns(draws, result, r_hat, scale)


def potential_scale_reduction(position: Array) -> Array:
    """Gelman and Rubin's R-hat across runs, sqrt(1 + between / within).

    The number of draws in each run is taken as large.

    Args:
        position: draws, shape (num_chains, num_particles, d).

    Returns:
        R-hat of each coordinate, shape (d,); 1 for a single run.

    References:
        Gelman & Rubin 1992.
    """
    if len(position) == 1:
        return jnp.ones(position.shape[-1], position.dtype)
    within = position.var(axis=1).mean(axis=0)
    between = position.mean(axis=1).var(axis=0, ddof=1)
    return jnp.sqrt(1 + between / jnp.where(within > 0, within, 1.0))
