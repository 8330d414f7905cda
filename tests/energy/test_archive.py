"""Archives: plain data, whole or not at all, and clear errors for files that are damaged."""

import io
import json
import os
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
from helpers.saved_priors import (
    NAMES,
    assert_equal_priors,
    change_description,
    members,
    npy,
    rewrite,
    untrained_prior,
)

import numpyro_disco as disco
from numpyro_disco.energy import storage
from numpyro_disco.energy.archive import read_archive


@pytest.fixture(scope="module")
def prior():
    return untrained_prior()


@pytest.fixture
def path(tmp_path, prior):
    path = tmp_path / "prior.npz"
    disco.save(path, prior.clamp({"z": 0.5, "u": -0.5}).temper(2.0))
    return path


def test_the_file_is_arrays_and_a_readable_description(path):
    contents = members(path)
    description = json.loads(contents.pop("description.json"))
    assert description["format"] == "numpyro_disco.prior"
    assert description["format_version"] == 7
    assert description["names"] == list(NAMES)
    assert description["observed"] == [True, True, False]
    assert description["network"]["width"] == 16
    assert {f"{name}.npy" for name in description["arrays"]} == set(contents)
    for content in contents.values():
        array = np.load(io.BytesIO(content), allow_pickle=False)
        assert array.dtype.kind in "fiub"
    # NumPy itself opens the file.
    with np.load(path, allow_pickle=False) as archive:
        np.testing.assert_allclose(archive["values"], [0.5, -0.5, 0.0])


def test_the_umask_decides_who_may_read_a_file(tmp_path, prior):
    # Only its owner can read a temporary file; the file moved into place must not be like that.
    plain = tmp_path / "plain"
    plain.write_text("")
    disco.save(tmp_path / "prior.npz", prior)
    modes = [os.stat(p).st_mode & 0o777 for p in (plain, tmp_path / "prior.npz")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.99, 0.9999])
def test_a_truncated_file(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: max(int(share * len(content)), 2)])
    with pytest.raises(disco.LoadError, match=f"{re.escape(str(path))}.*truncated or damaged"):
        disco.load(path)


def test_an_empty_file(path):
    path.write_bytes(b"")
    with pytest.raises(disco.LoadError, match="is empty.*Save it again"):
        disco.load(path)


@pytest.mark.parametrize("content", [b"P", b"hello, world\n", b"\x80\x04\x95 pickle", bytes(100)])
def test_a_file_of_something_else(path, content):
    path.write_bytes(content)
    with pytest.raises(disco.LoadError, match="not a file saved by numpyro_disco"):
        disco.load(path)


def test_an_archive_of_something_else(path):
    np.savez(path, a=np.zeros(3))
    with pytest.raises(disco.LoadError, match="archive without `description.json`"):
        disco.load(path)
    rewrite(path, {"description.json": b'{"format": "parcel"}'})
    with pytest.raises(disco.LoadError, match="description is of something else"):
        disco.load(path)


def test_no_file_and_a_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz"):
        disco.load(tmp_path / "nowhere.npz")
    with pytest.raises((IsADirectoryError, disco.LoadError), match=re.escape(str(tmp_path))):
        disco.load(tmp_path)


def test_a_newer_format(path):
    change_description(path, format_version=8)
    with pytest.raises(disco.LoadError, match="format version 8.*reads versions 2 to 7.*Upgrade"):
        disco.load(path)


def test_a_missing_array(path):
    rewrite(path, {"reference.means.npy": None})
    with pytest.raises(disco.LoadError, match="damaged.*'reference.means' is missing"):
        disco.load(path)


@pytest.mark.parametrize("name", ["loc", "weights", "values", "inverse_temperature"])
def test_an_array_of_another_shape(path, name):
    found = next(n for n in members(path) if n.startswith(name))
    rewrite(path, {found: npy(np.zeros((2, 2), np.float32))})
    with pytest.raises(disco.LoadError, match=r"damaged.*shape \(2, 2\), its description says"):
        disco.load(path)


@pytest.mark.parametrize("name", ["loc", "weights", "values", "inverse_temperature", "reference"])
def test_an_array_and_a_description_of_another_shape(path, name):
    found = next(n for n in members(path) if n.startswith(name)).removesuffix(".npy")
    arrays = json.loads(members(path)["description.json"])["arrays"]
    rewrite(path, {f"{found}.npy": npy(np.zeros((2, 2), np.float32))})
    change_description(path, arrays=arrays | {found: [2, 2]})
    with pytest.raises(disco.LoadError, match="damaged"):
        disco.load(path)


def test_pickled_objects_are_not_read(path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(path) + ".sprung",)

    rewrite(path, {"loc.npy": npy(np.array([Trap(), Trap(), Trap()], object))})
    with pytest.raises(disco.LoadError, match="damaged"):
        disco.load(path)
    assert not os.path.exists(str(path) + ".sprung")


@pytest.mark.parametrize(
    "changes",
    [
        {"format_version": None},
        {"format_version": "1"},
        {"names": ...},
        {"names": 3},
        {"names": "zug"},
        {"names": ["z", "z", "g"]},
        {"names": [1, 2, 3]},
        {"observed": ...},
        {"observed": 1},
        {"observed": [True]},
        {"observed": [True, True, True]},
        {"observed": ["no", "no", "yes"]},
        {"observed": [False, False, False]},
        {"references": ...},
        {"references": []},
        {"references": {"reference": "os.system", "energy.reference": "GaussianReference"}},
        {"references": {"reference": [], "energy.reference": {}}},
        {"network": ...},
        {"network": 7},
        {"network": {"width": 16}},
        {"network": {"dimension": -3, "width": 16, "num_blocks": 1, "num_octaves": 5}},
        {"network": {"dimension": 3, "width": "wide", "num_blocks": 1, "num_octaves": 5}},
        {"arrays": ...},
        {"arrays": []},
        {"arrays": ["loc"]},
        {"arrays": {}},
        {"arrays": {"loc": 3}},
        {"arrays": {"../../etc/passwd": [3]}},
    ],
    ids=lambda changes: ", ".join(f"{k}={v}" for k, v in changes.items())[:50],
)
def test_invalid_descriptions(path, changes):
    change_description(path, **changes)
    with pytest.raises(disco.LoadError, match=re.escape(str(path))):
        disco.load(path)


def test_a_description_of_a_network_larger_than_memory(path):
    # Sizes must be compared with the arrays before anything of that size is allocated. XLA aborts
    # the whole process where an allocation fails, so the file is read in a process of its own.
    network = {"dimension": 3, "width": 10**9, "num_blocks": 1, "num_octaves": 5}
    change_description(path, network=network)
    program = (
        "import resource, sys, numpyro_disco as disco\n"
        "resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30,) * 2)\n"
        "try:\n    disco.load(sys.argv[1])\n"
        "except disco.LoadError as error:\n    print('LoadError:', error)\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "LoadError" in done.stdout, done.stderr[-500:]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"3", b"[]", b"[" * 100_000], ids=lambda c: repr(c[:4])
)
def test_invalid_json(path, content):
    rewrite(path, {"description.json": content})
    with pytest.raises(disco.LoadError):
        disco.load(path)


def test_arrays_that_are_not_finite(path):
    rewrite(path, {"reference.means.npy": npy(np.full((2, 3), np.nan, np.float32))})
    with pytest.raises(disco.LoadError):
        disco.load(path)


def test_a_flipped_bit_is_detected_or_harmless(path):
    """Reading a damaged file either raises a `LoadError` or returns what was saved."""
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    # The directory at the end of a zip file has no checksum.
    (directory,) = struct.unpack("<I", content[-6:-2])
    places = np.concatenate(
        [
            rng.integers(0, len(content), 60),
            rng.integers(directory, len(content), 120),
            np.arange(40),
        ]
    )
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            description, arrays = read_archive(path, {storage.FORMAT: storage.VERSIONS})
        except disco.LoadError:
            continue
        assert description["names"] == list(NAMES)
        np.testing.assert_allclose(arrays["values"], [0.5, -0.5, 0.0])


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_save_leaves_the_old_file(path, prior, monkeypatch, error):
    before = path.read_bytes()
    written = []
    save = np.save

    def failing(*args, **kwargs):
        if len(written) == 3:
            raise error
        written.append(args)
        return save(*args, **kwargs)

    monkeypatch.setattr(np, "save", failing)
    with pytest.raises(type(error)):
        disco.save(path, prior)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_saving_replaces_a_file_and_leaves_no_other(path, prior):
    disco.save(path, prior)
    assert_equal_priors(disco.load(path), prior)
    assert os.listdir(path.parent) == [path.name]


def test_saving_to_a_missing_directory(tmp_path, prior):
    with pytest.raises(FileNotFoundError, match="missing"):
        disco.save(tmp_path / "missing" / "prior.npz", prior)
