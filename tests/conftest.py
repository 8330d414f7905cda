"""What all tests share."""

import collections
import gc

import jax
import pytest

LONG = ("training", "statistics", "slow")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Start with the files that hold the most long tests.

    Two workers share whole files, and neither should begin a long one when the other is done.
    """
    num_long = collections.Counter(
        item.path for item in items if any(map(item.get_closest_marker, LONG))
    )
    items.sort(key=lambda item: -num_long[item.path])


def pytest_runtest_setup(item):
    """Compile quickly where nothing runs for long: training a small network is not long either."""
    long = item.get_closest_marker("slow") is not None
    jax.config.update("jax_disable_most_optimizations", not long)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Drop what a file has compiled: each program maps memory, and a process may have only so many
    maps (65,530 by Linux's default), after which it dies.
    """
    yield
    jax.clear_caches()
    gc.collect()
