"""Figures from plain arrays: what is drawn where, and what is left out."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from numpyro_disco.diagnostics.plots import (
    BLUE,
    ORANGE,
    plot_history,
    plot_ranks,
    plot_report,
    plot_tempering,
)

RNG = np.random.default_rng(0)
ROWS, DRAWS = RNG.normal(size=(50, 3)), RNG.normal(size=(200, 3))
REAL = np.zeros(8, bool)
HISTORY = {
    "step": np.array([0, 50, 100]),
    "loss": np.array([np.nan, 1.0, 0.5]),
    "held_out_loss": np.array([1.2, 0.9, 0.8]),
    "held_out_error": np.array([0.0, 0.1, 0.1]),
    "best_step": 100,
    "label": "disco",
}


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


@pytest.fixture
def panels():
    """The axes of a report's figure: 3 x 3 pairs, two losses, one score."""
    figure = plot_report(
        "abc", ROWS, DRAWS, HISTORY, np.array([0.1, 1.0]), np.array([0.2, 0.1]), np.zeros(3, bool)
    )
    return figure.axes


def test_plot_report_draws_rows_above_draws(panels):
    assert len(panels) == 9 + 3
    below, above = panels[1].lines
    assert to_hex(below.get_color()).upper() == ORANGE and len(below.get_xdata()) == 200
    assert to_hex(above.get_color()).upper() == BLUE and len(above.get_xdata()) == 50
    np.testing.assert_array_equal(above.get_xydata(), ROWS[:, [1, 0]])


def test_plot_report_labels_columns_and_scores(panels):
    assert [axis.get_ylabel() for axis in panels[0:9:3]] == ["a", "b", "c"]
    assert [axis.get_xlabel() for axis in panels[6:9]] == ["a", "b", "c"]
    legends = panels[0].figure.legends
    assert [t.get_text() for t in legends[0].get_texts()] == ["held-out rows", "draws"]
    assert panels[-1].get_xscale() == "log" and "score" in panels[-1].get_ylabel()


def test_plot_report_without_draws_or_scores():
    figure = plot_report("abc", ROWS, DRAWS[:0], HISTORY, np.zeros(0), np.zeros(0), REAL)
    assert len(figure.axes) == 9 + 2


def test_plot_report_shows_the_first_columns():
    rows = RNG.normal(size=(20, 8))
    figure = plot_report("abcdefgh", rows, rows, HISTORY, np.zeros(0), np.zeros(0), REAL)
    assert len(figure.axes) == 25 + 2


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


def test_plot_ranks():
    assert plot_ranks({"a": RNG.uniform(size=30), "b": RNG.uniform(size=20)}) is not None


def test_missing_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"numpyro_disco\[plots\]"):
        plot_history(**HISTORY)


def test_every_level_of_a_discrete_column_gets_a_bar():
    rows = np.column_stack([RNG.normal(size=60), np.tile([0.0, 1.0, 2.0], 20)])
    discrete = np.array([False, True])
    figure = plot_report("ab", rows, rows, HISTORY, np.zeros(0), np.zeros(0), discrete)
    bars = figure.axes[3].patches
    np.testing.assert_allclose([bar.get_x() for bar in bars[:3]], [-0.5, 0.5, 1.5])
    np.testing.assert_allclose([bar.get_height() for bar in bars[:3]], 1 / 3)
    dots = figure.axes[2].lines[0].get_ydata()
    assert 0 < np.abs(dots - rows[:, 1]).max() <= 0.3
