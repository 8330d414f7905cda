"""Saving and loading learned priors, and whole fits with their report and history."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from numpyro_disco.diagnostics.plots import plot_history
from numpyro_disco.energy import storage as prior_storage
from numpyro_disco.energy.archive import damage_reported, read_archive, write_archive
from numpyro_disco.energy.distribution import EnergyDistribution, check_prior
from numpyro_disco.training.loop import History
from numpyro_disco.training.report.lines import ReportLine
from numpyro_disco.training.report.report import Report
from numpyro_disco.training.result import FitResult

FORMAT, FORMAT_VERSION = "numpyro_disco.fit", 1
REPORT_ARRAYS = ("draws", "noise_scales", "score_errors")
"""Arrays of a report."""


@dataclasses.dataclass(frozen=True)
class SavedFit:
    """A fit that was loaded from a file: the prior, its report and the history of training.

    The rows are not in the file, so training cannot be resumed and the report is the saved one.

    Attributes:
        distribution: the learned `EnergyDistribution`.
        settings: the settings of the fit as text, one a line.
        history: losses by step.
        best_step: as in `FitResult`.
        components: as in `FitResult`.
        noise_scales: as in `FitResult`.
        interrupted: as in `FitResult`.
        saved_report: the report that was saved.
    """

    distribution: EnergyDistribution
    settings: str
    history: History
    best_step: int
    components: dict[int, float]
    noise_scales: dict[float, float]
    interrupted: bool
    saved_report: Report = dataclasses.field(repr=False)

    def report(self) -> Report:
        """The report that was saved."""
        return self.saved_report

    def plot_history(self, axes: Any = None) -> Any:
        """Draw the training and the held-out loss by step, as `FitResult.plot_history` does.

        Args:
            axes: two matplotlib axes to draw in; new ones by default.

        Returns:
            Array of the two axes.
        """
        return plot_history(
            **self.history._asdict(), best_step=self.best_step, label="training", axes=axes
        )


def save(path: str | os.PathLike[str], fitted: EnergyDistribution | FitResult | SavedFit) -> None:
    """Write a learned prior, or a whole fit, to one file of arrays and JSON; no pickle.

    A fit is saved with its report, which is made if it was not made before, and its history; the
    rows it was learned from are not saved. The file is written under another name first and then
    moved into place, so an earlier file at `path` survives whatever goes wrong.

    Args:
        path: where to write, conventionally "name.npz".
        fitted: the `distribution` of a fit, which may be clamped, tempered or normalised; or the
            result of `fit` itself.

    Raises:
        ValueError: a distribution with an energy function of the user's own, whose code cannot be
            saved as data, or a fit of a score network.
        OSError: the file cannot be written.

    Example:
        >>> import jax, numpy as np, os, tempfile, numpyro_disco as disco
        >>> rows = np.random.default_rng(0).normal(size=(100, 2))
        >>> fit = disco.fit(jax.random.key(0), rows, num_steps=50, batch_size=32,
        ...                 network=disco.MLP(width=8, num_blocks=1), progress_bar=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "prior.npz")
        ...     disco.save(path, fit.distribution)
        ...     disco.load(path).names
        ('0', '1')
    """
    if not isinstance(fitted, FitResult | SavedFit):
        check_prior(fitted)
        write_archive(path, *prior_storage.describe_prior(fitted))
        return
    description, arrays = prior_storage.describe_prior(fitted.distribution)
    report = fitted.report()
    about_fit = {
        "settings": str(fitted.settings),
        "best_step": fitted.best_step,
        "components": [list(pair) for pair in fitted.components.items()],
        "noise_scales": [list(pair) for pair in fitted.noise_scales.items()],
        "interrupted": fitted.interrupted,
        "report": [list(line) for line in report.lines],
    }
    arrays |= {f"history.{name}": column for name, column in fitted.history._asdict().items()}
    arrays |= {f"report.{name}": getattr(report, name) for name in REPORT_ARRAYS}
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, "fit": about_fit}
    write_archive(path, description | header, arrays)


def load(path: str | os.PathLike[str]) -> Any:
    """Read what `save` wrote. Nothing in the file is executed.

    Args:
        path: the file.

    Returns:
        The `EnergyDistribution` that was saved, or a `SavedFit` if a fit was.

    Raises:
        FileNotFoundError: no file there.
        LoadError: a file that is truncated or damaged, that is of another kind, or that a newer
            version of this package wrote; the message says which.
    """
    known = {
        FORMAT: range(1, FORMAT_VERSION + 1),
        prior_storage.FORMAT: prior_storage.VERSIONS,
    }
    description, arrays = read_archive(path, known)
    if description["format"] == prior_storage.FORMAT:
        return prior_storage.restore(path, description, arrays)
    with damage_reported(path):
        return _rebuild_fit(description, arrays)


def _rebuild_fit(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> SavedFit:
    about_fit = description["fit"]
    report = Report(
        tuple(ReportLine(*line) for line in about_fit["report"]),
        *(arrays[f"report.{name}"] for name in REPORT_ARRAYS),
    )
    return SavedFit(
        distribution=prior_storage.rebuild_prior(description, arrays),
        settings=str(about_fit["settings"]),
        history=History(*(arrays[f"history.{name}"] for name in History._fields)),
        best_step=int(about_fit["best_step"]),
        components={int(count): float(value) for count, value in about_fit["components"]},
        noise_scales={float(scale): float(value) for scale, value in about_fit["noise_scales"]},
        interrupted=bool(about_fit["interrupted"]),
        saved_report=report,
    )
