"""Options of XLA, the order of tests, and fixtures that all tests share."""

import collections
import gc
import os
import pathlib

import jax
import pytest
from helpers.workers import keep_to_one_core, quick_options

from numpyro_disco import _compiling

# A worker that holds so many maps uses about 3 GB.
MOST_MAPS = 10_000

LONG = ("training", "statistics", "slow")


def pytest_addoption(parser):
    parser.addoption(
        "--first",
        action="append",
        default=[],
        metavar="FILE",
        help="run only the first of the chosen tests in FILE",
    )


def pytest_configure(config):
    """Set the options that the installed JAX knows, and keep compiled programs for the next run.

    The package's own level of optimisation would take the place of that of the tests. Programs
    lie in pytest's own cache, unless JAX_COMPILATION_CACHE_DIR names another folder; so
    `pytest --cache-clear` forgets them. Worker processes inherit both.
    """
    _compiling._OPTIONS.pop("xla_backend_optimization_level")
    keep_to_one_core()
    if "PYTEST_XDIST_WORKER" not in os.environ:
        os.environ["XLA_FLAGS"] = quick_options()
        # Each worker has one core. The threads of two, which spin while they wait for one another,
        # make the small trees of scikit-learn take many times as long.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        if hasattr(config, "cache") and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            keep_programs(config.cache.mkdir("programs"))


def keep_programs(folder):
    """Let JAX keep every program in a folder, here and in processes that are started later."""
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


def pytest_collection_finish():
    """Collect garbage less often: traced programs are many objects, and few of them garbage."""
    gc.freeze()
    gc.set_threshold(100_000)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Leave out what `--first` does not choose, and run the files with the most long tests first.

    Workers take whole files, and none should begin a long file when the others are done.
    """
    limited = {pathlib.Path(name).resolve() for name in config.getoption("first")}
    firsts = {item.path: item for item in reversed(items)}
    further = [i for i in items if i.path in limited and i is not firsts[i.path]]
    if further:
        config.hook.pytest_deselected(items=further)
        items[:] = [item for item in items if item not in set(further)]
    num_long = collections.Counter(
        item.path for item in items if any(map(item.get_closest_marker, LONG))
    )
    items.sort(key=lambda item: -num_long[item.path])


def pytest_runtest_setup(item):
    """Turn off most optimisations, except for tests that run for longer than they compile."""
    long = item.get_closest_marker("slow") or item.get_closest_marker("optimized")
    jax.config.update("jax_disable_most_optimizations", not long)


PROGRAMS_OF = jax.make_user_context(default_value=None)


@pytest.fixture(autouse=True)
def programs_of_its_own(request):
    """Compile anew for a test that replaces a part of the package.

    Such programs are no one else's, nor may the test get the programs of others.
    """
    replaces = "monkeypatch" in request.fixturenames
    with PROGRAMS_OF(request.node.nodeid if replaces else None):
        yield


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Drop what has been compiled before the process runs out of maps.

    Each program maps memory, and a process may have only so many maps (65,530 by Linux's default),
    after which it dies.
    """
    yield
    if num_maps() > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


def num_maps():
    """Count the maps of this process; infinite where the system does not list them."""
    maps = pathlib.Path("/proc/self/maps")
    return len(maps.read_bytes().splitlines()) if maps.exists() else float("inf")
