"""`FitResult`: a learned prior and how it was learned."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._checks import check_key
from numpyro_disco._typing import Array
from numpyro_disco.diagnostics.panels import shown_columns
from numpyro_disco.diagnostics.plots import plot_history, plot_report
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.energy.score_function import ScoreFunction
from numpyro_disco.supports.sinh_arcsinh import SinhArcsinhReal
from numpyro_disco.tables.reading import read_points
from numpyro_disco.training.loop import History, Run
from numpyro_disco.training.report.evidence import FitEvidence
from numpyro_disco.training.report.report import Report, make_report
from numpyro_disco.training.settings import FitSettings


class Resumable(NamedTuple):
    """State with which `fit(..., resume=)` continues."""

    run: Run
    """State of the training loop."""
    fingerprint: tuple
    """Everything that must be the same: rows, key, reference, network and settings."""


@dataclasses.dataclass(frozen=True)
class FitResult:
    """A learned prior and how it was learned.

    Attributes:
        settings: the settings of the fit, every default resolved; print them.
        history: losses by step; `plot_history` draws them.
        best_step: the step whose weights the distribution has. For contrastive objectives, `Joint`
            and `Likelihood` it has the lowest held-out loss; for the others it is the last one
            within a standard error of the lowest. Zero means that training did not improve on its
            start.
        components: mean held-out log density (of standardised rows) by number of mixture
            components; empty unless `fit` fitted a mixture as the reference.
        noise_scales: mean held-out log density of the smoothed rows by noise scale; empty unless
            the objective had `noise_scale="auto"`.
        interrupted: True if training was interrupted; `fit(..., resume=)` continues.
        evidence: the rows and the model, for reports.
        resumable: the state with which `fit(..., resume=)` continues.
    """

    settings: FitSettings
    history: History
    best_step: int
    components: dict[int, float]
    noise_scales: dict[float, float]
    interrupted: bool
    evidence: FitEvidence = dataclasses.field(repr=False)
    resumable: Resumable = dataclasses.field(repr=False)

    @property
    def distribution(self) -> EnergyDistribution:
        """The learned `EnergyDistribution`, in the user's units.

        Raises:
            ValueError: a score network, which has no density.
        """
        return self.evidence.density

    @property
    def transform(self) -> str | None:
        """The map of columns without a support: "sinh_arcsinh" or None."""
        supports = self.evidence.coordinate_supports.supports
        mapped = any(isinstance(support, SinhArcsinhReal) for support in supports)
        return "sinh_arcsinh" if mapped else None

    def score(self, x: Any) -> Array:
        """Learned score, the gradient of the log density, at points in the user's units.

        Args:
            x: array (..., D), or anything with names such as a DataFrame; for arrays such as
                images, (...) + their shape.

        Returns:
            Array of the shape of the points.

        Raises:
            ValueError: names or shapes that are not those of the columns.
        """
        evidence = self.evidence
        if evidence.array_shape is None:
            x = read_points(x, evidence.names, evidence.columns, "x")
        if evidence.coordinate_supports.real:
            return self.score_function.score(x)
        model, supports = evidence.model, evidence.coordinate_supports

        def at_one(x: Array) -> Array:
            # log p(x) = log p(y) - log |dx / dy|, y the unconstrained coordinates.
            y, pull_back = jax.vjp(supports.unconstrain, x)
            log_det = jax.grad(lambda x: supports.log_dets(supports.unconstrain(x), x).sum())(x)
            score = model.score(model.standardize(y)) @ model.whitener
            return pull_back(score)[0] - log_det

        return jnp.vectorize(at_one, signature="(d)->(d)")(jnp.asarray(x))

    @property
    def score_function(self) -> ScoreFunction:
        """The learned score as a target of `sample_langevin`, as is the `distribution`.

        Raises:
            ValueError: columns with supports, in whose units the score cannot be followed.
        """
        evidence, model = self.evidence, self.evidence.model
        if not evidence.coordinate_supports.real:
            raise ValueError("Expected a fit without `supports` or a `transform` for its score.")
        objective = evidence.objective
        smoothed = objective.smooths and not objective.undoes_smoothing
        return ScoreFunction(
            model,
            model.loc,
            1 / jnp.linalg.norm(model.whitener, axis=0),
            evidence.array_shape or (len(evidence.names),),
            objective.resolution if smoothed else None,
        )

    def report(self, rng_key: Array | None = None) -> Report:
        """Check the fit against held-out rows; print the result.

        Each line is one check, rated pass, warn or fail, with the reason and, unless it passes,
        what to do:

        - network: the held-out loss against that of the untrained network.
        - missing (rows with missing entries only): whether complete held-out rows judge alone,
          weighted by the inverse chance that such a row is complete. If there are fewer than about
          100 of them, all held-out rows judge, with imputed entries.
        - training: whether training ended by itself, or still gained in its last quarter.
        - components (fitted mixtures only): whether their number ran into `max_components`.
        - reference: the effective share of the reference's draws under the learned density.
        - focus (only with `Contrastive(focus=...)`): the log density of the columns in focus given
          the others, against that of the reference, and how well draws of the reference cover it.
        - log density: the log density of held-out rows, normalised by tempered SMC, against that of
          the Gaussian fitted to the training rows.
        - memorisation: the log density of training rows against that of held-out rows.
        - constant (contrastive objectives only): log Z, which is 0 for the exact minimiser.
        - smoothing: how much smoothing widens a column given the others, in the user's units, and
          how much the best smaller noise scale would add to held-out log density.
        - score (smoothed densities only): its error at five noise scales against the exact score of
          the smoothed training rows.
        - own row (smoothed densities only): how much of the posterior over rows, given a training
          row with noise, is on that same row.
        - masses: shares of held-out rows and of draws in clusters of the training rows.
        - levels (discrete columns only): shares of held-out rows and of draws at each level of the
          column where they differ most.
        - draws: the accuracy with which gradient-boosted trees tell draws from held-out rows, with
          cross-validation, beside that for draws of the reference alone; 0.5 is perfect. It fails
          if draws of the fit are easier to tell. If the learned density cannot be sampled, this
          line says why, and the lines that need draws or log Z are left out.
        - columns: the largest first Wasserstein distance of a column between held-out rows and
          draws, in standard deviations.
        - copies: whether draws lie nearer to training rows than held-out rows do.
        - tails: whether the energy increases beyond the farthest training row.

        A check that depends on the number of held-out rows does not pass when there are too few to
        rule out failure. The held-out rows also chose the training step (and the number of mixture
        components), which flatters their log density slightly; rows that `fit` never saw are the
        stricter judge.

        Args:
            rng_key: random key; a fixed one by default.

        Returns:
            A `Report`; `report["masses"].value` is the number behind one line.

        Raises:
            ValueError: the fit is a score network, which has no density.
        """
        if rng_key is None:
            return self._default_report
        return make_report(check_key(rng_key), self.evidence)

    @functools.cached_property
    def _default_report(self) -> Report:
        return make_report(jax.random.key(0), self.evidence)

    def plot_report(self, report: Report | None = None) -> Any:
        """Draw the verdicts, held-out rows beside draws, the losses, and the score's error.

        Held-out rows are filled, draws are outlined; contours hold half and nine tenths of the
        draws. Of more than five columns, those are drawn in which draws differ most from held-out
        rows. Needs matplotlib, the `plots` extra.

        Args:
            report: a report of this fit; made by default.

        Returns:
            The matplotlib figure.
        """
        report, evidence = self.report() if report is None else report, self.evidence
        shown = shown_columns(
            evidence.names,
            evidence.columns,
            evidence.coordinate_supports.discrete,
            np.asarray(evidence.unstandardize(evidence.evenly_weighted_held_out)),
            report.draws,
        )
        history = self._plotted_history()
        return plot_report(report.lines, shown, history, report.noise_scales, report.score_errors)

    def plot_history(self, axes: Any = None) -> Any:
        """Draw the training and the held-out loss by step. Needs matplotlib, the `plots` extra.

        Args:
            axes: two matplotlib axes to draw in; new ones by default.

        Returns:
            Array of the two axes.
        """
        return plot_history(**self._plotted_history(), axes=axes)

    def _plotted_history(self) -> dict[str, Any]:
        label = type(self.settings.objective).__name__
        return {**self.history._asdict(), "best_step": self.best_step, "label": label}


def history_arrays(run: Run) -> History:
    """The history of a run, column by column."""
    return History(*(np.asarray(column) for column in zip(*run.history, strict=True)))
