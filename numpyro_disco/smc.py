"""`TemperedSMC`: tempered sequential Monte Carlo for any NumPyro model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from numpyro.diagnostics import print_summary
from numpyro.infer import MCMC
from numpyro.infer.mcmc import MCMCKernel
from numpyro.infer.util import constrain_fn
from tqdm.auto import tqdm

from numpyro_disco._checks import check_count, check_key
from numpyro_disco._typing import Array, Pytree
from numpyro_disco.models import TemperedModel, prepare_model
from numpyro_disco.tempering import (
    CONVERGED,
    TemperedHistory,
    TemperedResult,
    TemperingSettings,
    status_message,
    tempered_smc,
)


class _ModelHolder(MCMCKernel):
    """What `MCMC` and ArviZ ask of a sampler: its model and the name of its samples."""

    sample_field = "z"
    default_fields = ("z",)

    def __init__(self, model: Callable) -> None:
        self.model = model

    def init(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("TemperedSMC has no chain to start; call its `run`.")

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("TemperedSMC has no chain to advance; call its `run`.")


class TemperedSMC(MCMC):
    """Tempered sequential Monte Carlo on a NumPyro model: draws, log evidence, several modes.

    Particles start as draws of a base: ordinary latent sites from their priors, learned priors from
    their reference (given their clamped coordinates, in closed form). Likelihoods, factors, and
    the energies relative to their references come in by an inverse temperature b that rises from 0
    to 1 as far at a time as the particles allow; at each b they are reweighted, resampled and moved
    by Hamiltonian Monte Carlo tuned from the particles themselves. The last resampling and moves
    are at b = 1, so draws are equally weighted. Draws are asymptotically exact as `num_particles`
    grows; each run's evidence is consistent, with a bias of order 1 / num_particles.

    It has the interface of `numpyro.infer.MCMC`, and derives from it so that ArviZ takes it: a
    *chain* is one independent run, its draws are that run's particles. Particles of one run are
    not a time series: R-hat compares independent runs, and an effective sample size counts
    particles in the order of their ancestors, so copies of one ancestor show as repeats.

    Args:
        model: any NumPyro model whose latent sites are continuous.
        num_particles: particles of each run.
        num_chains: independent runs, all in one compiled program; two or more let R-hat
            and the evidence's standard error say whether they agree.
        progress_bar: show the inverse temperature with tqdm.
        jit_model_args: compile for arrays and floats of the same shapes instead of for their
            values. Turn it off for a model that needs concrete arguments, such as a table whose
            NaN decide which sites there are.
        throw: raise if a run failed; else see `status`.
        **settings: fields of `numpyro_disco.tempering.TemperingSettings`: `target_ess`,
            `num_moves`, `max_leapfrog`, `target_accept`, `dense_mass`, `max_temperatures`.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist, numpyro_disco as disco
        >>> def model(y):
        ...     mu = numpyro.sample("mu", dist.Normal(0, 1))
        ...     numpyro.sample("y", dist.Normal(mu, 1), obs=y)
        >>> smc = disco.TemperedSMC(model, num_particles=64, num_chains=2, progress_bar=False)
        >>> smc.run(jax.random.key(0), 0.5)
        >>> smc.get_samples()["mu"].shape, smc.log_normalizer.shape
        ((128,), (2,))
    """

    def __init__(
        self,
        model: Callable,
        *,
        num_particles: int = 1024,
        num_chains: int = 4,
        progress_bar: bool = True,
        jit_model_args: bool = True,
        throw: bool = True,
        **settings: Any,
    ) -> None:
        self.settings = TemperingSettings(num_particles=num_particles, **settings)
        super().__init__(
            _ModelHolder(model),
            num_warmup=0,
            num_samples=self.settings.num_particles,
            num_chains=check_count(num_chains, "num_chains"),
            chain_method="vectorized",
            progress_bar=progress_bar,
            jit_model_args=jit_model_args,
        )
        self.throw = throw
        self._programs: dict[Any, tuple[Callable, list[str]]] = {}
        self._summary: TemperedResult | None = None
        self._latent: tuple[str, ...] = ()
        self._bar: Any = None
        self._reached = np.zeros(num_chains)

    def run(self, rng_key: Array, *args: Any, **kwargs: Any) -> None:
        """Run all chains on the model with these arguments.

        Arguments with the same shapes do not compile again, whatever their values.

        Args:
            rng_key: random key.
            *args: the model's.
            **kwargs: the model's.

        Raises:
            ValueError: a latent site that cannot start a run, named, with the remedy.
            RuntimeError: a run failed (unless `throw=False`).
        """
        rng_keys = jax.random.split(check_key(rng_key), self.num_chains)
        self._args, self._kwargs = args, kwargs
        program, arrays, latent = self._program(args, kwargs)
        self._reached[:] = 0
        with tqdm(
            total=1.0,
            disable=not self.progress_bar,
            desc="inverse temperature, mean of all runs",
            bar_format="{desc}: {percentage:3.0f}%|{bar}| [{elapsed}]",
        ) as self._bar:
            try:
                samples, result = jax.block_until_ready(program(rng_keys, arrays))
            except jax.errors.ConcretizationTypeError as error:
                error.add_note(
                    "TemperedSMC compiles for the shapes of the model's arguments. If the model "
                    "needs their values, use TemperedSMC(..., jit_model_args=False)."
                )
                raise
            jax.effects_barrier()
        self._summary, self._latent = result, tuple(latent)
        self._states = {
            self._sample_field: samples,
            # NumPyro's name for -log joint in unconstrained space; ArviZ shows it as "lp".
            "potential_energy": -result.log_target,
            "accept_prob": result.acceptance,
        }
        self._states_flat = None
        failed = np.flatnonzero(self.status != CONVERGED)
        if self.throw and len(failed):
            raise RuntimeError(
                f"{len(failed)} of {self.num_chains} runs failed. Run {failed[0]}: "
                + self.status_messages[failed[0]]
            )

    # -- results --------------------------------------------------------------------------------

    def _require_run(self) -> TemperedResult:
        if self._summary is None:
            raise RuntimeError("TemperedSMC has not run yet; call `run(rng_key, *model_args)`.")
        return self._summary

    def get_samples(self, group_by_chain: bool = False) -> dict[str, Array]:
        """Equally weighted draws at b = 1, deterministic sites included.

        Args:
            group_by_chain: keep an axis for the runs.

        Returns:
            Site name to array (num_chains * num_particles, ...) or (num_chains, num_particles,
            ...).
        """
        self._require_run()
        return super().get_samples(group_by_chain)

    def get_extra_fields(self, group_by_chain: bool = False) -> dict[str, Array]:
        """For each draw: "potential_energy", -log joint in unconstrained space, and "accept_prob".

        Args:
            group_by_chain: keep an axis for the runs.
        """
        self._require_run()
        return super().get_extra_fields(group_by_chain)

    @property
    def log_normalizer(self) -> Array:
        """Log evidence as each run estimates it, shape (num_chains,).

        Priors and references are normalised, so this is log p(data) for a model of ordinary sites.
        A learned prior that is not normalised adds its own log Z once for every vector drawn from
        it: ratios between models that share it are right, absolute values after `normalize`.
        """
        return self._require_run().log_normalizer

    @property
    def log_normalizer_error(self) -> Array:
        """Standard error of the log of the runs' mean evidence, shape (); NaN for one run."""
        estimates = self.log_normalizer
        relative = jnp.exp(estimates - logsumexp(estimates) + jnp.log(len(estimates)))
        return relative.std(ddof=1) / jnp.sqrt(len(estimates))

    @property
    def status(self) -> np.ndarray:
        """One code for each run, `numpyro_disco.tempering.CONVERGED` or what went wrong."""
        return np.asarray(self._require_run().status)

    @property
    def status_messages(self) -> list[str]:
        """What became of each run, and what to do where it failed."""
        result = self._require_run()
        table = np.asarray(result.history.inverse_temperature)
        steps = np.asarray(result.num_steps)
        reached = [float(row[n - 1]) if n else 0.0 for row, n in zip(table, steps, strict=True)]
        return [
            status_message(int(s), b, int(n))
            for s, b, n in zip(self.status, reached, steps, strict=True)
        ]

    @property
    def history(self) -> TemperedHistory:
        """Each run's path from b = 0 to 1, arrays (num_chains, steps), NaN after a run's end."""
        result = self._require_run()
        longest = int(np.max(np.asarray(result.num_steps), initial=0))
        return jax.tree.map(lambda column: column[:, :longest], result.history)

    def print_summary(self, prob: float = 0.9, exclude_deterministic: bool = True) -> None:
        """Print moments, intervals and R-hat of each site, and the log evidence.

        Args:
            prob: mass of the intervals.
            exclude_deterministic: leave deterministic sites out.
        """
        samples = self.get_samples(group_by_chain=True)
        if exclude_deterministic:
            samples = {name: samples[name] for name in self._latent}
        print_summary(samples, prob=prob)
        estimates = np.asarray(self.log_normalizer)
        mean = float(logsumexp(self.log_normalizer) - np.log(len(estimates)))
        steps = np.asarray(self._require_run().num_steps)
        print(
            f"log evidence: {mean:.3f} +- {float(self.log_normalizer_error):.3f} "
            f"({len(estimates)} independent runs: {estimates.min():.3f} to {estimates.max():.3f}); "
            f"inverse temperatures: {steps.min()} to {steps.max()}"
        )
        for index, (code, message) in enumerate(
            zip(self.status, self.status_messages, strict=True)
        ):
            if code != CONVERGED:
                print(f"run {index} failed: {message}")

    def warmup(self, *args: Any, **kwargs: Any) -> None:
        """Not a step of its own: every run tunes itself."""
        raise NotImplementedError("TemperedSMC tunes itself as it runs; call `run`.")

    # -- the compiled program -------------------------------------------------------------------

    def _update(self, index: Any, inverse_temperature: Any) -> None:
        self._reached[int(index)] = float(inverse_temperature)
        if self._bar is not None:
            self._bar.update(float(self._reached.mean()) - self._bar.n)

    def _program(self, args: tuple, kwargs: dict) -> tuple[Callable, list[Any], list[str]]:
        """The compiled run for such arguments, its arrays, and (once run) its latent sites."""
        leaves, structure = jax.tree.flatten((args, kwargs))
        dynamic = [self._jit_model_args and _is_numeric(leaf) for leaf in leaves]
        arrays = [leaf for leaf, d in zip(leaves, dynamic, strict=True) if d]
        fixed = tuple(None if d else leaf for leaf, d in zip(leaves, dynamic, strict=True))

        latent: list[str] = []

        def whole(rng_keys: Array, arrays: list[Any]) -> tuple[Pytree, TemperedResult]:
            values = iter(arrays)
            filled = [next(values) if d else leaf for leaf, d in zip(fixed, dynamic, strict=True)]
            args, kwargs = jax.tree.unflatten(structure, filled)
            prepared = prepare_model(self.sampler.model, args, kwargs)
            latent[:] = prepared.latent
            return self._run_chains(rng_keys, prepared, args, kwargs)

        key = (structure, fixed, tuple(dynamic), self.progress_bar)
        try:
            program, latent = self._programs.setdefault(key, (jax.jit(whole), latent))
        except TypeError:
            # Arguments that cannot be hashed (arrays, with `jit_model_args` off) compile each time.
            program = jax.jit(whole)
        return program, arrays, latent

    def _run_chains(
        self, rng_keys: Array, prepared: TemperedModel, args: tuple, kwargs: dict
    ) -> tuple[Pytree, TemperedResult]:
        def one(rng_key: Array, index: Array) -> TemperedResult:
            report = None
            if self.progress_bar:
                report = partial(jax.debug.callback, self._update, index)
            return tempered_smc(
                rng_key, prepared.draw_base, prepared.log_densities, self.settings, report=report
            )

        # A CPU is kept busy by the particles of one run; run after run, none waits for the slowest.
        abreast = 1 if jax.default_backend() == "cpu" else self.num_chains
        runs = (rng_keys, jnp.arange(self.num_chains))
        result = jax.lax.map(lambda run: one(*run), runs, batch_size=abreast)
        unravel = jax.vmap(jax.vmap(prepared.unravel))
        samples = constrain_fn(
            prepared.model,
            args,
            kwargs,
            unravel(result.position),
            return_deterministic=True,
            batch_ndims=2,
        )
        nothing = jnp.zeros(self.num_chains)
        return samples, result._replace(position=nothing, log_base=nothing)


def _is_numeric(leaf: Any) -> bool:
    if isinstance(leaf, bool | int | complex | str):
        return False
    return isinstance(leaf, float | jax.Array | np.generic) or (
        isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf"
    )
