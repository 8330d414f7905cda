"""Columns: entries to numbers and back, and descriptions as plain data."""

import datetime
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import numpyro_disco as disco
from numpyro_disco.tables.columns import column_from_json

SIZES = disco.Categories(("small", "medium", "large"), ordered=True)
CYLINDERS = disco.Categories((4, 6, 8))
MONTHS = disco.Categories(("1", "10", "2"))
DATES = disco.Dates("2020-01-01")
ZONED = disco.Dates("2020-01-01", time_zone="Europe/Berlin")


@pytest.mark.parametrize(
    ("column", "entries", "numbers"),
    [
        (disco.Real(), [0.5, None], [0.5, np.nan]),
        (disco.Whole(), [3, None], [3, np.nan]),
        (disco.Boolean(), [True, None], [1, np.nan]),
        (disco.Boolean(), [0, 1], [0, 1]),
        (SIZES, ["large", None, "small"], [2, np.nan, 0]),
        (SIZES, pd.Series(pd.Categorical(["large"], ["tiny", "large"])), [2]),
        (SIZES, [2.0, 0.0], [2, 0]),
        (MONTHS, ["2", None, "10"], [2, np.nan, 1]),
        (MONTHS, jnp.array([2.0, 1.0]), [2, 1]),
        (CYLINDERS, [8, None, 4.0], [2, np.nan, 0]),
        (CYLINDERS, pd.Series(pd.Categorical([8, 4])), [2, 0]),
        (DATES, [datetime.datetime(2020, 1, 2, 12), pd.NaT], [1.5, np.nan]),
        (DATES, ["2020-01-02", None], [1, np.nan]),
        (DATES, ["20200103"], [2]),
        (ZONED, ["2020-01-02T02:00+02:00", "2020-01-02T00:00Z", None], [1, 1, np.nan]),
        (DATES, [0.25], [0.25]),
    ],
)
def test_encoding(column, entries, numbers):
    np.testing.assert_array_equal(column.encode(entries), numbers)


@pytest.mark.parametrize("column", [disco.Real(), disco.Boolean(), SIZES, MONTHS, DATES, ZONED])
def test_a_column_may_be_missing_throughout(column):
    for nothing in (
        pd.Series([None, None]),
        pd.Series([pd.NA] * 2),
        pd.Series([pd.NaT] * 2),
        pl.Series([None, None]),
        pa.chunked_array([pa.nulls(2)]),
        [None, None],
    ):
        np.testing.assert_array_equal(column.encode(nothing), [np.nan] * 2)


def test_decoding():
    assert disco.Real().decode([0.3]).tolist() == [0.3]
    assert disco.Whole().decode([2.6]).tolist() == [3]
    assert disco.Boolean().decode([0.2, 0.9]).tolist() == [False, True]
    assert SIZES.decode([-0.4, 1.2, 5.0]).tolist() == ["small", "medium", "large"]
    assert CYLINDERS.decode([2]).tolist() == [8]
    assert DATES.decode([1.5, np.nan]).tolist() == [datetime.datetime(2020, 1, 2, 12), None]
    days = disco.Dates("2020-01-01", "D")
    assert days.decode([1.4]).tolist() == [datetime.datetime(2020, 1, 2)]
    assert str(disco.Dates("2020-01-01", "s").decode(1 / 7)) == "2020-01-01T03:25:43.000000"


@pytest.mark.parametrize(
    ("column", "entries", "message"),
    [
        (disco.Real(), ["low"], "Expected numbers for 'a'; got 'low'"),
        (disco.Whole(), [datetime.date(2020, 1, 1)], "Expected numbers for 'a'; got the date 2020"),
        (disco.Boolean(), ["yes"], "Expected booleans, or 0 and 1, for 'a'; got 'yes'"),
        (SIZES, ["huge", "large"], "among ('small', 'medium', 'large'); got ['huge']"),
        (SIZES, [3.0], "or their numbers 0 to 2; got 3"),
        (SIZES, [datetime.date(2020, 1, 1)], "Expected levels for 'a'"),
        (MONTHS, [1, 2], "Expected text for 'a', whose levels ('1', '10', '2') read as numbers"),
        (disco.Categories(("False", "True")), [True], "Expected levels for 'a'; got 1"),
        (CYLINDERS, [5], "among (4, 6, 8); got [5.0]"),
        (DATES, ["yesterday"], "Expected dates, or days from the origin, for 'a'; got 'yesterday'"),
        (DATES, ["today"], "Expected dates, or days from the origin, for 'a'; got 'today'"),
        (DATES, ["2020-01-02T02:00+02:00"], "dates without a time zone for 'a'; got dates with"),
        (ZONED, ["2020-01-02"], "dates with a time zone for 'a'; got dates without"),
        (DATES, [datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)], "without a time zone"),
    ],
)
def test_entries_of_another_kind_are_refused(column, entries, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        column.encode(entries, "'a'")


def test_traced_entries():
    np.testing.assert_array_equal(jax.jit(SIZES.encode)(jnp.array([2.0])), [2])
    np.testing.assert_array_equal(jax.jit(CYLINDERS.encode)(jnp.array([8.0, 5.0])), [2, np.nan])


def test_columns_are_plain_data():
    for column in (disco.Real("Float32"), disco.Boolean(), SIZES, CYLINDERS, DATES):
        again = column_from_json(json.loads(json.dumps(column.to_json())))
        assert again == column and hash(again) == hash(column)
    with pytest.raises(ValueError, match="distinct `levels`"):
        disco.Categories(("a", "a"))
