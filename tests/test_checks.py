"""Checks of arguments: the values they return and the messages they raise."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from numpyro_disco import _checks as checks

NAMES = ("z", "u", "g")


def refuses(*parts):
    """Expect a ValueError whose message contains every part, in this order."""
    return pytest.raises(ValueError, match="(?s)" + ".*".join(re.escape(p) for p in parts))


# --- numbers


def test_positive_accepts_positive_finite_numbers():
    for value in (2, 0.5, np.float32(0.5), jnp.float32(0.5)):
        number = checks.check_positive(value, "width")
        assert type(number) is float and number == value
    for value in (0, -1.5, np.inf, np.nan, "wide", "0.5", True, None):
        with refuses("positive", "`width`", f"got {value!r}"):
            checks.check_positive(value, "width")


def test_count_accepts_integers_from_the_minimum_on():
    for value in (3, np.int64(3)):
        number = checks.check_count(value, "num_rows")
        assert type(number) is int and number == 3
    assert checks.check_count(0, "num_rows", minimum=0) == 0
    for value in (0, -1, 2.0, "3", True, None):
        with refuses("at least 1", "`num_rows`", f"got {value!r}"):
            checks.check_count(value, "num_rows")
    with refuses("at least 5", "got 4"):
        checks.check_count(4, "num_rows", minimum=5)


def test_fraction_accepts_numbers_between_zero_and_one():
    assert checks.check_fraction(0.25, "decay") == 0.25
    for value in (0, 1, 1.5, -0.1, np.nan, "half"):
        with refuses("`decay`", f"got {value!r}"):
            checks.check_fraction(value, "decay")


def test_share_accepts_numbers_below_one_half():
    for value in (0, 0.1):
        number = checks.check_share(value, "defensive_share")
        assert type(number) is float and number == value
    for value in (0.5, 0.9):
        with refuses("share below 1/2", "`defensive_share`", f"got {value!r}"):
            checks.check_share(value, "defensive_share")
    for value in (1, -0.1, np.nan, "half"):
        with refuses("`defensive_share`", f"got {value!r}"):
            checks.check_share(value, "defensive_share")


def test_flag_accepts_booleans_only():
    assert checks.check_flag(np.bool_(True), "whiten") is True
    for value in ("no", 1, None):
        with refuses("True or False", "`whiten`", f"got {value!r}"):
            checks.check_flag(value, "whiten")


# --- keys


def test_typed_and_legacy_keys_are_accepted():
    key = jax.random.key(3)
    assert checks.check_key(key) is key
    for legacy in (jax.random.PRNGKey(3), np.asarray(jax.random.PRNGKey(3))):
        typed = checks.check_key(legacy)
        assert typed.shape == ()
        np.testing.assert_array_equal(jax.random.key_data(typed), jax.random.key_data(key))


@pytest.mark.parametrize(
    "value",
    [
        0,
        None,
        "key",
        (0, 3),
        np.uint32(3),
        jnp.uint32(3),
        jnp.zeros(2),
        np.zeros(3, np.uint32),
        np.zeros((), np.uint32),
    ],
    ids=repr,
)
def test_other_values_are_refused_as_keys(value):
    with refuses("random key", "`rng_key`", "got"):
        checks.check_key(value)


def test_several_keys_are_refused():
    for keys in (jax.random.split(jax.random.key(0), 3), jnp.zeros((3, 2), jnp.uint32)):
        with refuses("one random key", "`rng_key`", "shape (3,)"):
            checks.check_key(keys)


# --- names


def test_names_are_distinct_strings_without_slashes():
    assert checks.check_names(None, 3) == ("0", "1", "2")
    for names in (list(NAMES), NAMES, np.array(NAMES), pd.Index(NAMES)):
        assert checks.check_names(names, 3) == NAMES
    with refuses("3 names", "`names`", "single string 'zug'"):
        checks.check_names("zug", 3)
    for name in ("", "a/b", 3, None):
        with refuses("`names`", f"got {name!r}", "Rename"):
            checks.check_names(["z", name, "g"], 3)
    with refuses("Expected 2 `names`", "got 3", "('z', 'u', 'g')"):
        checks.check_names(NAMES, 2)
    with refuses("distinct `names`", "['u']"):
        checks.check_names(["u", "z", "u"], 3)


def test_name_index_refuses_unknown_names():
    assert [checks.name_index(name, NAMES, "observed") for name in NAMES] == [0, 1, 2]
    for name in ("redshift", 0, None):
        with refuses("`observed` names", repr(name), "not a coordinate", str(NAMES)):
            checks.name_index(name, NAMES, "observed")
