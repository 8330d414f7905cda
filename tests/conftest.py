"""Options of XLA, the order of tests, and fixtures that all tests share."""

import collections
import gc
import os
import subprocess
import sys

import jax
import pytest

LONG = ("training", "statistics", "slow")

# Most tests spend nearly all of their time compiling. Without XLA's newer code generation,
# compilation is much faster. Not every version of XLA has the option.
QUICK_OPTIONS = ("--xla_cpu_use_fusion_emitters=false",)


def is_known(option):
    """Ask a fresh process, because XLA aborts on an option that it does not know."""
    environment = {**os.environ, "XLA_FLAGS": option}
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


def pytest_configure():
    """Set the options that the installed JAX knows; worker processes inherit them."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        known = filter(is_known, QUICK_OPTIONS)
        os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *known])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Run the files with the most long tests first.

    Workers take whole files, and none should begin a long file when the others are done.
    """
    num_long = collections.Counter(
        item.path for item in items if any(map(item.get_closest_marker, LONG))
    )
    items.sort(key=lambda item: -num_long[item.path])


def pytest_runtest_setup(item):
    """Turn off most optimisations, except for slow tests. Training a small network is not slow."""
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
