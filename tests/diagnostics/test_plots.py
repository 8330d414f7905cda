"""Figures from plain arrays: what is drawn where, and what is left out."""

import sys
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pytest

from numpyro_disco.diagnostics.panels import shown_columns
from numpyro_disco.diagnostics.plots import (
    _band,
    draw_pairs,
    plot_history,
    plot_ranks,
    plot_report,
    plot_tempering,
)
from numpyro_disco.tables.columns import Real

RNG = np.random.default_rng(0)
HISTORY = {
    "step": np.array([0, 50, 100]),
    "loss": np.array([np.nan, 1.0, 0.5]),
    "held_out_loss": np.array([1.2, 0.9, 0.8]),
    "held_out_error": np.array([0.0, 0.1, 0.1]),
    "best_step": 100,
    "label": "disco",
}
NONE = np.zeros(0)


class Line(NamedTuple):
    name: str
    verdict: str
    reason: str


LINES = [
    Line("network", "pass", "word " * 100),
    Line("masses", "warn", "look closer"),
    Line("draws", "fail", "no"),
]


def real_columns(names, num_rows=50, num_draws=200):
    """Columns of standard normal numbers."""
    rows, draws = RNG.normal(size=(num_rows, len(names))), RNG.normal(size=(num_draws, len(names)))
    return shown_columns(names, [Real()] * len(names), np.zeros(len(names), bool), rows, draws)


def texts(figure):
    """Everything that is written inside the axes of a figure."""
    return [text.get_text() for axis in figure.axes for text in axis.texts]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_plot_history_labels_its_axes():
    axes = plot_history(**HISTORY)
    assert [axis.get_xlabel() for axis in axes] == ["step", "step"]
    assert axes[0].get_ylabel() == "loss: disco" and axes[1].get_ylabel() == "held-out loss"
    assert [text.get_text() for text in axes[1].get_legend().get_texts()] == ["kept: step 100"]


def test_figures_draw_into_given_axes():
    _, axes = plt.subplots(1, 2)
    assert plot_history(**HISTORY, axes=axes).tolist() == list(axes)
    with pytest.raises(ValueError, match="2 matplotlib `axes`; got 1"):
        plot_history(**HISTORY, axes=axes[:1])


def test_plot_report_writes_verdicts_and_reasons():
    figure = plot_report(
        LINES, real_columns("abc"), HISTORY, np.array([0.1, 1]), np.array([0.2, 0.1])
    )
    written = texts(figure)
    assert [text for text in written if ":" in text] == [
        "pass: network",
        "warn: masses",
        "fail: draws",
    ]
    assert {"✓", "!", "✗", "look closer", "no"} <= set(written)
    # A long reason of a check that passed is cut.
    (long,) = [text for text in written if text.startswith("word")]
    assert long.count("\n") == 1 and long.endswith("…")


def test_plot_report_has_pairs_losses_distances_and_scores():
    figure = plot_report(
        LINES, real_columns("abc"), HISTORY, np.array([0.1, 1]), np.array([0.2, 0.1])
    )
    panels = figure.axes
    assert len(panels) == 1 + 6 + 4
    assert [axis.get_xlabel() for axis in panels[1:7]] == ["", "", "", "a", "b", "c"]
    assert [axis.get_ylabel() for axis in panels[1:7]] == ["", "b", "", "c", "", ""]
    assert sorted(tick.get_text() for tick in panels[9].get_yticklabels()) == ["a", "b", "c"]
    assert panels[-1].get_xscale() == "log" and "score" in panels[-1].get_ylabel()


def test_plot_report_without_draws_or_scores():
    figure = plot_report(LINES, real_columns("abc", num_draws=0), HISTORY, NONE, NONE)
    assert len(figure.axes) == 1 + 6 + 2


def test_plot_report_shows_the_columns_in_which_draws_differ_most():
    shown = real_columns([f"x{place}" for place in range(40)])
    shown[17].draws[:] += 3
    figure = plot_report(LINES, shown, HISTORY, NONE, NONE)
    assert len(figure.axes) == 1 + 15 + 3
    assert "x17" in [axis.get_xlabel() for axis in figure.axes]
    assert figure.axes[-1].get_yticklabels()[0].get_text() == "x17"
    assert "worst 12 of 40" in figure.axes[-1].get_title()


def test_draw_pairs_leaves_out_the_upper_triangle():
    grid = draw_pairs(plt.figure(), real_columns("ab"), ("held-out rows", "draws"))
    assert grid[0, 1] is None and grid[1, 0].get_ylabel() == "b"
    legends = grid[0, 0].figure.legends
    assert [text.get_text() for text in legends[0].get_texts()] == ["held-out rows", "draws"]


def test_plot_tempering_draws_a_line_for_each_run():
    path = np.tile(np.linspace(0.1, 1.0, 5), (4, 1))
    axes = plot_tempering(path, path, path, path)
    assert [len(axis.lines) for axis in axes] == [4, 4, 4, 4]
    assert [axis.get_ylabel() for axis in axes] == [
        "inverse temperature",
        "acceptance",
        "distinct ancestors",
        "log normaliser",
    ]


def leaves_the_band(axis):
    """True if the line of ranks is outside its band somewhere."""
    points, difference = axis.lines[0].get_data()
    corners = axis.collections[0].get_paths()[0].vertices
    limits = [corners[np.isclose(corners[:, 0], point), 1] for point in points]
    return any(
        not limit.min() - 1e-9 <= value <= limit.max() + 1e-9
        for value, limit in zip(difference, limits, strict=True)
    )


def test_uniform_ranks_stay_inside_the_band_as_often_as_it_says():
    points, num_columns = np.linspace(0, 1, 41), 2000
    low, high = _band(60, points)
    ranks = RNG.uniform(size=(num_columns, 60, 1))
    lines = (ranks <= points).mean(axis=1)
    share = ((lines < low - 1e-9) | (lines > high + 1e-9)).any(axis=1).mean()
    # Whole numbers of ranks make the level conservative, here by less than 0.02.
    assert 0.03 <= share <= 0.05 + 5 * np.sqrt(0.05 * 0.95 / num_columns)


def test_shifted_ranks_leave_the_band():
    ranks = {"low": RNG.beta(1, 2, size=100)}
    (axis,) = plot_ranks(ranks, {"low": "fail"})
    assert leaves_the_band(axis) and axis.get_title() == "low  ✗ fail"


def test_missing_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"numpyro_disco\[plots\]"):
        plot_history(**HISTORY)
