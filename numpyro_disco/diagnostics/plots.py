"""Figures. matplotlib, the `plots` extra, is imported where it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpyro_disco.diagnostics.calibration import Calibration
    from numpyro_disco.tempering.state import TemperedHistory
    from numpyro_disco.training.fit import FitResult
    from numpyro_disco.training.report import Report


MAX_PAIRS = 5
"""Columns that are drawn against each other."""
MAX_DOTS = 1000


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError(
            "Figures need matplotlib, which is not installed. Install the extra: "
            "pip install 'numpyro_disco[plots]'."
        ) from None
    return plt


def _axes(axes: Any, columns: int) -> Any:
    """`axes`, or new ones."""
    plt = _pyplot()
    if axes is None:
        _, axes = plt.subplots(1, columns, figsize=(5 * columns, 3.5), layout="constrained")
    axes = np.ravel(np.asarray(axes, dtype=object))
    if len(axes) != columns:
        raise ValueError(f"Expected {columns} matplotlib `axes`; got {len(axes)}.")
    return axes


def plot_history(fit: FitResult, axes: Any = None) -> Any:
    """The training loss, and the held-out loss with the step that was kept.

    Args:
        fit: result of `numpyro_disco.fit`.
        axes: two matplotlib axes; new ones by default.

    Returns:
        Array of the two axes.
    """
    axes = _axes(axes, 2)
    history = fit.history
    axes[0].plot(history.step, history.loss)
    axes[0].set(xlabel="step", ylabel=f"loss: {fit.settings.objective}", title="training rows")
    low = history.held_out_loss - 2 * history.held_out_error
    high = history.held_out_loss + 2 * history.held_out_error
    axes[1].plot(history.step, history.held_out_loss)
    axes[1].fill_between(history.step, low, high, alpha=0.2)
    axes[1].axvline(fit.best_step, color="black", linestyle=":", label=f"kept: {fit.best_step}")
    axes[1].set(
        xlabel="step",
        ylabel="held-out loss",
        title="held-out rows, with 2 standard errors",
    )
    axes[1].legend()
    return axes


def plot_report(fit: FitResult, report: Report) -> Any:
    """Held-out rows and draws in pairs of columns, the losses, and the score's error by noise.

    Args:
        fit: result of `numpyro_disco.fit`.
        report: of the same fit.

    Returns:
        The matplotlib figure: pairs of the first columns, at most five, above the rest.
    """
    plt = _pyplot()
    names, rows = fit.distribution.names[:MAX_PAIRS], np.asarray(fit._unstandardize(fit._held_out))
    figure = plt.figure(figsize=(12, 10), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(2, 1))
    grid = above.subplots(len(names), len(names), squeeze=False)
    for (i, j), axis in np.ndenumerate(grid):
        if i == j:
            both = np.concatenate([rows[:, i], report.draws[:, i]])
            low, high = np.quantile(both, [0.001, 0.999])
            bins = np.linspace(low, high, 41)
            axis.hist(rows[:, i], bins, density=True, alpha=0.5, label="held-out rows")
            if len(report.draws):
                axis.hist(report.draws[:, i], bins, density=True, histtype="step", label="draws")
        else:
            axis.plot(rows[:MAX_DOTS, j], rows[:MAX_DOTS, i], ".", markersize=2)
            axis.plot(report.draws[:MAX_DOTS, j], report.draws[:MAX_DOTS, i], ".", markersize=2)
        if i == len(names) - 1:
            axis.set_xlabel(names[j])
        if j == 0:
            axis.set_ylabel(names[i])
    grid[0, 0].legend()
    axes = below.subplots(1, 2 + (len(report.noise_scales) > 0))
    plot_history(fit, axes[:2])
    if len(report.noise_scales):
        axes[2].plot(report.noise_scales, report.score_errors, "o-")
        axes[2].set(
            xscale="log",
            xlabel="noise, standardised",
            ylabel="relative error of the score",
            title="held-out rows with noise",
        )
    return figure


def plot_tempering(history: TemperedHistory, axes: Any = None) -> Any:
    """Each run's path from the base to the target, step by step.

    Args:
        history: of all runs, arrays (num_chains, steps).
        axes: four matplotlib axes; new ones by default.

    Returns:
        Array of the four axes.
    """
    axes = _axes(axes, 4)
    steps = np.arange(1, np.shape(history.inverse_temperature)[1] + 1)
    columns = (
        ("inverse temperature", history.inverse_temperature),
        ("acceptance", history.acceptance),
        ("distinct ancestors", history.unique_ancestors),
        ("log normaliser", history.log_normalizer),
    )
    for axis, (label, column) in zip(axes, columns, strict=True):
        axis.plot(steps, np.asarray(column).T, alpha=0.7)
        axis.set(xlabel="step", ylabel=label)
    axes[0].set(yscale="log")
    axes[1].set(ylim=(0, 1))
    return axes


def plot_ranks(calibration: Calibration, **kwargs: Any) -> Any:
    """Distribution functions of ranks less that of the uniform, with the band of chance.

    Args:
        calibration: from `numpyro_disco.calibration`.
        **kwargs: arguments of ArviZ's plot.

    Returns:
        Array of matplotlib axes (ArviZ 0.x), or ArviZ's collection of plots (1.x).
    """
    plt = _pyplot()
    import arviz as az
    from scipy import stats

    if hasattr(az, "plot_ecdf_pit"):
        return az.plot_ecdf_pit(calibration.to_arviz(), **kwargs)
    count = len(calibration.ranks)
    figure, axes = plt.subplots(
        1, count, figsize=(3 * count, 3), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (name, ranks) in zip(axes[0], calibration.ranks.items(), strict=True):
        settings = {"difference": True, "confidence_bands": True, "ax": axis} | kwargs
        points = np.linspace(0, 1, 101)
        az.plot_ecdf(ranks, cdf=stats.uniform.cdf, eval_points=points, **settings)
        axis.set(title=name, xlabel="rank of the truth")
    return axes[0]
