"""Saving and loading: equal priors, plain data, and a clear word about files that are neither."""

import io
import json
import os
import re
import struct
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints

import numpyro_disco as disco
from numpyro_disco.energy import storage
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.supports.sinh_arcsinh import SinhArcsinhReal

NAMES = ("z", "u", "g")
SUPPORTS = CoordinateSupports(
    (constraints.positive, constraints.interval(-2.0, 3.0), constraints.real)
)
BENT = CoordinateSupports((SinhArcsinhReal(1.0, 0.5, 0.3, 0.7), *SUPPORTS.supports[1:]))
X = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)


def mixture_reference():
    means = np.array([[-1.0, 0.0, 1.0], [1.0, 0.5, -1.0]])
    covariances = np.stack([np.eye(3), 0.5 * np.eye(3) + 0.2])
    return disco.MixtureReference([0.01, 0.99], means, covariances)


def quick_fit(reference=None):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 3)) + rng.exponential(size=(300, 3))
    return disco.fit(
        jax.random.key(0),
        rows,
        names=NAMES,
        reference=reference,
        noise_scale=0.05,
        num_steps=50,
        width=16,
        num_blocks=1,
        batch_size=64,
        progress_bar=False,
    )


@pytest.fixture(scope="module")
def fitted():
    return quick_fit()


@pytest.fixture(scope="module")
def prior(fitted):
    return fitted.distribution


@pytest.fixture(scope="module")
def relatives(prior):
    """The prior of a fit in every state that a user can bring it to."""
    mixture = quick_fit(mixture_reference()).distribution
    return {
        "plain": prior,
        "clamped": prior.clamp({"u": 0.3}),
        "batch": prior.clamp({"u": np.linspace(-1.0, 1.0, 6)}),
        "tempered": prior.temper(0.7),
        "cooled": prior.cool(0.03),
        "supported": prior.replace(coordinate_supports=SUPPORTS),
        "bent": prior.replace(coordinate_supports=BENT),
        # As `normalize` leaves it; the estimate itself is none of storage's business.
        "normalized": prior.replace(
            log_normalizer=jnp.asarray(1.25), log_normalizer_error=jnp.asarray(0.02)
        ),
        "mixture": mixture,
        # Tempering makes the light component's weight smaller than float32 can hold.
        "cold mixture": mixture.temper(30.0),
        "everything": mixture.clamp({"z": 0.5, "u": -0.5}).temper(2.0),
    }


STATES = (
    "plain supported bent clamped batch tempered cooled normalized mixture everything".split()
    + ["cold mixture"]
)


def assert_equal_priors(one, other):
    assert one.names == other.names and one.observed == other.observed
    assert one.batch_shape == other.batch_shape and one.event_shape == other.event_shape
    assert one.coordinate_supports == other._supports
    x = np.asarray(one.coordinate_supports.constrain(X))
    x = x if one.values is None else np.where(one.observed, one.values, x)
    np.testing.assert_array_equal(one.energy(x), other.energy(x))
    np.testing.assert_array_equal(one.log_prob(x), other.log_prob(x))
    np.testing.assert_array_equal(one.score(x), other.score(x))
    assert one.support(x).all() and other.support(x).all()
    for field in ("loc", "scale", "inverse_temperature"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    for field in ("values", "log_normalizer", "log_normalizer_error", "noise_scale"):
        a, b = getattr(one, field), getattr(other, field)
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)
    assert type(one.reference) is type(other.reference)
    # Mixture weights pass through a logarithm, so the last bit may differ there and only there.
    np.testing.assert_allclose(
        one.reference.log_prob(x), other.reference.log_prob(x), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("state", STATES)
def test_what_is_loaded_equals_what_was_saved(tmp_path, relatives, state):
    path = tmp_path / "prior.npz"
    saved = relatives[state]
    disco.save(path, saved)
    loaded = disco.load(path)
    assert_equal_priors(saved, loaded)
    # Structures agree too, so a program compiled for the one serves the other.
    assert jax.tree.structure(saved) == jax.tree.structure(loaded)
    # And a second generation is no worse than the first.
    disco.save(path, loaded)
    assert_equal_priors(saved, disco.load(path))


def test_the_comparison_sees_one_changed_weight(tmp_path, prior):
    path = tmp_path / "prior.npz"
    disco.save(path, prior)
    name = next(n for n in members(path) if n.startswith("weights") and "outlet" in n)
    array = np.load(io.BytesIO(members(path)[name]))
    array.ravel()[0] += 1.0
    rewrite(path, {name: npy(array)})
    with pytest.raises(AssertionError):
        assert_equal_priors(prior, disco.load(path))


def test_a_light_component_survives(tmp_path, relatives):
    path = tmp_path / "prior.npz"
    cold = relatives["cold mixture"]
    disco.save(path, cold)
    loaded = disco.load(path)
    assert cold.joint_reference.log_weights.min() < -110
    np.testing.assert_allclose(
        loaded.joint_reference.log_weights, cold.joint_reference.log_weights, rtol=1e-5
    )


# -- the file ----------------------------------------------------------------------------------


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=array.dtype == object)
    return buffer.getvalue()


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path, changes):
    """The same archive with some members replaced, or left out where the change is None."""
    contents = members(path) | changes
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            if content is not None:
                archive.writestr(name, content)


@pytest.fixture
def path(tmp_path, relatives):
    path = tmp_path / "prior.npz"
    disco.save(path, relatives["everything"])
    return path


def test_the_file_is_arrays_and_a_readable_description(path):
    contents = members(path)
    description = json.loads(contents.pop("description.json"))
    assert description["format"] == "numpyro_disco.prior"
    assert description["format_version"] == 6
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


def test_a_file_may_be_read_by_whom_the_umask_lets(tmp_path, prior):
    # A temporary file is made for its owner's eyes only; what is moved into place must not be.
    plain = tmp_path / "plain"
    plain.write_text("")
    disco.save(tmp_path / "prior.npz", prior)
    modes = [os.stat(p).st_mode & 0o777 for p in (plain, tmp_path / "prior.npz")]
    assert modes[0] == modes[1]


# -- files that cannot be read -----------------------------------------------------------------


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.99, 0.9999])
def test_a_truncated_file(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: max(int(share * len(content)), 2)])
    with pytest.raises(disco.LoadError, match=f"{re.escape(str(path))}.*truncated or damaged"):
        disco.load(path)


def test_an_empty_file(path):
    path.write_bytes(b"")
    with pytest.raises(disco.LoadError, match="is empty.*Save the prior again"):
        disco.load(path)


@pytest.mark.parametrize("content", [b"P", b"hello, world\n", b"\x80\x04\x95 pickle", bytes(100)])
def test_a_file_of_something_else(path, content):
    path.write_bytes(content)
    with pytest.raises(disco.LoadError, match="not a prior saved by numpyro_disco"):
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


def change_description(path, **changes):
    description = json.loads(members(path)["description.json"]) | changes
    description = {key: value for key, value in description.items() if value is not ...}
    rewrite(path, {"description.json": json.dumps(description).encode()})


def test_a_newer_format(path):
    change_description(path, format_version=7)
    with pytest.raises(disco.LoadError, match="format version 7.*reads versions 2 to 6.*Upgrade"):
        disco.load(path)


def test_the_format_before_supports(tmp_path, relatives):
    path = tmp_path / "old.npz"
    disco.save(path, relatives["plain"])
    change_description(path, format_version=2, supports=...)
    assert disco.load(path).coordinate_supports.real


def test_the_format_before_shares(tmp_path, relatives):
    path = tmp_path / "old.npz"
    disco.save(path, relatives["plain"])
    network = json.loads(members(path)["description.json"])["network"]
    assert network.pop("defensive_share") == 0
    change_description(path, format_version=4, network=network)
    x = jnp.zeros(len(NAMES))
    assert disco.load(path).log_prob(x) == relatives["plain"].log_prob(x)


def test_a_share_of_another_meaning(tmp_path, relatives):
    path = tmp_path / "old.npz"
    disco.save(path, relatives["plain"])
    network = json.loads(members(path)["description.json"])["network"]
    change_description(path, format_version=5)
    assert disco.load(path).names == relatives["plain"].names
    change_description(path, format_version=5, network={**network, "defensive_share": 0.1})
    with pytest.raises(disco.LoadError, match="version 5 and a defensive share.*Fit and save"):
        disco.load(path)


def test_a_support_that_is_no_data(tmp_path, prior):
    odd = prior.replace(coordinate_supports=CoordinateSupports((constraints.circular,) * 3))
    with pytest.raises(ValueError, match="NumPyro's own constraints.*cannot be saved"):
        disco.save(tmp_path / "odd.npz", odd)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "supports",
    [[{"kind": "real"}], [{"kind": "os.system"}] * 3, [{"kind": "sinh_arcsinh", "map": [1]}] * 3],
)
def test_supports_that_make_no_sense(path, supports):
    change_description(path, supports=supports)
    with pytest.raises(disco.LoadError, match="damaged"):
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
def test_an_array_of_another_shape_that_the_description_agrees_with(path, name):
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
def test_absurd_descriptions(path, changes):
    change_description(path, **changes)
    with pytest.raises(disco.LoadError, match=re.escape(str(path))):
        disco.load(path)


def test_a_description_of_a_network_larger_than_memory(path):
    # Sizes must be compared with the arrays before anything of that size is made. XLA aborts the
    # whole process where an array cannot be, so the file is read in a process of its own.
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
def test_descriptions_that_are_no_description(path, content):
    rewrite(path, {"description.json": content})
    with pytest.raises(disco.LoadError):
        disco.load(path)


def test_arrays_that_are_not_finite(path):
    rewrite(path, {"reference.means.npy": npy(np.full((2, 3), np.nan, np.float32))})
    with pytest.raises(disco.LoadError):
        disco.load(path)


def test_any_flipped_bit_is_found_or_does_not_matter(path, relatives):
    """Whatever a disk or a network does to a file, the outcome is a `LoadError` or the prior."""
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    # The directory at the end of a zip file is its weak spot: its bytes have no checksum.
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
            description, arrays = storage._read(path)
        except disco.LoadError:
            continue
        assert description["names"] == list(NAMES)
        np.testing.assert_allclose(arrays["values"], [0.5, -0.5, 0.0])


# -- saving ------------------------------------------------------------------------------------


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


def test_saving_replaces_a_file_and_leaves_nothing_else(path, prior):
    disco.save(path, prior)
    assert_equal_priors(disco.load(path), prior)
    assert os.listdir(path.parent) == [path.name]


def test_saving_where_no_directory_is(tmp_path, prior):
    with pytest.raises(FileNotFoundError, match="missing"):
        disco.save(tmp_path / "missing" / "prior.npz", prior)


def test_energies_of_ones_own_are_not_saved(tmp_path):
    reference = disco.GaussianReference(np.zeros(2), np.eye(2))
    own = disco.EnergyDistribution(lambda x: x @ x, reference)
    with pytest.raises(ValueError, match="Only priors made by `fit`.*code is not data"):
        disco.save(tmp_path / "prior.npz", own)
    assert os.listdir(tmp_path) == []


def test_saving_what_is_no_prior(tmp_path, fitted):
    with pytest.raises(ValueError, match="got FitResult.*Save its `distribution`"):
        disco.save(tmp_path / "prior.npz", fitted)
    with pytest.raises(ValueError, match="Expected an `EnergyDistribution`.*got dict"):
        disco.save(tmp_path / "prior.npz", {})
    assert os.listdir(tmp_path) == []
