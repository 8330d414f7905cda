"""Tests and files that the documentation names exist."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_each_row_of_the_table_of_features_names_a_test():
    table = (ROOT / "docs/inside_numpyro.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(?:test_\w+\.py::)?(test_\w+)`", table))
    files = (ROOT / "tests").rglob("test_*.py")
    defined = {
        name
        for path in files
        for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 30
    assert not named - defined, f"not defined in tests: {sorted(named - defined)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scripts_and_test_files_in_a_page_exist(page):
    text = page.read_text(encoding="utf-8")
    paths = set(re.findall(r"\b(?:tests|examples)/[\w/]*\w\.py\b", text))
    missing = sorted(path for path in paths if not (ROOT / path).is_file())
    assert not missing, f"{page.name} names files that do not exist: {missing}"
