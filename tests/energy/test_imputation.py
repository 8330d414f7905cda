"""`impute`: completed arrays, DataFrames and ArviZ objects."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers.conditional_targets import (
    DATA,
    DRAWS,
    KEY,
    NAMES,
    ROWS,
    UNEQUAL,
    draw,
    prior_of,
)

import numpyro_disco as disco


@pytest.fixture(scope="module")
def prior():
    return prior_of(UNEQUAL)


def test_arrays_and_dicts_give_arrays(prior):
    columns = dict(zip(NAMES, DATA.T, strict=True))
    for data in (DATA, jnp.asarray(DATA), columns):
        filled = disco.impute(KEY, prior, data, DRAWS, num_particles=DRAWS)
        assert filled.shape == (DRAWS, ROWS, 3)
        there = ~np.isnan(DATA)
        expected = np.broadcast_to(DATA.astype(np.float32), filled.shape)
        np.testing.assert_array_equal(filled[:, there], expected[:, there])
        np.testing.assert_array_equal(filled, draw(prior))


def test_information_says_how_each_row_was_drawn(prior):
    filled, info = disco.impute(KEY, prior, DATA, DRAWS, num_particles=DRAWS, return_info=True)
    np.testing.assert_array_equal(filled, draw(prior))
    assert info.method.tolist() == ["importance"] * ROWS
    for row, num_distinct in enumerate(info.num_distinct):
        assert num_distinct == len(np.unique(np.asarray(filled)[:, row], axis=0))


def test_a_frame_gives_an_array_where_asked_to(prior):
    frame = pd.DataFrame(DATA, columns=list(NAMES))
    filled = disco.impute(KEY, prior, frame, DRAWS, num_particles=DRAWS, output="array")
    np.testing.assert_array_equal(filled, draw(prior))


def test_a_frame_gives_frames(prior):
    frame = pd.DataFrame(
        {"who": ["x", "y", "z"], "c": [0.1, np.nan, 0.3], "a": [np.nan, 1.2, 0.5], "b": 0.7},
        index=["i", "j", "k"],
    )
    before = frame.copy()
    filled = disco.impute(KEY, prior, frame, 3)
    pd.testing.assert_frame_equal(frame, before)
    assert len(filled) == 3
    for one in filled:
        assert list(one.index) == list(frame.index) and list(one.columns) == list(frame.columns)
        assert one["who"].tolist() == ["x", "y", "z"] and not one.isna().any(axis=None)
        # Observed entries are returned to the last bit, though draws are in single precision.
        for name in frame:
            known = frame[name].notna()
            assert one[name][known].tolist() == frame[name][known].tolist()
    assert filled[0].loc["i", "a"] != filled[1].loc["i", "a"]
    array = disco.impute(KEY, prior, frame, 3, output="array")
    np.testing.assert_allclose([f.loc["i", "a"] for f in filled], array[:, 0, 0], rtol=1e-6)


def test_frames_keep_their_dtypes(prior):
    frame = pd.DataFrame(
        {
            "a": np.array([0.1, np.nan, 0.3], np.float32),
            "b": np.array([1, 0, 1], np.int64),
            "c": np.array([0.1, 0.2, 0.3], np.float32),
        }
    )
    (filled,) = disco.impute(KEY, prior, frame, 1)
    assert filled.dtypes.tolist() == frame.dtypes.tolist()
    pd.testing.assert_frame_equal(filled.loc[[0, 2]], frame.loc[[0, 2]])
    assert np.isfinite(filled.loc[1, "a"])


def test_arviz(prior):
    frame = pd.DataFrame([[0.1, np.nan, 0.2]], columns=list(NAMES), index=["first"])
    table = disco.impute(KEY, prior, frame, 4, output="arviz")["posterior"]["table"]
    assert table.dims == ("chain", "draw", "row", "column") and table.shape == (1, 4, 1, 3)
    assert table.coords["row"].values.tolist() == ["first"]
    assert table.sel(row="first", column="a").values == pytest.approx(0.1)


def test_invalid_outputs_and_frames(prior):
    data = np.array([[0.1, np.nan, 0.2]])
    for output in ("pandas", [1]):
        with pytest.raises(ValueError, match="'array' or 'arviz' for `output`; got .*(pandas|1)"):
            disco.impute(KEY, prior, data, output=output)
    with pytest.raises(ValueError, match=r"DataFrame with the columns.*got one without \['c'\]"):
        disco.impute(KEY, prior, pd.DataFrame({"a": [1], "b": [2]}))
    batch = prior.clamp({"a": np.zeros(3)})
    with pytest.raises(ValueError, match="one row of `data` for each of the 3 vectors"):
        disco.impute(KEY, batch, data)


def test_invalid_data(prior):
    for data in (np.zeros(3), np.zeros((2, 2, 3))):
        with pytest.raises(ValueError, match=r"shape \(rows, D\) for `data`"):
            disco.impute(KEY, prior, data)
    with pytest.raises(ValueError, match="`data` names 'q'"):
        disco.impute(KEY, prior, {"q": np.zeros(3)})
    with pytest.raises(ValueError, match="finite numbers.*`data`"):
        disco.impute(KEY, prior, np.array([[np.inf, 0.0, 0.0]]))
