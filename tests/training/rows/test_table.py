"""Training data that `fit` refuses, with the reason."""

import re

import numpy as np
import pandas as pd
import pytest
from helpers.fits import quick_fit
from numpyro.distributions import constraints

from numpyro_disco.training.rows.table import read_table
from numpyro_disco.training.rows.table_warnings import warn_of_spikes

NAMES = ("z", "u", "g")


def refuses(*parts):
    """Expect a ValueError whose message contains every part, in this order."""
    return pytest.raises(ValueError, match="(?s)" + ".*".join(re.escape(p) for p in parts))


def rows(num_rows=20):
    return np.random.default_rng(0).normal(size=(num_rows, 3)) * [1.0, 100.0, 1e-3] + [0, 1e3, 1]


def test_a_table_has_values_and_names():
    table = read_table(rows(), None, None)
    assert table.names == ("0", "1", "2")
    np.testing.assert_array_equal(table.values, rows())
    frame = pd.DataFrame(rows(), columns=list(NAMES))
    assert read_table(frame, None, None).names == NAMES
    assert read_table(frame, ["a", "b", "c"], None).names == ("a", "b", "c")
    assert read_table(rows()[:, :1], ["z"], None).values.shape == (20, 1)


def test_shapes_and_numbers_of_rows_that_are_refused():
    for data in (rows()[:, 0], rows()[None], np.zeros((20, 0))):
        with refuses("shape (N, D) for `data`", f"got shape {data.shape}"):
            read_table(data, None, None)
    with refuses("3 `names`", "got 2"):
        read_table(rows(), ["a", "b"], None)
    with refuses("at least 10 complete rows in `data`", "got 9"):
        read_table(rows(9), None, None)
    wide = np.random.default_rng(0).normal(size=(15, 14))
    with refuses("at least 16 complete rows in `data`", "got 15"):
        read_table(wide, None, None)


def test_infinite_values_are_refused():
    data = rows()
    data[4, 1], data[5, 2] = np.inf, -np.inf
    with refuses("finite numbers in `data`", "2 of 20 rows", "['u', 'g']", "NaN"):
        read_table(data, NAMES, None, smoothed=True)


def test_missing_entries_stay_and_complete_rows_are_counted():
    data = rows()
    data[3, 1] = np.nan
    np.testing.assert_array_equal(read_table(data, NAMES, None).values, data)
    data[3:14, 1] = np.nan
    with refuses("at least 10 complete rows", "got 9, and 11 with missing entries"):
        read_table(data, NAMES, None, smoothed=True)


def test_constant_and_copied_columns_are_refused():
    data = rows()
    data[:, 1] = 1e6
    with refuses("vary in `data`", "['u']", "constant"):
        read_table(data, NAMES, None, smoothed=True)
    data[:, 1] = 0.0
    with refuses("vary in `data`", "['u']"):
        read_table(data, NAMES, None, smoothed=True)
    for sign in (1.0, -1.0):
        data = rows()
        data[:, 2] = 5.0 + sign * 3.0 * data[:, 0]
        with refuses("`data`", "[('z', 'g')]", "copies"):
            read_table(data, NAMES, None, smoothed=True)


def test_dependences_are_found_beside_a_column_that_is_constant_among_complete_rows():
    values = np.random.default_rng(0).normal(size=(60, 5))
    values[:20, 1] = 3.0
    values[20:, 2] = np.nan
    assert read_table(values, None, None, smoothed=True, fills=True).values.shape == (60, 5)
    values[:, 4] = values[:, 0] + values[:, 3]
    with refuses("linearly independent columns in `data`", "Leave out one column"):
        read_table(values, None, None, smoothed=True, fills=True)


def test_discrete_columns_may_be_functions_of_each_other_but_not_constant():
    code = np.random.default_rng(0).integers(0, 3, 20).astype(float)
    data = np.column_stack([rows()[:, 0], code, 2 - code])
    supports = {name: constraints.integer_interval(0, 2) for name in ("u", "g")}
    table = read_table(data, NAMES, supports)
    assert table.num_levels == (0, 3, 3)
    warn_of_spikes(table)
    with refuses("`data`", "[('u', 'g')]", "copies"):
        read_table(data, NAMES, None, smoothed=True)
    data[:, 1] = 1.0
    with refuses("vary in `data`", "['u']", "constant"):
        read_table(data, NAMES, supports)


def test_whole_numbers_that_are_learned_as_real_must_not_share_a_value():
    rng = np.random.default_rng(0)
    data = {"a": rng.normal(size=200), "price": rng.choice([100, 200], 200)}
    with refuses("'price' has the value", "2 distinct values", "integer_interval(100, 200)"):
        read_table(data, None, None)
    price = constraints.integer_interval(100, 200)
    assert read_table(data, None, {"price": price}).supports[1] is price
    # Counts, and whole numbers with few levels, have a mass at each value.
    for whole in (rng.choice([0, 500], 200), rng.choice([3, 4], 200)):
        assert read_table(data | {"price": whole}, None, None).supports[1].is_discrete
    assert read_table(data, None, None, smoothed=True).supports[1] is constraints.real


def test_a_declared_support_has_as_many_levels_as_the_column():
    rng = np.random.default_rng(0)
    data = {"a": rng.normal(size=60), "c": rng.choice(list("xyz"), 60), "d": rng.random(60) > 0.4}
    fitting = {"c": constraints.integer_interval(0, 2), "d": constraints.boolean}
    assert read_table(data, None, fitting).num_levels == (0, 3, 2)
    high = constraints.integer_interval(0, 9)
    for name, count in (("c", 3), ("d", 2)):
        for support in (high, constraints.nonnegative_integer):
            with refuses(f"the {count} levels of {name!r} in `supports`", "Leave it out"):
                read_table(data, None, {name: support})


class TestBadData:
    def fit(self, data, **settings):
        quick_fit(data, **settings)

    def test_infinity(self, few):
        data = few.copy()
        data[3, 1] = np.inf
        with pytest.raises(
            ValueError, match=r"finite numbers in `data`, .*1 of 600 rows.*infinity.*\['1'\]"
        ):
            self.fit(data)

    def test_one_row(self, few):
        with pytest.raises(ValueError, match="at least 10 complete rows in `data`.*got 1"):
            self.fit(few[:1])

    @pytest.mark.parametrize("num_complete", [1, 9])
    def test_too_few_complete_rows(self, few, num_complete):
        data = few[:30].copy()
        data[num_complete:, 1] = np.nan
        with pytest.raises(ValueError, match=f"at least 10 complete rows.*got {num_complete}"):
            self.fit(data, missing="complete")

    def test_wrong_shape(self, few):
        with pytest.raises(ValueError, match=r"shape \(N, D\) for `data`; got shape \(600,\)"):
            self.fit(few[:, 0])

    def test_constant_column(self, few):
        with pytest.raises(ValueError, match=r"\['2'\] are constant"):
            self.fit(np.column_stack([few, np.full(len(few), 3.14)]))

    def test_copied_column(self, few):
        with pytest.raises(ValueError, match=r"\('a', 'c'\)\] are copies"):
            data = np.column_stack([few, 5 - 2 * few[:, 0]])
            self.fit(data, names=("a", "b", "c"))

    def test_duplicate_names(self, few):
        with pytest.raises(ValueError, match=r"distinct `names`; \['a'\] come more than once"):
            self.fit(few, names=("a", "a"))

    def test_number_of_names(self, few):
        with pytest.raises(ValueError, match="Expected 2 `names`.*got 3"):
            self.fit(few, names=("a", "b", "c"))

    def test_columns_too_far_from_zero_for_the_precision(self, few):
        with pytest.raises(ValueError, match=r"\['0'\] lie so far from zero.*Subtract an origin"):
            self.fit(few + np.array([2.46e6, 0.0]))

    def test_text(self):
        frame = pd.DataFrame({"a": [f"note {i}" for i in range(20)], "b": range(20)})
        with pytest.raises(ValueError, match=r"in `data`; 'a' holds a text.*drop\(columns="):
            self.fit(frame)

    def test_too_few_rows_left_to_train_on(self, few):
        table = np.random.default_rng(0).normal(size=(22, 20))
        with pytest.raises(ValueError, match="at least 22 rows.*for 20 columns; got 20 beside 2"):
            self.fit(table)
        with pytest.raises(ValueError, match="make `held_out_fraction` smaller"):
            self.fit(few[:12], held_out_fraction=0.97)
