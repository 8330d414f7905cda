"""What the documentation names exists, and it names every public object, with an example."""

import pathlib
import re
import tomllib

import pytest

import numpyro_disco as disco

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


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


def test_one_version_is_named():
    """In the metadata, in the package, and in what to cite."""
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    citation = (ROOT / "docs/CITATION.cff").read_text(encoding="utf-8")
    assert metadata["project"]["version"] == disco.__version__
    assert f"version: {disco.__version__}\n" in citation


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scripts_and_test_files_in_a_page_exist(page):
    text = page.read_text(encoding="utf-8")
    paths = set(re.findall(r"\b(?:tests|examples)/[\w/]*\w\.py\b", text))
    missing = sorted(path for path in paths if not (ROOT / path).is_file())
    assert not missing, f"{page.name} names files that do not exist: {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_links_to_exist(page):
    links = re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8"))
    local = [link for link in links if not link.startswith(("http://", "https://"))]
    missing = sorted(link for link in local if not (page.parent / link).exists())
    assert not missing, f"{page.name} links to files that do not exist: {missing}"


def test_every_public_name_stands_in_the_reference():
    reference = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"auto\w+:: (\w+)", reference)) == sorted(disco.__all__)


def test_every_public_name_has_an_example():
    """An example stands in its docstring, or below its section of the reference."""
    reference = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    examples = re.findall(r"^(?:>>>|\.\.\.) .*", reference, flags=re.MULTILINE)
    shown = set(re.findall(r"\bdisco\.(\w+)", "\n".join(examples)))
    without = [
        name
        for name in disco.__all__
        if name not in shown and ">>>" not in getattr(disco, name).__doc__
    ]
    assert not without, f"public names without an example: {without}"
