"""Warnings before training: values that are too common, and columns that others determine."""

import warnings

import numpy as np
import pytest
from numpyro.distributions import constraints

from numpyro_disco.tables.columns import Real
from numpyro_disco.training.rows.table import Table
from numpyro_disco.training.rows.table_warnings import warn_of_determined, warn_of_spikes

RNG = np.random.default_rng(0)
A, B, C = RNG.normal(size=(3, 1000))


def table(**columns):
    count = len(columns)
    values = np.column_stack(list(columns.values()))
    return Table(values, tuple(columns), (constraints.real,) * count, (Real(),) * count)


def is_silent(warn, **columns):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn(table(**columns))
    return True


def with_spikes(column, *spikes):
    """The column with each value in as many of its rows."""
    spiked, start = column.copy(), 0
    for value, count in spikes:
        spiked[start : start + count], start = value, start + count
    return spiked


def test_a_spike_in_nine_percent_of_the_rows_is_named_with_the_remedy():
    """Sixteen times as many rows as the next value."""
    rain = with_spikes(A, (0.25, 90), (0.5, 5))
    with pytest.warns(UserWarning, match=r"'rain'.*value 0.25 in 90 rows \(9.00%\)") as found:
        warn_of_spikes(table(rain=rain, wind=B))
    message = str(found[0].message)
    assert "'wind'" not in message and "set it to NaN" in message and "boolean column" in message


def test_several_codes_are_all_named():
    codes = with_spikes(A, (-99.0, 80), (-98.0, 60))
    with pytest.warns(UserWarning, match="-99 in 80 rows.*-98 in 60 rows"):
        warn_of_spikes(table(a=codes))


def test_rounded_columns_have_no_spikes():
    assert is_silent(warn_of_spikes, a=np.round(A, 1), b=np.round(5 * B), c=C)


def test_functions_of_others_are_named_with_the_remedy():
    columns = {"a": A, "b": B, "c": C, "area": A * B, "size": np.exp(C)}
    with pytest.warns(UserWarning, match="determined by others") as found:
        warn_of_determined(table(**columns))
    message = str(found[0].message)
    assert "compute them from draws of the others" in message
    # Of a product only one column is named, with the two others.
    assert message.count(" by '") == 2
    assert {"'a'", "'b'", "'area'"} <= set(message.replace(",", " ").split())
    noise = 0.3 * RNG.normal(size=(2, 1000))
    noisy = {"area": A * B + noise[0], "size": np.exp(C) + noise[1]}
    assert is_silent(warn_of_determined, **(columns | noisy))


def test_incomplete_rows_are_left_out():
    missing = np.where(RNG.random(1000) < 0.3, np.nan, A * B)
    with pytest.warns(UserWarning, match="'product' by 'a', 'b'|'a' by|'b' by"):
        warn_of_determined(table(a=A, b=B, product=missing))
    assert is_silent(warn_of_determined, a=A, b=np.full(1000, np.nan))
