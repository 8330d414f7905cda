"""`TemperedSMC`: tempered sequential Monte Carlo for any NumPyro model.

The class has the interface of `numpyro.infer.MCMC`. It owns the arguments, the progress bar and the
checks of a run; `results.py` owns what a finished sampler returns, `runs.py` how runs are compiled,
`reading.py` how a model is read, and the `tempering` package the algorithm.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._checks import check_count, check_key
from numpyro_disco._numpyro import ModelHolder, store_draws
from numpyro_disco._progress import progress
from numpyro_disco._typing import Array
from numpyro_disco.models.bases import GivenBase
from numpyro_disco.models.padding import without_padding
from numpyro_disco.models.programs import FinishedRuns
from numpyro_disco.models.reading import non_finite_sites
from numpyro_disco.models.results import RunResults
from numpyro_disco.models.runs import ModelRuns
from numpyro_disco.models.structure import read_structure
from numpyro_disco.tempering.settings import TemperingSettings
from numpyro_disco.tempering.status import CONVERGED, NON_FINITE


class TemperedSMC(RunResults):
    """Tempered sequential Monte Carlo for a NumPyro model: draws and log evidence.

    Particles start as draws of a base and are moved to the posterior along the path

        p_b(u) proportional to base(u)^(1 - b) target(u)^b,    b from 0 to 1,

    where u are the unconstrained latent sites. The base holds the priors of ordinary latent sites
    and the references of learned priors, given their clamped coordinates. Likelihoods, factors and
    the energies relative to their references come in as the inverse temperature b rises, in steps
    as large as the particles allow. At each b particles are reweighted, resampled and moved by
    Hamiltonian Monte Carlo, which is tuned from the particles themselves. Because particles are
    everywhere to begin with, several modes can be found.

    The last resampling and moves are at b = 1, so draws are equally weighted. Draws are
    asymptotically exact as `num_particles` grows. The evidence of each run is consistent, with a
    bias of order 1 / num_particles.

    The interface is that of `numpyro.infer.MCMC`, from which the class derives so that ArviZ
    accepts it. A *chain* is one independent run and its draws are the particles of that run. They
    are not a time series: R-hat compares independent runs, and an effective sample size counts
    particles in the order of their ancestors, so that copies of one ancestor show as repeats.

    Args:
        model: a NumPyro model whose latent sites are continuous, or discrete and enumerable.
        num_particles: number of particles of each run.
        num_chains: number of independent runs, all in one compiled program. With two or more, R-hat
            and the standard error of the evidence show whether they agree.
        base: where sites start, by name, instead of from their priors: a distribution over the
            site, or earlier draws of shape (num_draws, ...), such as `get_samples()` of another
            sampler, to which one mixture is fitted for all sites with draws. Or a pair of a fitted
            guide and its parameters, which is drawn for that. The evidence is still that of the
            model. A base must cover the posterior.
        devices: JAX devices over which the particles of each run are spread, for instance
            `jax.devices()`, including those of other processes under `jax.distributed`.
        checkpoint: a file in which the state of the runs is saved between inverse temperatures. If
            it exists and belongs to the same run, `run` resumes it and gives the same numbers.
        checkpoint_every: number of inverse temperatures between two checkpoints.
        progress_bar: show the inverse temperature.
        jit_model_args: compile for the shapes of arrays and floats instead of for their values.
            Integers always count as values, so pass numbers that change as arrays. Set False for a
            model that needs concrete arguments.
        throw: raise an error if a run fails; otherwise read `status`.
        base_draws: number of draws of the base for each particle. They are cheap, because they are
            not moved, and make the first step longer and more precise.
        target_ess: effective sample size of the weights after each step, as a share of the
            particles. A higher value means smaller steps, and more of them.
        schedule: increasing inverse temperatures that end with 1, instead of adaptive ones.
        kernel: "hmc"; "mala", its one-step form; or "random_walk", which needs no gradient.
        chain_length: number of states of each chain that become particles; it must divide
            `num_particles`. With 1, as in classical SMC, only the last state does. With more
            (waste-free SMC), fewer particles survive a resampling and each is moved more often.
        max_moves: largest number of moves between two states that become particles. With a
            `chain_length` of 1, up to four times as many at inverse temperature 1, where moves go
            on until at most 1 % of the particles are copies of another.
        max_leapfrog: largest number of leapfrog steps in a trajectory.
        dense_mass: precondition with the full covariance of the particles rather than with their
            standard deviations; by default if there are 16 or more particles to a coordinate.
        resampling: "systematic", "stratified", "residual" or "multinomial".
        max_temperatures: largest number of steps before a run gives up.
        num_sweeps: number of times that each particle is proposed a draw of a mixture fitted to the
            particles at b = 1. With 0, the evidence comes from the path alone.
        particles_at_once: number of particles that are evaluated side by side, which bounds memory;
            by default all.
        non_finite: what a log density that is NaN at draws of the priors means, as where a solver
            fails. "error" ends the run. "impossible" counts the likelihood as zero there, so that
            the evidence is the integral over the rest; `impossible_share` is the share of such
            draws. +infinity is an error in any case.
        search_peaks: after the runs, climb from the highest draws of the base and the highest
            particles to maxima of the density. If there is more mass near one of them than the runs
            found in all, they missed a narrow mode, and all have the status MISSED. It
            follows gradients, for which `kernel="random_walk"` is refused. Takes one more program
            to compile, and climbs of 300 gradients from 16 starts for each chain.

    References:
        Del Moral, Doucet & Jasra 2006; Dau & Chopin 2022 for waste-free SMC.

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

    _bar: Any = None

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
        base_draws: int = 32,
        target_ess: float = 0.5,
        schedule: Sequence[float] | None = None,
        kernel: str = "hmc",
        chain_length: int = 1,
        max_moves: int = 8,
        max_leapfrog: int = 32,
        dense_mass: bool | None = None,
        resampling: str = "systematic",
        max_temperatures: int = 200,
        num_sweeps: int = 4,
        particles_at_once: int | None = None,
        non_finite: str = "error",
        search_peaks: bool = False,
    ) -> None:
        self.settings = TemperingSettings(
            num_particles=num_particles,
            base_draws=base_draws,
            target_ess=target_ess,
            # Any increasing sequence is taken, and stored as a tuple.
            schedule=cast("tuple[float, ...] | None", schedule),
            kernel=kernel,
            chain_length=chain_length,
            max_moves=max_moves,
            max_leapfrog=max_leapfrog,
            dense_mass=dense_mass,
            resampling=resampling,
            max_temperatures=max_temperatures,
            num_sweeps=num_sweeps,
            particles_at_once=particles_at_once,
            non_finite=non_finite,
        )
        super().__init__(
            ModelHolder(model),
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
        self._base = GivenBase(base)
        self._runs = self._make_runs(devices, jit_model_args, search_peaks)
        self._reached = np.zeros(num_chains)

    def _make_runs(
        self, devices: Sequence[jax.Device] | None, jit_model_args: bool, search_peaks: bool
    ) -> ModelRuns:
        if search_peaks and self.settings.kernel == "random_walk":
            raise ValueError(
                "Expected another kernel than 'random_walk' for `search_peaks=True`, which follows "
                "gradients. Leave `search_peaks` out."
            )
        # Callbacks from several devices arrive in no particular order.
        report = self._update if self.progress_bar and devices is None else None
        return ModelRuns(
            self.sampler.model,
            self.settings,
            self.num_chains,
            base=self._base.distributions,
            devices=devices,
            jit_model_args=jit_model_args,
            report=report,
            search_peaks=search_peaks,
        )

    def run(self, rng_key: Array, *args: Any, **kwargs: Any) -> None:
        """Run all chains on the model with these arguments.

        Arguments of the same shapes do not compile again, whatever their values.

        Args:
            rng_key: random key.
            *args: arguments of the model.
            **kwargs: keyword arguments of the model.

        Raises:
            ValueError: A latent site cannot start a run; the message names it and the remedy. Or
                the checkpoint belongs to another run.
            RuntimeError: A run failed, or runs disagree (unless `throw=False`).
        """
        rng_keys = jax.random.split(check_key(rng_key), self.num_chains)
        finished = self._run_all(rng_keys, args, kwargs)
        self._finished = without_padding(finished, self.sampler.model, args, kwargs)
        result = finished.result
        # "potential_energy" is NumPyro's name for -log joint in unconstrained space. ArviZ shows it
        # as "lp", with the sign changed.
        # In NumPy, which compiles nothing.
        energy = np.negative(result.log_target)
        evidence = np.broadcast_to(np.asarray(result.log_normalizer)[:, None], energy.shape)
        fields = {
            "potential_energy": jnp.asarray(energy),
            "accept_prob": result.acceptance,
            "log_normalizer": jnp.asarray(evidence),
        }
        store_draws(self, args, kwargs, self._finished.draws, fields)
        if self.throw:
            self._raise_if_failed(args, kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the progress bar, for pickle and copy."""
        return {**super().__getstate__(), "_bar": None}

    def _run_all(self, rng_keys: Array, args: tuple, kwargs: dict) -> FinishedRuns:
        """Run all chains, under a progress bar."""
        block = None
        if self._base.draws:
            block = self._base.block(read_structure(self.sampler.model, args, kwargs))
        self._reached[:] = 0
        with progress(
            total=1.0,
            shown=self.progress_bar,
            desc="inverse temperature, mean over runs",
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
        return finished

    def _update(self, index: Any, inverse_temperature: Any) -> None:
        """Move the progress bar to the mean inverse temperature of all runs."""
        self._reached[int(index)] = float(inverse_temperature)
        if self._bar is not None:
            self._bar.update(float(self._reached.mean()) - self._bar.n)

    def _raise_if_failed(self, args: tuple, kwargs: dict) -> None:
        failed = np.flatnonzero(self.status != CONVERGED)
        if not len(failed):
            return
        message = self.status_messages[failed[0]]
        if self.status[failed[0]] == NON_FINITE:
            message += non_finite_sites(self.sampler.model, args, kwargs)
        raise RuntimeError(
            f"{len(failed)} of {self.num_chains} runs failed. Run {failed[0]}: {message}"
        )

    def warmup(self, *args: Any, **kwargs: Any) -> None:
        """Raise `NotImplementedError`: every run tunes itself."""
        raise NotImplementedError("TemperedSMC tunes itself as it runs; call `run`.")
