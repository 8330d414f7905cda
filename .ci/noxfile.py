"""The checks of the library as sessions of nox; .ci/run runs them in this order."""

import ast
import os
import pathlib
import sys
import tarfile

import nox
from python_discovery import iter_interpreters

nox.options.default_venv_backend = "uv"
nox.options.stop_on_first_error = True
ROOT = pathlib.Path(__file__).resolve().parents[1]
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

KNOWN = {*sys.stdlib_module_names, "jax", "numpy", "numpyro_disco"}
WRAPPERS = [f"numpyro_disco.{name}" for name in ("_arviz", "_numpyro", "_tracing")]
"""Modules that hold what the package uses of other libraries' own."""


@nox.session
def checks(session):
    """Check format, lint, imports and sizes, then types, documentation, doctests and scripts."""
    session.chdir(ROOT)
    session.install(".[tests,plots,docs,dev]")
    # photometric_redshift.py reads the galaxies inside pzflow and needs none of its dependencies.
    session.install("--no-deps", "pzflow")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("lint-imports", "--no-cache")
    session.run(*PYTEST, "-n0", "tests/test_structure.py")
    # Two workers take the jobs one by one, so that the longest, which come first, start first.
    jobs = ("-rA", "--dist=load", "--maxschedchunk=1", ".ci/test_jobs.py")
    session.run(*PYTEST, *jobs, "--durations=0")


@nox.session
def package(session):
    """Build what is published, and use it with the oldest releases that it allows."""
    session.chdir(ROOT)
    folder = pathlib.Path(session.create_tmp())
    session.install("build[uv]")
    # The wheel is built from the source distribution, not from the checkout.
    session.run("python", "-m", "build", "--installer=uv", f"--outdir={folder}", silent=True)
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    session.install("--resolution=lowest-direct", f"{wheel}[tests]")
    # Outside the checkout, whose folder Python would import instead of the wheel.
    session.chdir(folder)
    session.run("python", ROOT / ".ci/program.py", folder)
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
    session.chdir(folder / source.name.removesuffix(".tar.gz"))
    session.run(*PYTEST, "tests/test_checks.py", "tests/test_documentation.py", "tests/tables")


@nox.session
def tests(session):
    """Run the default test suite as README.md does."""
    session.chdir(ROOT)
    session.install(".[tests]")
    session.run(*PYTEST, "--durations=25")


def needs_jax_alone(test):
    """Whether the module that a file tests imports no library beside JAX and NumPy."""
    name = test.name.removeprefix("test_")
    module = (ROOT / "numpyro_disco" / test.relative_to(ROOT / "tests")).with_name(name)
    if not module.exists():
        return False
    imported = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    if any(name.startswith(tuple(WRAPPERS)) for name in imported):
        return False
    return {name.partition(".")[0] for name in imported} <= KNOWN


@nox.session(python=NEWEST.system_executable if NEWEST else False)
def newest(session):
    """Run fast tests of each module with the newest other Python, and so with newest libraries."""
    if NEWEST is None:
        session.skip("NOT RUN: no second Python, which NUMPYRO_DISCO_ONE_PYTHON allows")
    session.chdir(ROOT)
    session.install(".[tests]")
    # Newer releases of other libraries break modules; what the modules do together is ours, and
    # tested with the default Python. Tables and handlers meet these libraries there, too.
    together = ("handlers", "nuts", "pickling", "tables")
    modules = [
        path for path in ROOT.glob("tests/*/**/test_*.py") if "integration" not in path.parts
    ]
    files = [ROOT / f"tests/integration/test_{name}.py" for name in together]
    paths = [*modules, *files, *ROOT.glob("tests/test_*.py")]
    # A module of JAX alone runs beneath the others as well, so one test of it suffices.
    first = [f"--first={path}" for path in sorted(filter(needs_jax_alone, modules))]
    fast = ("-m", "not slow and not training and not statistics")
    session.run(*PYTEST, *fast, *first, "--durations=25", *sorted(paths))
