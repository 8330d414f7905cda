"""Jobs of a minute or so, for two workers: documentation, types, doctests and scripts.

The scripts are the first python block of README.md, the examples and the paper's figures, run at
small size.
"""

import os
import pathlib
import re
import subprocess
import sys

import pytest
from helpers.workers import keep_to_one_core, quick_options

ROOT = pathlib.Path(__file__).resolve().parents[1]
PYTHON_M = (sys.executable, "-m")
# Modules that scripts share have no main guard.
SCRIPTS = [path for path in ROOT.glob("examples/**/*.py") if "__main__" in path.read_text()]


@pytest.fixture(scope="module", autouse=True)
def one_core():
    """Keep what a worker starts to one core."""
    keep_to_one_core()


@pytest.fixture(scope="module")
def alone():
    """Variables for a process with one core, whose threads would wait for one another's turn."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "XLA_FLAGS": quick_options()}


@pytest.fixture(scope="module")
def quick(alone):
    """Variables for scripts and doctests, which compile for longer than they run."""
    return {**alone, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def test_documentation(tmp_path, alone):
    command = (*PYTHON_M, "sphinx", "-qW", "--keep-going", "docs", tmp_path)
    # Cells run NumPyro's samplers, which take longer to compile than to run.
    flags = f"{alone['XLA_FLAGS']} --xla_backend_optimization_level=1"
    subprocess.run(command, cwd=ROOT, env={**alone, "XLA_FLAGS": flags}, check=True)


def test_doctests(quick):
    # Leave an empty line before the closing fence of a >>> block: it ends the expected output.
    documents = ("--doctest-glob=*.md", "--ignore=docs/conf.py", "docs", "README.md")
    command = (*PYTHON_M, "pytest", "-n0", "-q", "--doctest-modules", "numpyro_disco", *documents)
    subprocess.run(command, cwd=ROOT, env=quick, check=True)


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted(SCRIPTS)], ids=str)
def test_script(path, tmp_path, quick):
    if path.suffix == ".md":
        start, code = re.split(r"^```python\n", path.read_text(), maxsplit=1, flags=re.MULTILINE)
        path = tmp_path / "readme.py"
        # Empty lines for the text before the block: tracebacks show the line numbers of README.md.
        path.write_text("\n" * (start.count("\n") + 1) + re.split(r"^```$", code, flags=re.M)[0])
    flag = "--quick" if path.parent.name == "paper" else "--small"
    subprocess.run([sys.executable, path, flag], cwd=tmp_path, env=quick, check=True)


def test_types_of_the_package():
    subprocess.run((*PYTHON_M, "mypy"), cwd=ROOT, check=True)


def test_types_of_a_program(tmp_path):
    """A user's program sees the types of the installed package, and none of them is `Any`."""
    # No settings of ours, and no cache that the other job writes. NumPyro has no types.
    options = ("--config-file=", f"--cache-dir={tmp_path}", "--disable-error-code=import-untyped")
    command = (*PYTHON_M, "mypy", "--strict", *options, ROOT / ".ci/program.py")
    subprocess.run(command, cwd=tmp_path, check=True)
