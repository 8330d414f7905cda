"""The first python block of README.md, the examples and the paper's figures run at small size."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Modules that scripts share have no main guard.
SCRIPTS = [path for path in ROOT.glob("examples/**/*.py") if "__main__" in path.read_text()]
PATHS = [ROOT / "README.md", *sorted(SCRIPTS)]


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_script(path, tmp_path):
    if path.suffix == ".md":
        start, code = re.split(r"^```python\n", path.read_text(), maxsplit=1, flags=re.MULTILINE)
        path = tmp_path / "readme.py"
        # Empty lines for the text before the block: tracebacks show the line numbers of README.md.
        path.write_text("\n" * (start.count("\n") + 1) + re.split(r"^```$", code, flags=re.M)[0])
    flag = "--quick" if path.parent.name == "paper" else "--small"
    subprocess.run([sys.executable, path, flag], cwd=tmp_path, check=True)
