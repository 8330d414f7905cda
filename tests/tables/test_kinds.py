"""Kinds of columns to learn from, and their supports."""

import numpy as np
import pandas as pd
import pytest
from numpyro.distributions import constraints

import numpyro_disco as disco
from numpyro_disco.tables.kinds import column_of, default_column, default_support
from numpyro_disco.tables.raw import raw_column

DAYS = pd.date_range("2020-03-05", periods=3)


@pytest.mark.parametrize(
    ("values", "column"),
    [
        (np.ones(3, np.float32), disco.Real("Float32")),
        (np.ones(3, np.int8), disco.Whole("Int8")),
        ([True, False], disco.Boolean()),
        (["b", "a", "b"], disco.Categories(("a", "b"), dtype="String")),
        (pd.Series(["b", "a"], dtype="category"), disco.Categories(("a", "b"))),
        (pd.Series(DAYS), disco.Dates("2020-03-05", "D")),
        (pd.Series(DAYS + pd.Timedelta("1h")), disco.Dates("2020-03-05", "us")),
        (pd.Series(DAYS.tz_localize("Asia/Tokyo")), disco.Dates("2020-03-04", "us", "Asia/Tokyo")),
    ],
)
def test_kinds(values, column):
    assert column_of(raw_column(values)) == column


@pytest.mark.parametrize(
    ("values", "held"),
    [
        ([f"id {i}" for i in range(9)], "a text of its own in each row"),
        ([f"word {i % 70}" for i in range(99)], "70 distinct texts, more than 64"),
        (pd.Series(pd.Categorical(range(70))), "70 distinct levels, more than 64"),
        ([1, "a"], "a mixture of int and str"),
    ],
)
def test_what_cannot_be_learned(values, held):
    assert column_of(raw_column(values)) == held


def test_default_supports():
    def support(column, values, **settings):
        found = default_support(column, np.asarray(values, float), **settings)
        bounds = (getattr(found, f"{end}_bound", None) for end in ("lower", "upper"))
        return found.is_discrete, *bounds

    assert support(disco.Categories(("a", "b", "c")), [0, 1]) == (True, 0, 2)
    assert support(disco.Boolean(), [0, 1]) == (True, 0, 1)
    assert support(disco.Whole(), [3, np.nan, 66]) == (True, 3, 66)
    # More than 64 values: counts from near zero are spread, other whole numbers are real.
    assert support(disco.Whole(), [0, 64]) == (True, 0, None)
    assert support(disco.Whole(), [1900, 2000]) == (False, None, None)
    assert support(disco.Whole(), [-40, 40]) == (False, None, None)
    # Objectives that smooth every column take whole numbers as they are.
    assert support(disco.Whole(), [3, 66], discrete=False) == (False, None, None)
    assert support(disco.Real(), [3, 66]) == (False, None, None)


def test_default_columns():
    assert default_column(constraints.boolean) == disco.Boolean()
    assert default_column(constraints.integer_interval(0, 3)) == disco.Whole()
    assert default_column(constraints.positive) == disco.Real()
