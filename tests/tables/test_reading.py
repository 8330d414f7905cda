"""The reader: names wherever there are any, in any order, and arrays by position."""

import re
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pytest
import xarray as xr

import numpyro_disco as disco
from numpyro_disco.tables.reading import by_name, read_observations, read_points, read_rows

NAMES = ("a", "b", "c")
COLUMNS = (disco.Real(), disco.Real(), disco.Categories(("low", "high")))
NUMBERS = np.array([[1.0, 2.0, 1.0], [np.nan, 4.0, 0.0]])
FRAME = pd.DataFrame({"c": ["high", "low"], "b": [2.0, 4.0], "a": [1.0, None]}, index=["r", "s"])
REALS = pd.DataFrame(NUMBERS, index=["r", "s"], columns=list(NAMES))[["b", "c", "a"]]
LABELLED = xr.DataArray(
    REALS.to_numpy().T, dims=("column", "row"), coords={"column": list("bca"), "row": ["r", "s"]}
)
STRUCTURED = np.array(
    [(2.0, "high", 1.0), (4.0, "low", np.nan)], [("b", "f8"), ("c", "U4"), ("a", "f8")]
)


def refuses(*parts):
    """Expect a ValueError whose message holds every part, in this order."""
    return pytest.raises(ValueError, match="(?s)" + ".*".join(re.escape(p) for p in parts))


def read(data, **settings):
    return read_observations(data, NAMES, COLUMNS, "given", **settings)


@pytest.mark.parametrize(
    "data",
    [
        FRAME,
        pl.from_pandas(FRAME),
        pl.from_pandas(FRAME).lazy(),
        pl.from_pandas(FRAME).to_arrow(),
        FRAME.to_dict(orient="list"),
        FRAME.to_dict(orient="records"),
        dict(FRAME.items()),
        {"a": FRAME["a"][::-1], "b": FRAME["b"], "c": FRAME["c"]},
        {name: pl.Series(FRAME[name].tolist()) for name in FRAME},
        REALS,
        LABELLED,
        LABELLED.T,
        LABELLED.to_dataset("column"),
        {name: LABELLED.sel(column=name) for name in "cab"},
        {name: LABELLED.sel(column=name)[:: 1 - 2 * (name == "b")] for name in "cab"},
        STRUCTURED,
        NUMBERS,
        NUMBERS.tolist(),
        [[1.0, 2.0, "high"], [None, 4.0, "low"]],
        np.ma.array(np.nan_to_num(NUMBERS), mask=np.isnan(NUMBERS)),
        np.array([[1.0, 2.0, "high"], [pd.NA, 4.0, "low"]], object),
    ],
    ids=lambda data: type(data).__name__,
)
def test_rows(data):
    found = read(data)
    np.testing.assert_array_equal(found.values, NUMBERS)
    np.testing.assert_array_equal(found.seen, ~np.isnan(NUMBERS))


Row = namedtuple("Row", ["c", "b"])


@pytest.mark.parametrize(
    "data",
    [
        pd.Series({"c": 1.0, "b": 2.0}),
        pd.Series({"c": "high", "b": 2.0}),
        FRAME[["c", "b"]].loc["r"],
        {"c": "high", "b": 2.0},
        {"c": np.str_("high"), "b": jnp.array(2.0)},
        Row("high", 2.0),
        STRUCTURED[["b", "c"]][0],
        LABELLED.sel(row="r", column=["c", "b"]),
        pl.from_pandas(FRAME).row(0, named=True) | {"a": None},
    ],
    ids=lambda data: type(data).__name__,
)
def test_one_row(data):
    found = read(data)
    np.testing.assert_array_equal(found.values, [np.nan, 2.0, 1.0])
    assert found.rows is None


def test_labels_of_rows():
    for data in (FRAME, dict(FRAME.items()), LABELLED, LABELLED.to_dataset("column")):
        assert read(data).rows == ("r", "s")
    assert read(pl.from_pandas(FRAME)).rows is None and read(NUMBERS).rows is None


def test_a_series_without_labels_is_one_point():
    np.testing.assert_array_equal(read(pd.Series(NUMBERS[0])).values, NUMBERS[0])
    assert by_name(pd.Series([1.0, 2.0]), "x") is None


def test_pandas_series_are_matched_by_their_index():
    columns = {"a": pd.Series([1.0, 2.0], ["r", "s"]), "b": pd.Series([4.0, 3.0], ["s", "t"])}
    found = read(columns)
    np.testing.assert_array_equal(found.values[:, :2], [[1, np.nan], [2, 4], [np.nan, 3]])
    assert found.rows == ("r", "s", "t")


def test_traced_entries_count_as_observed():
    def by_names(value):
        found = read({"b": value, "c": "high"})
        assert found.seen.tolist() == [False, True, True]
        return found.values

    np.testing.assert_array_equal(jax.jit(by_names)(2.0), [np.nan, 2.0, 1.0])


def test_names_that_are_refused():
    with refuses("`given` names 'd'", str(NAMES)):
        read(FRAME.rename(columns={"a": "d"}))
    assert read(FRAME.assign(d=1), others=True).values.shape == (2, 3)
    with refuses("distinct columns in `given`", "['a', 'a']"):
        read(FRAME[["a", "a"]])
    with refuses("`given` names 'd'"):
        read(xr.DataArray([1.0, 2.0, 3.0], coords={"column": ["d", "e", "f"]}))
    with refuses("for 'a' in `given`; got 'x'"):
        read(FRAME.assign(a="x"))
    with refuses("for 'c' in `given`", "got ['middle']"):
        read({"c": ["low", "middle"]})
    with refuses("one batch shape", "'a': (2,)", "'b': (3,)"):
        read({"a": [1, 2], "b": [1, 2, 3]})
    # Dates are no numbers, even in an array.
    with refuses("Expected numbers for 'a' in `given`; got the date 2020"):
        read(np.array(["2020-01-01"] * 3, "datetime64[D]"))


def test_objects_without_names():
    """Text is text, whatever it reads as, and a number for levels that are numbers is refused."""
    sizes = disco.Categories(("1", "10", "2"))
    columns = (disco.Real(), sizes)
    rows = pd.DataFrame({"a": [0.5, 1.0], "m": ["1", "2"]}).to_numpy()
    found = read_observations(rows, ("a", "m"), columns, "given")
    np.testing.assert_array_equal(found.values, [[0.5, 0], [1, 2]])
    cylinders = (disco.Real(), disco.Categories((1, 2, 4)))
    with refuses("numbers for 'm', which may be its levels (1, 2, 4) or indices"):
        read_observations(np.array([[0.5, 1]], object), ("a", "m"), cylinders, "given")


def test_lists_with_text_keep_their_numbers():
    rows = read_rows([[1.5, "low"], [float("nan"), "high"], [2.5, "low"]])
    assert [column.kind for column in rows.columns] == ["real", "categories"]
    np.testing.assert_array_equal(rows.values, [[1.5, 1], [np.nan, 0], [2.5, 1]])


def test_what_is_under_a_mask_is_no_entry():
    masked = np.ma.array(["low", "N/A", "high"], mask=[0, 1, 0])
    for data in (masked, masked.astype(object)):
        rows = read_rows({"c": data})
        assert rows.columns[0].levels == ("high", "low")
        np.testing.assert_array_equal(rows.values[:, 0], [1, np.nan, 0])
        found = read_observations(data[:, None], ("c",), COLUMNS[2:], "given")
        np.testing.assert_array_equal(found.values[:, 0], [0, np.nan, 1])


def test_points():
    array = jnp.ones((4, 3))
    assert read_points(array, NAMES, COLUMNS, "x") is array
    np.testing.assert_array_equal(read_points(FRAME, NAMES, COLUMNS, "x"), NUMBERS)
    with refuses("Expected entries for all of", "`x`", "got none for ['a', 'c']"):
        read_points({"b": 1.0}, NAMES, COLUMNS, "x")


# --- rows to learn from


def test_rows_to_learn_from():
    for data in (FRAME, pl.from_pandas(FRAME), FRAME.to_dict(orient="list")):
        rows = read_rows(data)
        assert rows.names == ("c", "b", "a")
        assert rows.columns == (
            disco.Categories(("high", "low"), dtype="String"),
            disco.Real(),
            disco.Real(),
        )
        np.testing.assert_array_equal(rows.values, [[0, 2, 1], [1, 4, np.nan]])
    for data in (NUMBERS, NUMBERS.tolist(), jnp.asarray(NUMBERS), np.ma.masked_invalid(NUMBERS)):
        rows = read_rows(data)
        assert rows.names is None and {column.kind for column in rows.columns} == {"real"}
        np.testing.assert_array_equal(rows.values, NUMBERS)
    assert read_rows(pd.DataFrame(NUMBERS)).names == ("0", "1", "2")
    assert read_rows(LABELLED.T).names == ("b", "c", "a")
    assert [column.kind for column in read_rows(NUMBERS[:1].astype(int)).columns] == ["whole"] * 3


def test_rows_of_several_lengths_are_refused():
    for data in ({"z": [1, 2], "u": [1]}, {"z": [[1], [2]]}, {}, {"z": 3.0}):
        with refuses("one length", "`data`", "got the shapes"):
            read_rows(data)
    for data in ({1: [1.0, 2.0], "1": [3.0, 4.0]}, pd.DataFrame({1: [1.0], "1": [3.0]})):
        with refuses("distinct columns"):
            read_rows(data)
