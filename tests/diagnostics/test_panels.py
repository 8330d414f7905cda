"""Panels of one or two columns: numbers, levels and dates as their axes show them."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from numpyro_disco.diagnostics.panels import (
    DRAWS,
    ROWS,
    Shown,
    draw_marginal,
    draw_pair,
    entry_text,
    label_axis,
    shown_columns,
)
from numpyro_disco.tables.columns import Boolean, Categories, Dates, Real, Whole

RNG = np.random.default_rng(0)
GRADE = Categories(("low", "middle", "a level with a long name"))


def shown(column, rows, draws, discrete=False):
    """One column of rows and draws."""
    arrays = [np.asarray(some, float)[:, None] for some in (rows, draws)]
    (only,) = shown_columns(["x"], [column], np.array([discrete]), *arrays)
    return only


def normal(num_rows=50, num_draws=400):
    return shown(Real(), RNG.normal(size=num_rows), RNG.normal(size=num_draws))


def levels(num_rows=60, num_draws=300):
    draw = [RNG.integers(0, 3, size=size) for size in (num_rows, num_draws)]
    return shown(GRADE, *draw, discrete=True)


@pytest.fixture
def axis():
    yield plt.subplots()[1]
    plt.close("all")


def test_numbers_are_dots_for_rows_and_contours_for_draws(axis):
    x, y = normal(), normal()
    draw_pair(axis, x, y)
    dots, contours = axis.collections
    np.testing.assert_array_equal(dots.get_offsets(), np.column_stack([x.rows, y.rows]))
    assert to_hex(dots.get_facecolor()[0]).upper() == ROWS
    assert to_hex(contours.get_edgecolor()[0]).upper() == DRAWS


def test_contours_enclose_their_shares_of_the_draws(axis):
    x, y = normal(num_draws=5000), normal(num_draws=5000)
    draw_pair(axis, x, y)
    draws = np.column_stack([x.draws, y.draws])
    for path, share in zip(axis.collections[1].get_paths(), (0.9, 0.5), strict=True):
        # The smoothing widens regions by a few hundredths.
        assert abs(path.contains_points(draws).mean() - share) < 0.04


def test_rows_with_missing_entries_are_left_out(axis):
    x, y = normal(), normal()
    y.rows[:10] = np.nan
    draw_pair(axis, x, y)
    assert len(axis.collections[0].get_offsets()) == 40
    draw_marginal(axis, y)


def test_every_level_has_a_bar_of_its_share(axis):
    column = shown(Whole(), np.tile([0.0, 1.0, 3.0, 3.0], 20), np.zeros(5), discrete=True)
    draw_marginal(axis, column)
    bars = axis.patches[:4]
    np.testing.assert_allclose([bar.get_x() for bar in bars], [-0.5, 0.5, 1.5, 2.5])
    np.testing.assert_allclose([bar.get_height() for bar in bars], [0.25, 0.25, 0, 0.5])


def test_numbers_by_level_are_intervals(axis):
    x, y = levels(), normal(num_rows=60, num_draws=300)
    draw_pair(axis, x, y)
    places = {line.get_xdata()[0] for line in axis.lines if len(line.get_xdata())}
    assert places == {level + side for level in range(3) for side in (-0.16, 0.16)}
    median = axis.lines[2].get_ydata()[0]
    assert median == np.median(y.rows[x.rows == 0])


def test_two_columns_of_levels_are_circles(axis):
    draw_pair(axis, levels(), levels())
    rows, draws = axis.collections
    assert rows.get_sizes().sum() == pytest.approx(draws.get_sizes().sum())
    assert len(draws.get_facecolor()) == 0


def test_levels_and_dates_are_written_as_such(axis):
    label_axis(axis.xaxis, levels())
    written = [tick.get_text() for tick in axis.get_xticklabels()]
    assert written == ["low", "middle", "a level with …"]
    dates = shown(Dates("2020-01-31"), [0.0, 1.0, np.nan], [400.0])
    label_axis(axis.yaxis, dates)
    assert dates.rows[1] - dates.rows[0] == 1 and np.isnan(dates.rows[2])
    axis.set_ylim(dates.range)
    axis.figure.canvas.draw()
    assert any("2021" in tick.get_text() for tick in axis.get_yticklabels())


@pytest.mark.parametrize(
    "column, number, text",
    [
        (Real(), 0.123456, "0.1235"),
        (Whole(), 2.2, "2"),
        (Boolean(), 1, "True"),
        (GRADE, 1, "middle"),
        (Dates("2020-01-31"), 1, "2020-02-01"),
    ],
)
def test_entry_text(column, number, text):
    assert entry_text(column, number) == text


def test_distance_is_in_standard_deviations_or_a_share():
    rows = RNG.normal(size=500)
    assert shown(Real(), 3 * rows, 3 * rows + 3 * rows.std()).distance == pytest.approx(1)
    assert shown(GRADE, [0, 0, 1, 1], [1, 1, 2, 2], discrete=True).distance == 0.5
    shifted = Shown("x", Real(), False, rows, rows + 1)
    assert shifted.shuffled(np.random.default_rng(0)).distance < 0.2
