"""Figures of several panels, drawn from plain arrays."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from scipy import stats

from numpyro_disco._typing import ArrayLike
from numpyro_disco.diagnostics.panels import (
    DRAWS,
    GREY,
    INK,
    MAX_NAME,
    ROWS,
    VERDICTS,
    Shown,
    draw_marginal,
    draw_pair,
    given_axes,
    label_axis,
    pyplot,
)
from numpyro_disco.diagnostics.verdicts import PASS

MAX_COLUMNS = 5
"""Most columns that are drawn against each other."""
MAX_DISTANCES = 12
"""Most columns whose distances are drawn."""
BAND = 0.95
"""Probability that the ranks of a calibrated column stay inside its band."""


class Line(Protocol):
    """One check of a report."""

    @property
    def name(self) -> str:
        """Name of the check."""

    @property
    def verdict(self) -> str:
        """The verdict: "pass", "warn" or "fail"."""

    @property
    def reason(self) -> str:
        """The comparison and its result."""


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
    axes = given_axes(axes, 2)
    axes[0].plot(step, loss, color=ROWS)
    axes[0].set(xlabel="step", ylabel=f"loss: {label}", title="training rows")
    low, high = held_out_loss - 2 * held_out_error, held_out_loss + 2 * held_out_error
    axes[1].plot(step, held_out_loss, color=ROWS)
    axes[1].fill_between(step, low, high, color=ROWS, alpha=0.2, linewidth=0)
    axes[1].axvline(best_step, color=INK, linestyle=":", label=f"kept: step {best_step}")
    axes[1].set(xlabel="step", ylabel="held-out loss", title="held-out rows, +- 2 standard errors")
    axes[1].legend()
    return axes


def plot_report(
    lines: Sequence[Line],
    shown: Sequence[Shown],
    history: Mapping[str, Any],
    noise_scales: np.ndarray,
    score_errors: np.ndarray,
) -> Any:
    """Draw the verdicts of a report, held-out rows and draws, the losses and the distances.

    Args:
        lines: the checks.
        shown: held-out rows and draws of each column; at most five columns are drawn against each
            other, those in which draws differ most from rows.
        history: the arguments of `plot_history`, by name.
        noise_scales: noise scales at which the score was checked, in standardised units, shape
            (L,); L = 0 leaves the panel out.
        score_errors: relative error of the score at each, shape (L,).

    Returns:
        The matplotlib figure: verdicts and pairs of columns above, losses and errors below.
    """
    figure = pyplot().figure(figsize=(14, 10), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(2.6, 1))
    left, right = above.subfigures(1, 2, width_ratios=(1, 1.5))
    _write_verdicts(left.add_subplot(), lines)
    has_draws = len(shown[0].draws) > 0
    distances = np.array([column.distance if has_draws else 0.0 for column in shown])
    order = np.argsort(-distances, kind="stable").tolist()
    draw_pairs(
        right,
        [shown[place] for place in sorted(order[:MAX_COLUMNS])],
        ("held-out rows", "draws"),
        f"the {MAX_COLUMNS} of {len(shown)} columns\nin which draws differ most",
        len(shown),
    )
    axes = below.subplots(1, 2 + has_draws + (len(noise_scales) > 0))
    plot_history(**history, axes=axes[:2])
    if has_draws:
        _draw_distances(axes[2], [shown[place] for place in order[:MAX_DISTANCES]], len(shown))
    if len(noise_scales):
        axes[-1].plot(noise_scales, score_errors, "o-", color=ROWS)
        axes[-1].set(
            xscale="log",
            ylim=(0, None),
            xlabel="noise scale, standardised",
            ylabel="relative error of the score",
            title="held-out rows with noise",
        )
        axes[-1].set_xticks(noise_scales, [f"{scale:.2g}" for scale in noise_scales])
        axes[-1].minorticks_off()
    return figure


def _write_verdicts(axis: Any, lines: Sequence[Line]) -> None:
    """Write each check with its mark; reasons are shortened if the check passed."""
    axis.set_axis_off()
    entries = []
    for line in lines:
        reason = textwrap.wrap(line.reason, 80)
        most = 2 if line.verdict == PASS else 4
        if len(reason) > most:
            reason = [*reason[: most - 1], reason[most - 1][:76] + " …"]
        entries.append((line, reason))
    # A line for each name, those of its reason, and half a line between checks.
    height = 1 / max(sum(1.6 + len(reason) for _, reason in entries), 40)
    size = min(9.0, 460 * height)
    place = 1.0
    for line, reason in entries:
        mark, colour = VERDICTS[line.verdict]
        title = {"color": colour, "weight": "bold", "size": size + 1}
        axis.text(0, place, mark, va="top", **title)
        axis.text(0.05, place, f"{line.verdict}: {line.name}", va="top", **title)
        axis.text(
            0.05, place - 1.1 * height, "\n".join(reason), va="top", size=size, linespacing=1.15
        )
        place -= (1.6 + len(reason)) * height


def _draw_distances(axis: Any, shown: Sequence[Shown], num_columns: int) -> None:
    """Draw how far the draws of each column are from its rows, and how far chance takes them."""
    rng = np.random.default_rng(0)
    chance = [np.mean([column.shuffled(rng).distance for _ in range(5)]) for column in shown]
    places = np.arange(len(shown))
    axis.barh(places, [column.distance for column in shown], color=DRAWS, alpha=0.6, label="draws")
    style = {"color": INK, "linestyle": "", "marker": "|", "markersize": 10}
    axis.plot(chance, places, label="by chance alone", **style)
    axis.set_yticks(places, [textwrap.fill(column.name, MAX_NAME + 6) for column in shown])
    axis.invert_yaxis()
    worst = "" if len(shown) == num_columns else f", the worst {len(shown)} of {num_columns}"
    axis.set(xlabel="W1 in standard deviations, or share", title=f"distance of draws{worst}")
    axis.set_xlim(right=1.7 * axis.get_xlim()[1])  # room for the legend
    axis.locator_params(axis="x", nbins=5)
    axis.legend(loc="lower right")


def draw_pairs(
    figure: Any,
    shown: Sequence[Shown],
    labels: tuple[str, str],
    note: str = "",
    num_columns: int = 0,
) -> Any:
    """Draw histograms of columns on the diagonal, and pairs of columns below it.

    Args:
        figure: matplotlib figure or subfigure.
        shown: the columns.
        labels: names of rows and draws in the legend.
        note: what to write above the diagonal if there are more columns than are drawn.
        num_columns: number of columns.

    Returns:
        Array of matplotlib axes, shape (columns, columns), None above the diagonal.
    """
    count = len(shown)
    grid = np.full((count, count), None, object)
    for i, j in np.argwhere(np.tri(count)).tolist():
        axis = grid[i, j] = figure.add_subplot(count, count, i * count + j + 1)
        if i == j:
            draw_marginal(axis, shown[i], labels)
        else:
            draw_pair(axis, shown[j], shown[i], labels)
        label_axis(axis.xaxis, shown[j])
        if i < count - 1:
            axis.set_xlabel("")
            axis.tick_params(labelbottom=False)
        if i != j:
            label_axis(axis.yaxis, shown[i])
            if j > 0:
                axis.set_ylabel("")
                axis.tick_params(labelleft=False)
    handles, texts = grid[0, 0].get_legend_handles_labels()
    title = note if count < num_columns else None
    figure.legend(handles, texts, loc="upper right", title=title, frameon=False)
    return grid


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
    axes = given_axes(axes, 4)
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


def plot_ranks(
    ranks: Mapping[str, np.ndarray], verdicts: Mapping[str, str], axes: Any = None
) -> Any:
    """Draw how far the distribution function of ranks is from that of the uniform distribution.

    The band holds the whole line with probability 0.95 if the ranks are uniform. A line that rises
    and then falls shows ranks that are too low: draws above the true values. Low on the left and
    high on the right (an S from below) shows draws that are too wide, the reverse too narrow.

    Args:
        ranks: ranks in [0, 1] by column, shape (rows,) each.
        verdicts: the verdict of each column.
        axes: one matplotlib axes for each column; new ones by default.

    Returns:
        Array of the axes.

    References:
        Sailynoja, Buerkner & Vehtari 2022, Graphical test for discrete uniformity, section 2.2.
    """
    axes = given_axes(axes, len(ranks), (3, 2.8))
    points = np.linspace(0, 1, 41)
    for axis, (name, column) in zip(axes, ranks.items(), strict=True):
        low, high = _band(len(column), points)
        axis.fill_between(points, low - points, high - points, color=GREY, alpha=0.3, linewidth=0)
        ordered = np.sort(column)
        share = np.searchsorted(ordered, points, side="right") / len(ordered)
        mark, colour = VERDICTS[verdicts[name]]
        axis.plot(points, share - points, color=ROWS)
        axis.axhline(0, color=INK, linewidth=0.6)
        axis.set_title(f"{name}  {mark} {verdicts[name]}", color=colour)
        axis.set(xlabel="rank of the true value", xlim=(0, 1))
    axes[0].set_ylabel("difference from uniform")
    return axes


def _band(count: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Limits between which the distribution function of uniform ranks stays with probability 0.95.

    Pointwise binomial intervals, of the one level at which whole simulated lines stay inside.
    """
    rng = np.random.default_rng(0)
    inner = points[1:-1]
    cells = rng.multinomial(count, np.diff(points), size=2000)
    below = np.cumsum(cells, axis=1)[:, :-1]
    tails = np.minimum(
        stats.binom.cdf(below, count, inner), stats.binom.sf(below - 1, count, inner)
    )
    level = np.quantile(tails.min(axis=1), 1 - BAND)
    low, high = (stats.binom.ppf(p, count, points) / count for p in (level, 1 - level))
    # At the ends every line has the same value.
    low[[0, -1]] = high[[0, -1]] = points[[0, -1]]
    return low, high
