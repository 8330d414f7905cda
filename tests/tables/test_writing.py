"""Frames filled and made: dtypes, index, order and categories, and observed entries bit for bit."""

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import numpyro_disco as disco
from numpyro_disco.tables.reading import by_name, read_rows
from numpyro_disco.tables.writing import Filling, filled_frame, new_frame

TIMES = pd.to_datetime(["2020-01-01 03:04:05.678901", None, "2020-02-01 12:00"], format="ISO8601")
DAYS = [datetime.date(2020, 1, 1), None, datetime.date(2020, 5, 5)]
LEVELS = pd.CategoricalDtype(["mid", "lo", "hi"], ordered=True)
PANDAS = pd.DataFrame(
    {
        "float32": np.array([0.1, np.nan, 0.3], np.float32),
        "float64": [1 / 3, np.nan, 1e300],
        "Float32": pd.array([0.1, None, 0.3], dtype="Float32"),
        "Int64": pd.array([2**53 + 1, None, 3], dtype="Int64"),
        "boolean": pd.array([True, None, False], dtype="boolean"),
        "flags": pd.Series([True, None, False], dtype=object),
        "category": pd.Categorical(["x", None, "y"], ["z", "y", "x"]),
        "ordered": pd.Categorical(["lo", None, "hi"], dtype=LEVELS),
        "cylinders": pd.Categorical([8, None, 4]),
        "bins": pd.cut([0.5, np.nan, 1.5], [0, 1, 2]),
        "text": ["u", None, "v"],
        "objects": pd.Series(["u", None, "v"], dtype=object),
        "days": pd.Series(DAYS, dtype=object),
        "zoned": TIMES.tz_localize("Europe/Berlin"),
        "nanoseconds": TIMES.as_unit("ns") + pd.Timedelta("1ns"),
        "seconds": TIMES.floor("s").as_unit("s"),
        "arrow int": pd.array([1, None, 3], dtype="int64[pyarrow]"),
        "arrow text": pd.array(["u", None, "v"], dtype="string[pyarrow]"),
        "arrow time": pd.Series(TIMES).astype("timestamp[us][pyarrow]"),
        "arrow levels": pd.Series(["u", None, "v"]).astype(
            pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string()))
        ),
        "whole": np.array([1, 2, 3], np.int8),
    },
)
PANDAS.index = pd.Index(["r", "s", "s"], name="who")
POLARS = pl.DataFrame(
    {
        "float32": pl.Series([0.1, None, 0.3], dtype=pl.Float32),
        "nan": [1 / 3, float("nan"), 1e300],
        "int": [2**53 + 1, None, 3],
        "boolean": [True, None, False],
        "category": pl.Series(["x", None, "y"], dtype=pl.Categorical),
        "enum": pl.Series(["lo", None, "hi"], dtype=pl.Enum(["mid", "lo", "hi"])),
        "text": ["u", None, "v"],
        "zoned": pl.Series(TIMES.tz_localize("UTC")).dt.convert_time_zone("Europe/Berlin"),
        "milliseconds": pl.Series(TIMES).cast(pl.Datetime("ms")),
        "days": pl.Series(DAYS),
        "whole": pl.Series([1, 2, 3], dtype=pl.UInt16),
    }
)


def fill(frame):
    """Every missing entry filled with the number 1."""
    rows = read_rows(frame)
    missing = np.isnan(rows.values)
    fillings = {
        name: Filling(column, missing[:, place], np.ones(len(missing)))
        for place, (name, column) in enumerate(zip(rows.names, rows.columns, strict=True))
    }
    return filled_frame(frame, fillings)


def test_pandas():
    before = PANDAS.copy()
    filled = fill(PANDAS)
    pd.testing.assert_frame_equal(PANDAS, before)
    assert filled.dtypes.tolist() == PANDAS.dtypes.tolist()
    pd.testing.assert_index_equal(filled.index, PANDAS.index)
    pd.testing.assert_frame_equal(filled.iloc[[0, 2]], PANDAS.iloc[[0, 2]], check_exact=True)
    row = filled.iloc[1]
    assert row[["float32", "Int64", "boolean", "flags"]].tolist() == [1.0, 1, True, True]
    assert row[["category", "ordered", "cylinders", "text"]].tolist() == ["y", "lo", 8, "v"]
    assert row["bins"] == PANDAS["bins"].iloc[2] and row["days"] == datetime.date(2020, 1, 2)
    assert row["zoned"] == pd.Timestamp("2020-01-02 00:00", tz="UTC")
    assert row["arrow levels"] == "v" and row["seconds"] == pd.Timestamp("2020-01-02")


def test_polars():
    filled = fill(POLARS)
    assert isinstance(filled, pl.DataFrame) and filled.schema == POLARS.schema
    assert filled[[0, 2]].equals(POLARS[[0, 2]])
    row = filled.row(1, named=True)
    assert row["nan"] == 1.0 and row["int"] == 1 and row["boolean"] is True
    assert (row["category"], row["enum"], row["text"]) == ("y", "lo", "v")
    assert row["days"] == datetime.date(2020, 1, 2)
    assert row["zoned"] == datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC)
    assert fill(POLARS.lazy()).equals(filled)


def test_pyarrow():
    table = POLARS.to_arrow()
    filled = fill(table)
    assert isinstance(filled, pa.Table) and filled.schema.equals(table.schema)
    assert filled.take([0, 2]).equals(table.take([0, 2]))
    assert filled.slice(1, 1).to_pylist()[0]["enum"] == "lo"


def test_a_level_that_the_dtype_lacks_is_added():
    column = disco.Categories(("lo", "hi", "new"))
    filling = Filling(column, np.array([False, True]), np.full(2, 2.0))
    series = pd.Categorical(["hi", None], ["hi", "lo"])
    filled = filled_frame(pd.DataFrame({"c": series}), {"c": filling})
    assert filled["c"].tolist() == ["hi", "new"]
    assert filled["c"].dtype.categories.tolist() == ["hi", "lo", "new"]
    enum = pl.DataFrame({"c": pl.Series(["hi", None], dtype=pl.Enum(["hi", "lo"]))})
    assert filled_frame(enum, {"c": filling})["c"].to_list() == ["hi", "new"]


def test_a_level_of_an_order_is_added_in_its_place():
    column = disco.Categories(("lo", "mid", "hi"), ordered=True)
    filling = Filling(column, np.array([False, True]), np.ones(2))
    for levels, expected in (
        (["lo", "hi"], ["lo", "mid", "hi"]),
        (["hi", "lo"], ["hi", "lo", "mid"]),
    ):
        ordered = pd.Categorical(["hi", None], levels, ordered=True)
        filled = filled_frame(pd.DataFrame({"c": ordered}), {"c": filling})["c"]
        assert filled.tolist() == ["hi", "mid"] and filled.cat.ordered
        assert filled.cat.categories.tolist() == expected
        enum = pl.DataFrame({"c": pl.Series(["hi", None], dtype=pl.Enum(levels))})
        filled = filled_frame(enum, {"c": filling})["c"]
        assert filled.to_list() == ["hi", "mid"]
        assert filled.dtype.categories.to_list() == expected


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_new_frames_have_the_columns_learned_from(library):
    rows = read_rows(POLARS if library == "polars" else PANDAS)
    frame = new_frame(rows.names, rows.columns, rows.values[[0, 2]], library)
    again = read_rows(frame)
    assert again.names == rows.names
    kinds = [column.kind for column in again.columns]
    expected = [column.kind for column in rows.columns]
    if library == "pyarrow":  # levels that are numbers are whole numbers there
        expected[rows.names.index("cylinders")] = "whole"
    assert kinds == expected
    entries = by_name(frame, "data").entries
    for name, column in zip(rows.names, rows.columns, strict=True):
        if isinstance(column, disco.Categories) and column.dtype != "String":
            texts = [str(entry) for entry in entries[name].to_list()]
            assert texts == [str(level) for level in column.decode(column.encode(entries[name]))]
    if library == "pandas":
        assert frame["ordered"].dtype == LEVELS and frame["float32"].dtype == np.float32
        assert frame["zoned"].dtype == PANDAS["zoned"].dtype
    if library == "polars":
        assert frame.schema["enum"] == POLARS.schema["enum"]
        assert frame["days"].to_list() == [DAYS[0], DAYS[2]]


def test_decimals_become_numbers_that_are_not_rounded():
    frame = new_frame(("a",), (disco.Real("Decimal"),), np.array([[1.25]]), "polars")
    assert frame["a"].to_list() == [1.25]


def test_polars_takes_seconds_and_fixed_offsets():
    columns = disco.Dates("2020-01-01", "s"), disco.Dates("2020-01-01", "us", "UTC+02:00")
    frame = new_frame(("a", "b"), columns, np.full((1, 2), 1.5), "polars")
    noon = datetime.datetime(2020, 1, 2, 12)
    assert frame.row(0) == (noon, noon.replace(tzinfo=datetime.UTC))


def test_dates_are_filled_in_the_form_of_the_column():
    noon = datetime.datetime(2020, 1, 2, 12)
    missing, numbers = np.array([False, True]), np.full(2, 1.5)

    def filled(frame, column):
        return filled_frame(frame, {"c": Filling(column, missing, numbers)})["c"]

    day = filled(pl.DataFrame({"c": [DAYS[0], None]}), disco.Dates("2020-01-01"))
    assert day.dtype == pl.Date and day[1] == noon.date()
    for library in (pd.DataFrame, pl.DataFrame):
        text = filled(library({"c": ["2020-01-01", None]}), disco.Dates("2020-01-01"))
        assert text.to_list()[1] == "2020-01-02T12:00:00"
    aware = noon.replace(tzinfo=datetime.UTC)
    objects = pd.DataFrame({"c": pd.Series([aware, None], dtype=object)})
    assert filled(objects, disco.Dates("2020-01-01", "us", "UTC")).tolist() == [aware, aware]
