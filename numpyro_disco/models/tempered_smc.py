"""`TemperedSMC`: tempered sequential Monte Carlo for any NumPyro model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.scipy.special import logsumexp
from numpyro.diagnostics import print_summary
from numpyro.distributions import Distribution
from numpyro.infer import MCMC, Predictive

from numpyro_disco._checks import check_count, check_key
from numpyro_disco._numpyro import MCMCKernel
from numpyro_disco._progress import progress
from numpyro_disco._statistics import log_mean
from numpyro_disco._typing import Array
from numpyro_disco.models.reading import BaseBlock, non_finite_sites, unconstrain_draws
from numpyro_disco.models.runs import FinishedRuns, ModelRuns
from numpyro_disco.references.fitting import fit_mixture
from numpyro_disco.tempering.settings import TemperingSettings
from numpyro_disco.tempering.state import TemperedHistory, TemperedResult
from numpyro_disco.tempering.status import CONVERGED, DISAGREE, NON_FINITE, status_message

LARGEST_R_HAT = 1.1
"""Across runs, of any coordinate, above which they have found different distributions."""
NUM_GUIDE_DRAWS = 2000
"""Draws of a guide to which a base is fitted."""


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
        base: where sites start instead of their priors, by name: a distribution over a site's
            values, or earlier draws of it, (num_draws, ...), such as `get_samples()` of another
            sampler, to which a mixture is fitted, sites together; or a fitted guide and its
            parameters, a pair, which is drawn for that. The evidence stays that of the model. A
            base has to reach wherever the posterior does.
        devices: JAX devices over which the particles of each run are spread, for instance
            `jax.devices()`; also those of other processes under `jax.distributed`.
        checkpoint: a file in which runs are kept between inverse temperatures. If it is there and
            of the same run, `run` goes on from it, to the same numbers.
        checkpoint_every: inverse temperatures from one writing of that file to the next.
        progress_bar: show the inverse temperature with tqdm.
        jit_model_args: compile for arrays and floats of the same shapes instead of for their
            values. Integers are values: give what varies from run to run as an array. Turn it off
            for a model that needs concrete arguments.
        throw: raise if a run failed; else see `status`.
        **settings: fields of `numpyro_disco.tempering.settings.TemperingSettings`.

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
        base: Mapping[str, Any] | tuple[Callable, Any] | None = None,
        devices: Sequence[jax.Device] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 10,
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
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.checkpoint_every = check_count(checkpoint_every, "checkpoint_every")
        if devices is not None and self.settings.num_survivors % len(devices):
            raise ValueError(
                f"Expected a number of particles that {len(devices)} `devices` can share equally; "
                f"got {self.settings.num_survivors} (`num_particles` over `chain_length`)."
            )
        given, self._base_draws = _split_base(base)
        self._block: BaseBlock | None = None
        # Callbacks from several devices come in no order.
        report = self._update if progress_bar and devices is None else None
        self._runs = ModelRuns(
            model, self.settings, self.num_chains, given, devices, jit_model_args, report
        )
        self._finished: FinishedRuns | None = None
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
            ValueError: a latent site that cannot start a run, named, with the remedy; a checkpoint
                that is of another run.
            RuntimeError: a run failed, or runs disagree (unless `throw=False`).
        """
        rng_keys = jax.random.split(check_key(rng_key), self.num_chains)
        self._args, self._kwargs = args, kwargs
        block = self._base_block(args, kwargs)
        self._reached[:] = 0
        with progress(
            total=1.0,
            shown=self.progress_bar,
            desc="inverse temperature, mean of all runs",
            bar_format="{desc}: {percentage:3.0f}%|{bar}| [{elapsed}]",
        ) as self._bar:
            try:
                if self.checkpoint is None:
                    finished = self._runs.run(rng_keys, args, kwargs, block)
                else:
                    finished = self._runs.run_with_checkpoints(
                        rng_keys, args, kwargs, block, self.checkpoint, self.checkpoint_every
                    )
            except jax.errors.ConcretizationTypeError as error:
                error.add_note(
                    "TemperedSMC compiles for the shapes of the model's arguments. If the model "
                    "needs their values, use TemperedSMC(..., jit_model_args=False)."
                )
                raise
            jax.effects_barrier()
        self._finished = finished
        result = finished.result
        self._states = {
            self._sample_field: finished.draws,
            # NumPyro's name for -log joint in unconstrained space; ArviZ shows it as "lp".
            "potential_energy": -result.log_target,
            "accept_prob": result.acceptance,
        }
        self._states_flat = None
        failed = np.flatnonzero(self.status != CONVERGED)
        if self.throw and len(failed):
            message = self.status_messages[failed[0]]
            if self.status[failed[0]] == NON_FINITE:
                message += non_finite_sites(self.sampler.model, args, kwargs)
            raise RuntimeError(
                f"{len(failed)} of {self.num_chains} runs failed. Run {failed[0]}: {message}"
            )

    # -- results --------------------------------------------------------------------------------

    def _require_run(self) -> TemperedResult:
        if self._finished is None:
            raise RuntimeError("TemperedSMC has not run yet; call `run(rng_key, *model_args)`.")
        return self._finished.result

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

        From the weights along the path and from those of draws of a mixture fitted to the final
        particles, each weighted by the inverse of its variance.

        Priors and references are normalised, so this is log p(data) for a model of ordinary sites.
        A learned prior that is not normalised adds its own log Z once for every vector drawn from
        it: ratios between models that share it are right, absolute values after `normalize`.
        """
        return self._require_run().log_normalizer

    @property
    def log_path_normalizer(self) -> Array:
        """Log evidence of each run from the weights along its path alone, shape (num_chains,)."""
        return self._require_run().log_path_normalizer

    @property
    def mixture_ess(self) -> Array:
        """Effective sample size of the draws of each run's fitted mixture, shape (num_chains,)."""
        return self._require_run().mixture_ess

    @property
    def log_normalizer_error(self) -> Array:
        """Standard error of the log of the runs' mean evidence, shape (); NaN for one run."""
        return log_mean(self.log_normalizer)[1]

    @property
    def status(self) -> np.ndarray:
        """One code for each run, `numpyro_disco.tempering.status.CONVERGED` or what went wrong.

        Runs that have all converged by themselves, but not to the same distribution (a coordinate
        whose R-hat across runs is above 1.1), are all DISAGREE.
        """
        status = np.array(self._require_run().status)
        assert self._finished is not None
        apart = np.asarray(self._finished.r_hat) > LARGEST_R_HAT
        if (status == CONVERGED).all() and apart.any():
            status[:] = DISAGREE
        return status

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
            assert self._finished is not None
            samples = {name: samples[name] for name in self._finished.latent}
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

    def plot_history(self, axes: Any = None) -> Any:
        """Draw each run's path: inverse temperature, acceptance, survivors, log normaliser.

        Needs matplotlib, the `plots` extra.

        Args:
            axes: four matplotlib axes; new ones by default.

        Returns:
            Array of the four axes.
        """
        from numpyro_disco.diagnostics.plots import plot_tempering

        path = self.history
        return plot_tempering(
            path.inverse_temperature,
            path.acceptance,
            path.unique_ancestors,
            path.log_normalizer,
            axes=axes,
        )

    def _update(self, index: Any, inverse_temperature: Any) -> None:
        self._reached[int(index)] = float(inverse_temperature)
        if self._bar is not None:
            self._bar.update(float(self._reached.mean()) - self._bar.n)

    def _base_block(self, args: tuple, kwargs: dict) -> BaseBlock | None:
        """The mixture that earlier draws make, if `base` holds some; it is fitted once."""
        if not self._base_draws:
            return None
        if self._block is None:
            names, draws = unconstrain_draws(self.sampler.model, args, kwargs, self._base_draws)
            self._block = BaseBlock(names, fit_mixture(np.asarray(draws)))
        return self._block


def _split_base(base: Any) -> tuple[dict[str, Distribution], dict[str, Any]]:
    """What `base` gives as distributions, and what as draws."""
    if base is None:
        return {}, {}
    if isinstance(base, tuple) and len(base) == 2 and callable(base[0]):
        guide, params = base
        drawn = Predictive(guide, params=params, num_samples=NUM_GUIDE_DRAWS)(jax.random.key(0))
        base = {name: draws for name, draws in drawn.items() if not name.startswith("_")}
    if not isinstance(base, Mapping):
        raise ValueError(
            "Expected a mapping from names of sites to distributions or draws for `base`, or a "
            f"pair (guide, params); got {type(base).__name__}."
        )
    given = {name: value for name, value in base.items() if isinstance(value, Distribution)}
    draws = {name: np.asarray(value) for name, value in base.items() if name not in given}
    for name, value in draws.items():
        if value.dtype.kind not in "fiu" or value.ndim == 0 or len(value) < 10:
            raise ValueError(
                f"Expected a distribution, or at least 10 draws, for {name!r} in `base`; got "
                f"{type(base[name]).__name__} of shape {value.shape}."
            )
    return given, draws
