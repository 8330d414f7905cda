"""The shape of the repository: what stands at its top, and how long files and functions may be.

Private names are checked by ruff (SLF001, PLC2701), and the direction of imports by import-linter.
"""

import ast
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
TOP_LEVEL = {"LICENSE", "README.md", "docs", "examples", "numpyro_disco", "pyproject.toml", "tests"}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def python_files():
    """Python files of the package, the tests, the examples and the documentation."""
    folders = ("numpyro_disco", "tests", "examples", "docs", ".ci")
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def num_code_lines(function):
    """Number of lines of a function, from its `def` on, without its docstring."""
    num_lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function, clean=False) is not None:
        docstring = function.body[0]
        num_lines -= docstring.end_lineno - docstring.lineno + 1
    return num_lines


def too_long(text):
    """List what is too long in the text of a Python file."""
    num_lines = len(text.splitlines())
    found = [f"file: {num_lines} lines"] if num_lines > MAX_FILE_LINES else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            num_lines = num_code_lines(node)
            if num_lines > MAX_FUNCTION_LINES:
                found.append(f"line {node.lineno}, {node.name}: {num_lines} lines")
    return found


def function_text(num_lines, num_docstring_lines=0):
    """Text of a function with this many lines of code, its `def` included, and of docstring."""
    docstring = ['    """One.', *["    More."] * (num_docstring_lines - 2), '    """']
    code = ["    x = 1"] * (num_lines - 1)
    return "\n".join(["def f():", *(docstring if num_docstring_lines else []), *code])


def test_files_and_functions_are_short():
    files = python_files()
    assert len(files) > 50
    found = [
        f"{path.relative_to(ROOT)}, {reason}"
        for path in files
        for reason in too_long(path.read_text(encoding="utf-8"))
    ]
    limits = f"{MAX_FILE_LINES} lines in a file and {MAX_FUNCTION_LINES} in a function"
    assert not found, f"Expected at most {limits}; got\n" + "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n" * MAX_FILE_LINES,
        function_text(MAX_FUNCTION_LINES),
        function_text(MAX_FUNCTION_LINES, num_docstring_lines=30),
    ],
    ids=["file", "function", "docstring"],
)
def test_the_longest_that_is_allowed_passes(text):
    assert too_long(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n" * (MAX_FILE_LINES + 1),
        function_text(MAX_FUNCTION_LINES + 1),
        function_text(MAX_FUNCTION_LINES + 1, num_docstring_lines=30),
        "class A:\n    async " + function_text(MAX_FUNCTION_LINES + 1).replace("\n", "\n    "),
    ],
    ids=["file", "function", "docstring", "method"],
)
def test_one_line_more_fails(text):
    assert len(too_long(text)) == 1


def unexpected(paths):
    """Names at the top of the repository that are neither expected nor dot files."""
    names = {pathlib.PurePosixPath(path).parts[0] for path in paths}
    return sorted(name for name in names - TOP_LEVEL if not name.startswith("."))


def test_top_level_of_the_repository():
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode != 0:
        pytest.skip("not a git checkout, so stray files cannot be detected")
    paths = listing.stdout.strip("\0").split("\0")
    assert unexpected(paths) == []
    assert unexpected([*paths, ".ci/noxfile.py"]) == []
    assert unexpected([*paths, "noxfile.py", "notes/today.md"]) == ["notes", "noxfile.py"]
