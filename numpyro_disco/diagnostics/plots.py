"""Figures, drawn from plain arrays.

matplotlib, the `plots` extra, is imported only when a figure is drawn. Colours are those of Okabe
and Ito (2008), which remain distinct under colour-vision deficiency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from numpyro_disco._arviz import ranks_to_arviz
from numpyro_disco._typing import ArrayLike

MAX_COLUMNS = 5
"""Most columns that are drawn against each other."""
MAX_DOTS = 1000
"""Most rows, and most draws, in one panel of dots."""
SPREAD = 0.3
"""Largest distance of a dot from the whole number that it stands for."""
BLUE, ORANGE, BLACK = "#0072B2", "#E69F00", "#000000"


def plot_history(
    step: np.ndarray,
    loss: np.ndarray,
    held_out_loss: np.ndarray,
    held_out_error: np.ndarray,
    *,
    best_step: int,
    label: str,
    axes: Any = None,
) -> Any:
    """Draw the training loss, and the held-out loss with the step whose weights were kept.

    Args:
        step: steps taken so far, shape (rounds,).
        loss: mean training loss of each round, shape (rounds,).
        held_out_loss: held-out loss after each round, shape (rounds,).
        held_out_error: standard error of `held_out_loss`, shape (rounds,).
        best_step: the step whose weights were kept.
        label: name of the loss.
        axes: two matplotlib axes; new ones by default.

    Returns:
        Array of the two axes.
    """
    axes = _axes(axes, 2)
    axes[0].plot(step, loss, color=BLUE)
    axes[0].set(xlabel="step", ylabel=f"loss: {label}", title="training rows")
    low, high = held_out_loss - 2 * held_out_error, held_out_loss + 2 * held_out_error
    axes[1].plot(step, held_out_loss, color=BLUE)
    axes[1].fill_between(step, low, high, color=BLUE, alpha=0.2, linewidth=0)
    axes[1].axvline(best_step, color=BLACK, linestyle=":", label=f"kept: step {best_step}")
    axes[1].set(xlabel="step", ylabel="held-out loss", title="held-out rows, +- 2 standard errors")
    axes[1].legend()
    return axes


def plot_report(
    names: Sequence[str],
    rows: np.ndarray,
    draws: np.ndarray,
    history: Mapping[str, Any],
    noise_scales: np.ndarray,
    score_errors: np.ndarray,
    discrete: np.ndarray,
) -> Any:
    """Draw held-out rows and draws in pairs of columns, the losses, and the error of the score.

    Args:
        names: names of the columns; the first five are drawn.
        rows: held-out rows in the user's units, shape (M, D).
        draws: draws of the learned density in the user's units, shape (n, D); n may be 0.
        history: the arguments of `plot_history`, by name.
        noise_scales: noise scales at which the score was checked, in standardised units, shape
            (L,); L = 0 leaves the panel out.
        score_errors: relative error of the score at each, shape (L,).
        discrete: boolean array (D,), true for columns of whole numbers: each number gets a
            bar, and dots are spread around it.

    Returns:
        The matplotlib figure: pairs of columns above, losses and errors below.
    """
    plt = _pyplot()
    names = tuple(names)[:MAX_COLUMNS]
    figure = plt.figure(figsize=(12, 10), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(2, 1))
    _plot_pairs(above, names, rows, draws, discrete)
    axes = below.subplots(1, 3 if len(noise_scales) else 2)
    plot_history(**history, axes=axes[:2])
    if len(noise_scales):
        axes[2].plot(noise_scales, score_errors, "o-", color=BLUE)
        axes[2].set(
            xscale="log",
            ylim=(0, None),
            xlabel="noise scale (standardised units)",
            ylabel="relative error of the score",
            title="held-out rows with noise",
        )
        axes[2].set_xticks(noise_scales, [f"{scale:.2g}" for scale in noise_scales])
        axes[2].minorticks_off()
    return figure


def _bins(values: np.ndarray, discrete: bool) -> np.ndarray:
    """Edges of the bars of a histogram, one bar for each whole number of a discrete column."""
    if discrete:
        return np.arange(values.min() - 0.5, values.max() + 1)
    low, high = np.quantile(values, [0.001, 0.999])
    return np.linspace(low, high, 41)


def _plot_pairs(
    figure: Any,
    names: tuple[str, ...],
    rows: np.ndarray,
    draws: np.ndarray,
    discrete: np.ndarray,
) -> None:
    """Draw histograms of the columns on the diagonal, and scatter plots of pairs elsewhere."""
    rng = np.random.default_rng(0)
    row_dots, draw_dots = (
        some[:MAX_DOTS] + SPREAD * discrete * rng.uniform(-1, 1, some[:MAX_DOTS].shape)
        for some in (rows, draws)
    )
    grid = figure.subplots(len(names), len(names), squeeze=False, sharex="col")
    dots = {"linestyle": "", "marker": "o", "markersize": 3, "markeredgewidth": 0, "alpha": 0.6}
    for (i, j), axis in np.ndenumerate(grid):
        if i == j:
            bins = _bins(np.concatenate([rows[:, i], draws[:, i]]), bool(discrete[i]))
            axis.hist(rows[:, i], bins, density=True, color=BLUE, alpha=0.5, label="held-out rows")
            if len(draws):
                style = {"histtype": "step", "color": ORANGE, "linewidth": 1.5}
                axis.hist(draws[:, i], bins, density=True, label="draws", **style)
            axis.set_yticks([])
        else:
            # Held-out rows are usually fewer than draws, which would hide them.
            axis.plot(draw_dots[:, j], draw_dots[:, i], color=ORANGE, **dots)
            axis.plot(row_dots[:, j], row_dots[:, i], color=BLUE, **dots)
        if i == len(names) - 1:
            axis.set_xlabel(names[j])
        if j == 0:
            axis.set_ylabel(names[i])
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)


def plot_tempering(
    inverse_temperature: ArrayLike,
    acceptance: ArrayLike,
    unique_ancestors: ArrayLike,
    log_normalizer: ArrayLike,
    *,
    axes: Any = None,
) -> Any:
    """Draw the path of each tempered run from the base to the target, step by step.

    Args:
        inverse_temperature: inverse temperature after each step, shape (num_chains, steps).
        acceptance: mean acceptance probability of each step, shape (num_chains, steps).
        unique_ancestors: distinct particles that survived, shape (num_chains, steps).
        log_normalizer: log of the estimated ratio of masses, shape (num_chains, steps).
        axes: four matplotlib axes; new ones by default.

    Returns:
        Array of the four axes.
    """
    axes = _axes(axes, 4)
    columns = {
        "inverse temperature": inverse_temperature,
        "acceptance": acceptance,
        "distinct ancestors": unique_ancestors,
        "log normaliser": log_normalizer,
    }
    steps = np.arange(1, np.shape(inverse_temperature)[1] + 1)
    for axis, (label, column) in zip(axes, columns.items(), strict=True):
        axis.plot(steps, np.asarray(column).T, alpha=0.7)
        axis.set(xlabel="step", ylabel=label)
    axes[0].set(yscale="log")
    axes[1].set(ylim=(0, 1))
    return axes


def plot_ranks(ranks: Mapping[str, np.ndarray], **kwargs: Any) -> Any:
    """Draw the distribution function of ranks less that of the uniform, with a confidence band.

    Args:
        ranks: ranks in [0, 1] by column, shape (rows,) each.
        **kwargs: arguments of `arviz.plot_ecdf` (ArviZ 0.x) or `arviz.plot_ecdf_pit` (1.x).

    Returns:
        Array of matplotlib axes (ArviZ 0.x), or ArviZ's collection of plots (1.x): a list of one
        collection a column if the columns have different numbers of ranks.
    """
    plt = _pyplot()
    import arviz as az
    from scipy import stats

    if hasattr(az, "plot_ecdf_pit"):
        if len({len(column) for column in ranks.values()}) == 1:
            return az.plot_ecdf_pit(ranks_to_arviz(ranks), **kwargs)
        # One data set would pad the shorter columns with NaN, which ArviZ cannot draw.
        each = [ranks_to_arviz({name: column}) for name, column in ranks.items()]
        return [az.plot_ecdf_pit(column, **kwargs) for column in each]
    count = len(ranks)
    _, axes = plt.subplots(
        1, count, figsize=(3 * count, 3), sharey=True, squeeze=False, layout="constrained"
    )
    points = np.linspace(0, 1, 101)
    for axis, (name, column) in zip(axes[0], ranks.items(), strict=True):
        settings = {"difference": True, "confidence_bands": True, "ax": axis} | kwargs
        az.plot_ecdf(column, cdf=stats.uniform.cdf, eval_points=points, **settings)
        axis.set(title=name, xlabel="rank of the truth")
    return axes[0]


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError(
            "Expected matplotlib, which figures need; it is not installed. Install the extra: "
            "pip install 'numpyro_disco[plots]'."
        ) from None
    return plt


def _axes(axes: Any, count: int) -> Any:
    """`axes` as a flat array of the expected length; new ones if None."""
    plt = _pyplot()
    if axes is None:
        _, axes = plt.subplots(1, count, figsize=(5 * count, 3.5), layout="constrained")
    axes = np.ravel(np.asarray(axes, dtype=object))
    if len(axes) != count:
        raise ValueError(
            f"Expected {count} matplotlib `axes`; got {len(axes)}. Make them with "
            f"`plt.subplots(1, {count})`."
        )
    return axes
