"""What all tests share."""

import gc

import jax
import pytest


def pytest_collection_modifyitems(items):
    """Start with the longest file: two workers share whole files, and neither should wait long."""
    items.sort(key=lambda item: item.path.name != "test_training.py")


def pytest_runtest_setup(item):
    """Compile quickly where nothing runs for long: most tests do little else than compile."""
    long = any(item.get_closest_marker(marker) for marker in ("training", "slow"))
    jax.config.update("jax_disable_most_optimizations", not long)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Drop what a file has compiled: each program maps memory, and a process may have only so many
    maps (65,530 by Linux's default), after which it dies.
    """
    yield
    jax.clear_caches()
    gc.collect()
