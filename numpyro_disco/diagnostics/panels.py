"""Single panels that compare rows with draws, drawn from plain arrays.

Rows are filled, draws are outlined, so that neither hides the other. matplotlib, the `plots` extra,
is imported only when a figure is drawn. Colours are those of Okabe and Ito (2008), which remain
distinct under colour-vision deficiency.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage, stats

from numpyro_disco.diagnostics.verdicts import FAIL, PASS, WARN
from numpyro_disco.tables.columns import Boolean, Categories, Column, Dates

ROWS, DRAWS, INK, GREY = "#0072B2", "#D55E00", "#000000", "#999999"
"""Colours of rows, of draws, of marks and of what chance alone gives."""
VERDICTS = {PASS: ("✓", "#009E73"), WARN: ("!", "#E69F00"), FAIL: ("✗", "#D55E00")}
"""Mark and colour of each verdict."""
REGIONS = (0.5, 0.9)
"""Shares of the draws that contours enclose."""
NUM_CELLS = 64
"""Cells along each side of the grid in which draws are counted for contours."""
MIN_BINS, MAX_BINS = 12, 40
"""Fewest and most bars of a histogram of numbers."""
MAX_DOTS = 1000
"""Most rows in one panel of dots."""
SPREAD = 0.3
"""Largest distance of a dot from the level that it stands for."""
MAX_TICKS, MAX_LABEL, MAX_NAME = 8, 14, 18
"""Most levels, and most characters of each, that are written along an axis; and most characters
in a line of the name of a column."""


@dataclasses.dataclass(frozen=True)
class Shown:
    """One column of rows and of draws, in the numbers that its axis has.

    Attributes:
        name: name of the column.
        column: what its numbers stand for.
        discrete: True if each number is a level with a mass.
        rows: its entries in the rows, NaN where missing, shape (M,); M may be 0.
        draws: its entries in the draws, shape (n,); n may be 0.
    """

    name: str
    column: Column
    discrete: bool
    rows: np.ndarray
    draws: np.ndarray

    @property
    def range(self) -> tuple[float, float]:
        """Limits of the axis: nearly all rows and draws, and a margin."""
        both = np.concatenate([self.rows, self.draws])
        both = both[np.isfinite(both)]
        if not len(both):
            return 0.0, 1.0
        if self.discrete:
            return both.min() - 0.6, both.max() + 0.6
        low, high = np.quantile(both, [0.002, 0.998])
        margin = 0.06 * (high - low) or 0.5
        return low - margin, high + margin

    @property
    def distance(self) -> float:
        """Distance of draws from rows.

        The first Wasserstein distance in standard deviations of the rows; of levels, half the sum
        of the differences of their shares.
        """
        rows = self.rows[np.isfinite(self.rows)]
        if self.discrete:
            levels = np.unique(np.concatenate([rows, self.draws]))
            shares = [(some == levels[:, None]).mean(axis=1) for some in (rows, self.draws)]
            return float(np.abs(shares[0] - shares[1]).sum() / 2)
        return float(stats.wasserstein_distance(rows, self.draws) / (rows.std() or 1.0))

    def shuffled(self, rng: np.random.Generator) -> Shown:
        """Rows and draws exchanged at random, which gives the distance by chance alone."""
        rows = self.rows[np.isfinite(self.rows)]
        both = rng.permutation(np.concatenate([rows, self.draws]))
        return dataclasses.replace(self, rows=both[: len(rows)], draws=both[len(rows) :])


def shown_columns(
    names: Sequence[str],
    columns: Sequence[Column],
    discrete: np.ndarray,
    rows: np.ndarray,
    draws: np.ndarray,
) -> list[Shown]:
    """Each column of rows and draws as it is drawn.

    Args:
        names: names of the D columns.
        columns: what their numbers stand for.
        discrete: boolean array (D,), true where numbers are levels.
        rows: rows in the user's units, NaN where missing, shape (M, D).
        draws: draws in the user's units, shape (n, D).
    """
    return [
        Shown(name, column, bool(is_discrete), *(_axis_numbers(column, x) for x in pair))
        for name, column, is_discrete, *pair in zip(
            names, columns, discrete, np.asarray(rows).T, np.asarray(draws).T, strict=True
        )
    ]


def _axis_numbers(column: Column, numbers: np.ndarray) -> np.ndarray:
    """Numbers along an axis; those of dates are days of matplotlib's calendar."""
    numbers = np.asarray(numbers, np.float64)
    if isinstance(column, Boolean | Categories):
        return np.round(numbers)
    decoded = column.decode(numbers)
    if not isinstance(column, Dates):
        return np.asarray(decoded, np.float64)
    pyplot()
    from matplotlib.dates import date2num

    return np.where(np.isnan(numbers), np.nan, date2num(decoded))


def draw_marginal(axis: Any, shown: Shown, labels: tuple[str, str] = ("rows", "draws")) -> None:
    """Draw the histograms of one column: rows filled, draws as an outline.

    Args:
        axis: matplotlib axes.
        shown: the column.
        labels: names of rows and draws in the legend.
    """
    low, high = shown.range
    fewest = min((len(some) for some in (shown.rows, shown.draws) if len(some)), default=0)
    num_bins = int(np.clip(2 * np.sqrt(fewest), MIN_BINS, MAX_BINS))
    bins = np.linspace(low, high, num_bins + 1)
    if shown.discrete:
        bins = np.arange(np.ceil(low) - 0.5, high + 0.5)
    filled = {"color": ROWS, "alpha": 0.4}
    outlined = {"histtype": "step", "color": DRAWS, "linewidth": 1.6}
    pairs = (shown.rows, labels[0], filled), (shown.draws, labels[1], outlined)
    for values, label, style in pairs:
        values = values[np.isfinite(values)]
        if len(values):
            # Shares of all values, those beyond the axis too.
            weights = np.full(len(values), 1 / (len(values) * (bins[1] - bins[0])))
            axis.hist(values, bins, weights=weights, label=label, **style)
    axis.set(xlim=(low, high), yticks=[])
    axis.spines[["left", "top", "right"]].set_visible(False)


def draw_pair(axis: Any, x: Shown, y: Shown, labels: tuple[str, str] = ("rows", "draws")) -> None:
    """Draw two columns: rows as dots, draws as contours; levels as intervals or circles.

    Two columns of numbers have a dot for each row, and contours around half and nine tenths of the
    draws. Numbers by levels have, for each level, the median and the central half and nine tenths.
    Two columns of levels have circles, whose areas are shares.

    Args:
        axis: matplotlib axes.
        x: the column along the horizontal axis.
        y: the column along the vertical axis.
        labels: names of rows and draws in the legend.
    """
    if x.discrete and y.discrete:
        _draw_shares(axis, x, y, labels)
    elif x.discrete or y.discrete:
        _draw_intervals(axis, x, y, labels)
    else:
        there = np.flatnonzero(np.isfinite(x.rows) & np.isfinite(y.rows))[:MAX_DOTS]
        size = np.clip(2000 / max(len(there), 1), 3, 14)
        style = {"color": ROWS, "s": size, "alpha": 0.45, "linewidths": 0}
        axis.scatter(x.rows[there], y.rows[there], label=labels[0], **style)
        _draw_contours(axis, x, y, labels[1])
    axis.set(xlim=x.range, ylim=y.range)


def _draw_contours(axis: Any, x: Shown, y: Shown, label: str) -> None:
    """Draw contours that enclose the `REGIONS` of the draws."""
    if len(x.draws) < 20:
        return
    edges = [np.linspace(*shown.range, NUM_CELLS + 1) for shown in (x, y)]
    counts, *_ = np.histogram2d(x.draws, y.draws, edges)
    # Cells, at a thousand draws; the exponent is that of kernels in two dimensions.
    width = 1.5 * (1000 / len(x.draws)) ** (1 / 6)
    density = ndimage.gaussian_filter(counts, width, mode="constant")
    falling = np.sort(density.ravel())[::-1]
    enclosed = np.cumsum(falling) / len(x.draws)
    places = np.minimum(np.searchsorted(enclosed, REGIONS), falling.size - 1)
    levels = np.unique(np.maximum(falling[places], np.finfo(float).tiny))
    centres = [(some[1:] + some[:-1]) / 2 for some in edges]
    axis.contour(*centres, density.T, levels, colors=DRAWS, linewidths=(0.9, 1.6)[-len(levels) :])
    axis.plot([], [], color=DRAWS, label=label)


def _draw_intervals(axis: Any, x: Shown, y: Shown, labels: tuple[str, str]) -> None:
    """Draw median and central intervals of numbers at each level."""
    levels, numbers = (x, y) if x.discrete else (y, x)
    for side, colour, label in ((-0.16, ROWS, labels[0]), (0.16, DRAWS, labels[1])):
        which = "rows" if side < 0 else "draws"
        codes, values = getattr(levels, which), getattr(numbers, which)
        there = np.isfinite(codes) & np.isfinite(values)
        for level in np.unique(codes[there]):
            inside = values[there & (codes == level)]
            quantiles = np.quantile(inside, [0.05, 0.25, 0.5, 0.75, 0.95])
            for ends, width in (((0, 4), 1.0), ((1, 3), 3.0), ((2, 2), 0.0)):
                place = np.full(2, level + side)
                ends = quantiles[list(ends)]
                style = {"color": colour, "linewidth": width, "marker": "" if width else "o"}
                axis.plot(*((place, ends) if x.discrete else (ends, place)), **style, markersize=4)
        axis.plot([], [], color=colour, label=label)


def _draw_shares(axis: Any, x: Shown, y: Shown, labels: tuple[str, str]) -> None:
    """Draw circles at each pair of levels: filled for rows, outlined for draws."""
    styles = (
        (x.rows, y.rows, labels[0], {"color": ROWS, "alpha": 0.4, "linewidths": 0}),
        (x.draws, y.draws, labels[1], {"facecolors": "none", "edgecolors": DRAWS}),
    )
    for first, second, label, style in styles:
        pairs = np.column_stack([first, second])
        pairs = pairs[np.isfinite(pairs).all(axis=1)]
        if len(pairs):
            places, counts = np.unique(pairs, axis=0, return_counts=True)
            axis.scatter(*places.T, s=900 * counts / len(pairs), label=label, **style)


def label_axis(side: Any, shown: Shown) -> None:
    """Write the name of a column, its levels or its dates along an axis.

    Args:
        side: `axes.xaxis` or `axes.yaxis` of matplotlib.
        shown: the column.
    """
    from matplotlib import dates, ticker

    side.set_label_text(textwrap.fill(shown.name, MAX_NAME))
    if isinstance(shown.column, Dates):
        locator = dates.AutoDateLocator(minticks=2, maxticks=4)
        side.set_major_locator(locator)
        side.set_major_formatter(dates.ConciseDateFormatter(locator))
    elif isinstance(shown.column, Boolean | Categories):
        low, high = shown.range
        codes = np.arange(np.ceil(low), high)
        codes = codes[:: int(np.ceil(len(codes) / MAX_TICKS))]
        texts = [entry_text(shown.column, code) for code in codes]
        turned = side.axis_name == "x" and max(map(len, texts)) * len(texts) > 20
        side.set_ticks(codes, texts, rotation=90 if turned else 0)
    else:
        # As many as there is room for.
        steps = [1, 2, 5, 10]
        side.set_major_locator(ticker.MaxNLocator("auto", steps=steps, integer=shown.discrete))


def entry_text(column: Column, number: float) -> str:
    """The entry that a number of a coordinate stands for, as short text."""
    decoded = column.decode(np.asarray(number))
    if isinstance(column, Dates):
        text = str(np.datetime_as_string(decoded, unit="D"))
    elif isinstance(column, Boolean | Categories):
        text = str(decoded.item() if isinstance(decoded, np.ndarray) else decoded)
    else:
        text = f"{float(decoded):.4g}"
    return text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 1] + "…"


def pyplot() -> Any:
    """The module `matplotlib.pyplot`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError(
            "Expected matplotlib, which figures need; it is not installed. Install the extra: "
            "pip install 'numpyro_disco[plots]'."
        ) from None
    return plt


def given_axes(axes: Any, count: int, size: tuple[float, float] = (5, 3.5)) -> Any:
    """`axes` as a flat array of the expected length; new ones, at most four in a line, if None.

    Args:
        axes: matplotlib axes, or None.
        count: how many are expected.
        size: width and height of each new one, in inches.

    Raises:
        ValueError: another number of axes.
    """
    plt = pyplot()
    if axes is None:
        num_across = min(count, 4)
        num_down = -(-count // num_across)
        figure = plt.figure(
            figsize=(size[0] * num_across, size[1] * num_down), layout="constrained"
        )
        axes = [figure.add_subplot(num_down, num_across, 1 + place) for place in range(count)]
    axes = np.ravel(np.asarray(axes, dtype=object))
    if len(axes) != count:
        raise ValueError(
            f"Expected {count} matplotlib `axes`; got {len(axes)}. Make them with "
            f"`plt.subplots(1, {count})`."
        )
    return axes
