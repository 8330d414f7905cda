"""The results of tempered runs, as methods of a finished sampler."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from numpyro.diagnostics import print_summary
from numpyro.infer import MCMC

from numpyro_disco._statistics import log_mean
from numpyro_disco._typing import Array
from numpyro_disco.diagnostics.plots import plot_tempering
from numpyro_disco.models.programs import FinishedRuns
from numpyro_disco.tempering.settings import TemperingSettings
from numpyro_disco.tempering.state import TemperedHistory, TemperedResult
from numpyro_disco.tempering.status import CONVERGED


class RunResults(MCMC):
    """The results of the runs of a `TemperedSMC`, under the names that `numpyro.infer.MCMC` uses.

    They are those of the last call of `run`.
    """

    settings: TemperingSettings
    _finished: FinishedRuns | None = None

    def _require_run(self) -> FinishedRuns:
        if self._finished is None:
            raise RuntimeError("TemperedSMC has not run yet; call `run(rng_key, *model_args)`.")
        return self._finished

    @property
    def _result(self) -> TemperedResult:
        return self._require_run().result

    def get_samples(self, group_by_chain: bool = False) -> dict[str, Array]:
        """Equally weighted draws of the posterior, with deterministic sites.

        Args:
            group_by_chain: keep an axis for the runs.

        Returns:
            A dict from site names to arrays of shape (num_chains * num_particles, ...), or
            (num_chains, num_particles, ...) if `group_by_chain`.
        """
        self._require_run()
        return super().get_samples(group_by_chain)

    def get_extra_fields(self, group_by_chain: bool = False) -> dict[str, Array]:
        """The potential energy, the acceptance probability and the evidence, for each draw.

        Args:
            group_by_chain: keep an axis for the runs.

        Returns:
            A dict with "potential_energy", -log joint in unconstrained space; "accept_prob"; and
            "log_normalizer", the log evidence of the run that a draw belongs to.
        """
        self._require_run()
        return super().get_extra_fields(group_by_chain)

    @property
    def log_normalizer(self) -> Array:
        """Log evidence as estimated by each run, shape (num_chains,).

        Each is the log of a mean of two estimates, weighted by their inverse variances: one from
        the weights along the path, one from the weights of draws of a mixture fitted to the final
        particles.

        Priors and references are normalised, so this is log p(data) for a model of ordinary sites.
        A learned prior that is not normalised adds its own log Z for every vector drawn from it:
        ratios between models that share it are right, and absolute values after `normalize`.
        """
        return self._result.log_normalizer

    @property
    def log_path_normalizer(self) -> Array:
        """Log evidence of each run from the weights along its path alone, shape (num_chains,)."""
        return self._result.log_path_normalizer

    @property
    def mixture_ess(self) -> Array:
        """Effective sample size of the draws of each run's fitted mixture, shape (num_chains,)."""
        return self._result.mixture_ess

    @property
    def log_normalizer_error(self) -> Array:
        """Standard error of the log of the runs' mean evidence, shape (); NaN for one run.

        It is that of what the runs saw: modes that all of them missed are left out, see
        `unseen_share`.
        """
        return log_mean(self.log_normalizer)[1]

    @property
    def unseen_share(self) -> float:
        """Share of the base's mass that its draws miss as a whole with a probability of 5 %.

        It is 3 / M for the M draws of the base in all runs, the rule of three. If a mode attracts
        no point outside of a region with less of the base's mass, neither draws nor
        `log_normalizer_error` show that it may be missing. More `base_draws` lower the share,
        at the cost of one evaluation for each draw.
        """
        settings = self.settings
        return 3 / (settings.base_draws * settings.num_particles * self.num_chains)

    @property
    def impossible_share(self) -> Array:
        """Share of each run's draws of the base at which the log density is NaN, (num_chains,).

        With `non_finite="impossible"` the posterior has no mass there.
        """
        return self._result.impossible

    @property
    def status(self) -> np.ndarray:
        """Status code of each run, shape (num_chains,); `status_messages` says what it means.

        The codes are constants of `numpyro_disco.tempering.status`. If all runs converged on
        their own but R-hat across runs is above 1.1 for some coordinate, they have found different
        distributions, and all have the code DISAGREE. If they agree, but `search_peaks` found a
        peak with more mass, all have the code MISSED.
        """
        return self._require_run().status

    @property
    def status_messages(self) -> list[str]:
        """The outcome of each run and, if it failed, what to do."""
        return self._require_run().status_messages

    @property
    def history(self) -> TemperedHistory:
        """The path of each run from b = 0 to 1: arrays (num_chains, steps), NaN after its end."""
        longest = int(np.max(np.asarray(self._result.num_steps), initial=0))
        return jax.tree.map(lambda column: column[:, :longest], self._result.history)

    def print_summary(self, prob: float = 0.9, exclude_deterministic: bool = True) -> None:
        """Print moments, intervals and R-hat of each site, and the log evidence.

        Args:
            prob: probability mass of the intervals.
            exclude_deterministic: leave out deterministic sites.
        """
        samples = self.get_samples(group_by_chain=True)
        if exclude_deterministic:
            samples = {name: samples[name] for name in self._require_run().latent}
        print_summary(samples, prob=prob)
        estimates = np.asarray(self.log_normalizer)
        mean, error = log_mean(self.log_normalizer)
        steps = np.asarray(self._result.num_steps)
        print(
            f"log evidence: {float(mean):.3f} +- {float(error):.3f} "
            f"({len(estimates)} independent runs: {estimates.min():.3f} to {estimates.max():.3f}); "
            f"number of temperatures: {steps.min()} to {steps.max()}"
        )
        peak = self._require_run().peak
        if peak is not None:
            print(
                f"log mass near the heaviest peak found by climbing: {float(peak.log_mass):.3f} "
                f"+- {float(peak.error):.3f}"
            )
        print(
            "the error leaves out modes that no run saw, such as one within a region that holds "
            f"less than {self.unseen_share:.1g} of the base's mass"
        )
        share = float(np.mean(np.asarray(self.impossible_share)))
        if share > 0:
            print(f"the log density is NaN at {share:.2g} of the draws of the base")
        outcomes = zip(self.status, self.status_messages, strict=True)
        for index, (code, message) in enumerate(outcomes):
            if code != CONVERGED:
                print(f"run {index} failed: {message}")

    def plot_history(self, axes: Any = None) -> Any:
        """Plot the path of each run: inverse temperature, acceptance, ancestors, log normaliser.

        Needs matplotlib, the `plots` extra.

        Args:
            axes: four matplotlib axes; new ones by default.

        Returns:
            An array of the four axes.
        """
        path = self.history
        return plot_tempering(
            path.inverse_temperature,
            path.acceptance,
            path.unique_ancestors,
            path.log_normalizer,
            axes=axes,
        )
