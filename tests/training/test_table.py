"""Training data that `fit` refuses, with the reason."""

import numpy as np
import pandas as pd
import pytest
from helpers.fits import quick_fit


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
            self.fit(data)

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
        with pytest.raises(ValueError, match="numbers in `data`"):
            self.fit(pd.DataFrame({"a": ["x", "y"] * 10, "b": range(20)}))

    def test_too_few_rows_left_to_train_on(self, few):
        table = np.random.default_rng(0).normal(size=(22, 20))
        with pytest.raises(ValueError, match="at least 22 rows.*for 20 columns; got 20 beside 2"):
            self.fit(table)
        with pytest.raises(ValueError, match="make `held_out_fraction` smaller"):
            self.fit(few[:12], held_out_fraction=0.97)
