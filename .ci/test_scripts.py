"""The first python block of README.md and the examples at small size run to their end."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted(ROOT.glob("examples/**/*.py"))], ids=str)
def test_script(path, tmp_path):
    if path.suffix == ".md":
        start, code = re.split(r"^```python\n", path.read_text(), maxsplit=1, flags=re.MULTILINE)
        path = tmp_path / "readme.py"
        # Empty lines for the text before the block: tracebacks show the line numbers of README.md.
        path.write_text("\n" * (start.count("\n") + 1) + re.split(r"^```$", code, flags=re.M)[0])
    subprocess.run([sys.executable, path, "--small"], cwd=tmp_path, check=True)
