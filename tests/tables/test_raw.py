"""One meaning of what is missing, whatever holds the entries."""

import datetime

import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from numpyro_disco.tables.raw import is_missing, raw_column


@pytest.mark.parametrize(
    "values",
    [
        [1.0, None, 3.0],
        [1.0, pd.NA, 3.0],
        np.array([1.0, np.nan, 3.0]),
        np.ma.array([1, -99, 3], mask=[False, True, False]),
        pd.Series([1.0, np.nan, 3.0]),
        pd.Series([1, pd.NA, 3], dtype="Int64"),
        pd.Series([1, None, 3], dtype="int64[pyarrow]"),
        pd.Series([1, None, 3], dtype=object),
        pl.Series([1, None, 3]),
        pl.Series([1.0, float("nan"), 3.0]),
        pa.chunked_array([[1, None, 3]]),
    ],
    ids=lambda values: f"{type(values).__module__}-{getattr(values, 'dtype', '')}",
)
def test_numbers(values):
    raw = raw_column(values)
    assert raw.kind in ("real", "whole")
    np.testing.assert_array_equal(raw.values, [1, np.nan, 3])
    assert raw.values.dtype == np.float64


@pytest.mark.parametrize(
    "values",
    [
        [True, None],
        pd.Series([True, None], dtype="boolean"),
        pd.Series([True, None], dtype=object),
        pl.Series([True, None]),
    ],
)
def test_booleans(values):
    raw = raw_column(values)
    assert raw.kind == "boolean"
    np.testing.assert_array_equal(raw.values, [1, np.nan])


def test_levels():
    texts = ["b", None, "a"]
    for values in (texts, pd.Series(texts), pl.Series(texts), pa.chunked_array([texts])):
        raw = raw_column(values)
        assert (raw.kind, raw.levels, raw.dtype) == ("level", ("a", "b"), "String")
        np.testing.assert_array_equal(raw.values, [1, np.nan, 0])
    # A dtype of categories has an order of its own, with levels that no entry has.
    levels = ["c", "b", "a"]
    arrow = pa.DictionaryArray.from_arrays([1, None, 2], levels, ordered=True)
    for values in (
        pd.Series(pd.Categorical(texts, levels, ordered=True)),
        pl.Series(texts, dtype=pl.Enum(levels)),
        pa.chunked_array([arrow]),
    ):
        raw = raw_column(values)
        assert raw.levels == tuple(levels) and raw.ordered
        np.testing.assert_array_equal(raw.values, [1, np.nan, 2])
    numbers = raw_column(pd.Series(pd.Categorical([6, None, 4])))
    assert numbers.levels == (4, 6) and not numbers.ordered


def test_levels_of_a_dictionary_may_be_numbers():
    raw = raw_column(pa.chunked_array([pa.array([8, 4, None, 8]).dictionary_encode()]))
    assert raw.kind == "level" and raw.levels == (8, 4)
    np.testing.assert_array_equal(raw.values, [0, 1, np.nan, 0])


def test_dates():
    days = [datetime.date(1970, 1, 2), None]
    times = [datetime.datetime(1970, 1, 2, tzinfo=datetime.UTC), None]
    for values in (days, pd.Series(days, dtype="date32[pyarrow]"), pl.Series(days)):
        raw = raw_column(values)
        assert (raw.kind, raw.unit, raw.time_zone) == ("date", "D", None)
        np.testing.assert_array_equal(raw.values, [86400e6, np.nan])
    for values in (times, pd.Series(times), pl.Series(times)):
        raw = raw_column(values)
        assert (raw.kind, raw.time_zone) == ("date", "UTC")
        np.testing.assert_array_equal(raw.values, [86400e6, np.nan])
    raw = raw_column(np.array(["1970-01-02", "NaT"], "datetime64[ns]"))
    assert (raw.kind, raw.unit) == ("date", "ns")
    np.testing.assert_array_equal(raw.values, [86400e6, np.nan])


def test_dates_of_several_time_zones_are_times_in_utc():
    east = datetime.timezone(datetime.timedelta(hours=2))
    first = datetime.datetime(1970, 1, 2, tzinfo=datetime.UTC)
    raw = raw_column([first.astimezone(east), first])
    assert (raw.kind, raw.time_zone) == ("date", "UTC")
    np.testing.assert_array_equal(raw.values, [86400e6, 86400e6])
    raw = raw_column([first, first.replace(tzinfo=None)])
    assert raw.kind == "other" and raw.example == "dates with and without a time zone"


def test_single_values_and_other_arrays_keep_their_shape():
    assert raw_column("low").values.shape == () and raw_column(None).values.shape == ()
    assert raw_column(jnp.ones((2, 3), jnp.bfloat16)).values.tolist() == np.ones((2, 3)).tolist()


def test_what_is_no_column():
    for values, what in (
        ([1, "a"], "a mixture of int and str"),
        ([(1, 2), {}], "dict and tuple"),
        (pd.Series(pd.to_timedelta([1, 2])), "Duration"),
        (np.array([1j]), "complex"),
    ):
        raw = raw_column(values)
        assert raw.kind == "other" and what in raw.example


def test_missing_values():
    for value in (None, np.nan, pd.NA, pd.NaT, np.datetime64("NaT"), np.ma.masked):
        assert is_missing(value)
    for value in (0, "", False, "nan", np.inf):
        assert not is_missing(value)
