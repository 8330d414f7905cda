"""Archives of arrays with a readable description: no code, no pickle.

An archive is one zip file of NumPy arrays (an .npz, which NumPy itself opens) with one more member,
`description.json`: the format of the file and its version, what the arrays are, and their shapes.
Reading returns numbers and text only; nothing in a file can run.
"""

from __future__ import annotations

import io
import json
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

DESCRIPTION = "description.json"
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
)
"""Errors that Python's own readers raise on damaged bytes. NotImplementedError and RecursionError
are RuntimeErrors."""


class LoadError(ValueError):
    """A file that this version cannot read; the message says why."""


def write_archive(
    path: str | os.PathLike[str], description: Mapping[str, Any], arrays: Mapping[str, Any]
) -> None:
    """Write arrays and their description to one file.

    The file is written under another name first and then moved into place, so an earlier file at
    `path` survives whatever goes wrong.

    Args:
        path: where to write.
        description: JSON with "format" and "format_version"; the shapes of the arrays are added.
        arrays: from names to arrays.

    Raises:
        OSError: the file cannot be written.
    """
    shapes = {name: list(np.shape(array)) for name, array in arrays.items()}
    text = json.dumps({**description, "arrays": shapes}, indent=2)
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            archive.writestr(DESCRIPTION, text)
            for name, array in arrays.items():
                buffer = io.BytesIO()
                np.save(buffer, np.asarray(array), allow_pickle=False)
                archive.writestr(f"{name}.npy", buffer.getvalue())
        # `mkstemp` lets only the owner read; the archive gets the permissions of an ordinary file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_archive(
    path: str | os.PathLike[str], versions: Mapping[str, range]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read a file that `write_archive` wrote. Nothing in the file is executed.

    Args:
        path: the file.
        versions: from the name of each known format to the versions of it that can be read.

    Returns:
        The description, and the arrays by name, their shapes checked.

    Raises:
        FileNotFoundError: no file there.
        LoadError: a file that is truncated or damaged, of another kind, or of an unknown version.
    """
    path = Path(path)
    foreign = f"'{path}' is not a file saved by numpyro_disco"
    with open(path, "rb") as file:
        start = file.read(4)
    if not start:
        raise LoadError(f"'{path}' is empty: it was truncated. Save it again.")
    if start[:2] != b"PK":
        raise LoadError(f"{foreign}: it is not a zip file of arrays.")
    try:
        with zipfile.ZipFile(path) as archive:
            members = set(archive.namelist())
            if DESCRIPTION not in members:
                raise LoadError(f"{foreign}: it is an archive without `{DESCRIPTION}`.")
            description = json.loads(archive.read(DESCRIPTION))
            if not isinstance(description, dict) or description.get("format") not in versions:
                raise LoadError(f"{foreign}: its description is of something else.")
            _check_version(path, description, versions[description["format"]])
            arrays = {
                name: _read_array(path, archive, members, name, shape)
                for name, shape in description["arrays"].items()
            }
    except LoadError:
        raise
    except DAMAGE as error:
        raise LoadError(f"'{path}' is truncated or damaged ({error}). Save it again.") from error
    return description, arrays


@contextmanager
def damage_reported(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise a `LoadError` that names the file where its contents do not fit together.

    Args:
        path: the file from which the contents were read.
    """
    try:
        yield
    except DAMAGE as error:
        raise LoadError(
            f"'{Path(path)}' is damaged: its description and its arrays do not fit together "
            f"({error}). Save it again."
        ) from error


def _check_version(path: Path, description: dict[str, Any], known: range) -> None:
    version = description.get("format_version")
    if version not in known:
        newer = not isinstance(version, int) or version >= known.stop
        remedy = "Upgrade numpyro_disco." if newer else "Fit and save again."
        raise LoadError(
            f"'{path}' has format version {version}; this numpyro_disco reads versions "
            f"{known.start} to {known.stop - 1}. {remedy}"
        )


def _read_array(
    path: Path, archive: zipfile.ZipFile, members: set[str], name: str, shape: list[int]
) -> np.ndarray:
    if f"{name}.npy" not in members:
        raise LoadError(f"'{path}' is damaged: the array {name!r} is missing.")
    array = np.load(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
    if list(array.shape) != shape:
        raise LoadError(
            f"'{path}' is damaged: the array {name!r} has shape {array.shape}, its description "
            f"says {shape}."
        )
    return array
