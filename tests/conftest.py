"""What all tests share."""

import gc
import os

import jax
import pytest

# Most tests do little else than compile, and with XLA's newer code generation a program takes more
# than twice as long. Other versions do not know the flag, and stop at one that they do not know.
if jax.__version_info__[:2] == (0, 10):
    os.environ["XLA_FLAGS"] = " ".join(
        [os.environ.get("XLA_FLAGS", ""), "--xla_cpu_use_fusion_emitters=false"]
    )


def pytest_collection_modifyitems(items):
    """Start with the longest file: two workers share whole files, and neither should wait long."""
    items.sort(key=lambda item: item.path.name != "test_training.py")


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
