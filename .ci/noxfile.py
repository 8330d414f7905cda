"""The checks of the library as sessions of nox; .ci/run runs them in this order."""

import os
import sys

import nox
from python_discovery import iter_interpreters

nox.options.default_venv_backend = "venv"
nox.options.stop_on_first_error = True
PYTEST = ("python", "-m", "pytest")

# Released, ordinary builds of another minor version than the default Python's.
others = iter_interpreters(
    f">=3.12,!=3.{sys.version_info.minor}.*",
    predicate=lambda python: python.version_info[3] == "final" and not python.free_threaded,
)
NEWEST = max(others, key=lambda python: python.version_info, default=None)
if NEWEST is None and not os.environ.get("NUMPYRO_DISCO_ONE_PYTHON"):
    sys.exit(
        "Expected a second Python, 3.12 or later, on PATH or in ~/.pyenv/versions; found none. "
        "Install one, or set NUMPYRO_DISCO_ONE_PYTHON=1 to test with the default Python alone."
    )


@nox.session
def checks(session):
    """Check format, lint, imports, sizes, types, documentation, doctests and scripts."""
    session.chdir("..")
    session.install(".[tests,plots,docs,dev]")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("lint-imports", "--no-cache")
    session.run(*PYTEST, "-n0", "tests/test_structure.py")
    session.run("mypy")
    session.run("sphinx-build", "-qW", "--keep-going", "docs", session.create_tmp())
    # Leave an empty line before the closing fence of a >>> block: it ends the expected output.
    documents = ("--doctest-glob=*.md", "--ignore=docs/conf.py", "docs", "README.md")
    session.run(*PYTEST, "--doctest-modules", "numpyro_disco", *documents)
    # photometric_redshift.py reads the galaxies inside pzflow and needs none of its dependencies.
    session.install("--no-deps", "pzflow")
    session.run(*PYTEST, "-rA", "--dist=worksteal", ".ci/test_scripts.py")


@nox.session
def tests(session):
    """Run the default test suite as README.md does."""
    session.chdir("..")
    session.install(".[tests]")
    session.run(*PYTEST, "--durations=25")


@nox.session(python=NEWEST.system_executable if NEWEST else False)
def newest(session):
    """Run the fast half of the tests with the newest other Python."""
    if NEWEST is None:
        session.skip("NOT RUN: no second Python, which NUMPYRO_DISCO_ONE_PYTHON allows")
    session.chdir("..")
    session.install(".[tests]")
    session.run(*PYTEST, "--durations=25", "-m", "not slow and not training and not statistics")
