"""Saving and loading a learned prior: arrays and a readable description, no code, no pickle.

A saved prior is one zip file of NumPy arrays (an .npz, which NumPy itself opens) with one more
member, `description.json`: what the arrays are, and in which version of the format. Loading reads
numbers and text only; nothing in a file can run.
"""

from __future__ import annotations

import io
import json
import os
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpyro.distributions import constraints

from numpyro_disco._numpyro import with_batch_shape
from numpyro_disco._typing import Pytree
from numpyro_disco.energy.distribution import EnergyDistribution, check_prior
from numpyro_disco.energy.learned import LearnedEnergy
from numpyro_disco.energy.networks import EnergyNetwork
from numpyro_disco.references.base import Reference
from numpyro_disco.references.gaussian import GaussianReference
from numpyro_disco.references.mixture import MixtureReference
from numpyro_disco.supports.sinh_arcsinh import SinhArcsinhReal

FORMAT = "numpyro_disco.prior"
FORMAT_VERSION = 6
OLDEST_VERSION = 2
"""Read as well: 2 knows no supports, 3 no sinh-arcsinh maps, 4 no defensive shares; 5 understood
such a share otherwise, and is read where there is none."""
SINGLE_CONSTRAINTS = ("real", "positive", "nonnegative", "softplus_positive", "unit_interval")
FAMILIES = (
    "interval",
    "open_interval",
    "greater_than",
    "greater_than_eq",
    "less_than",
    "less_than_eq",
)
"""NumPyro's constraints on one number without and with bounds, by name."""
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
"""What Python's own readers raise on bytes that are not what they say; NotImplementedError and
RecursionError are RuntimeErrors."""
_OPTIONAL = ("values", "log_normalizer", "log_normalizer_error", "noise_scale")


class LoadError(ValueError):
    """A file that does not hold a prior that this version can read; the message says why."""


def save(path: str | os.PathLike[str], prior: EnergyDistribution) -> None:
    """Write a learned prior to one file.

    The file is written whole under another name first and then moved into place, so an earlier
    file at `path` survives whatever goes wrong.

    Args:
        path: where to; conventionally "name.npz".
        prior: the distribution of a fit, clamped, tempered or normalised as it may be.

    Raises:
        ValueError: a distribution around an energy function of the user's own, whose code cannot
            be saved as data.
        OSError: the file cannot be written.
    """
    check_prior(prior, "Save its `distribution`.")
    energy = prior.energy_fn
    if not isinstance(energy, LearnedEnergy):
        raise ValueError(
            "Only priors made by `fit` can be saved: this one is around an energy function of your "
            "own, and code is not data. Save the arrays of your function, and make the "
            "distribution anew from them."
        )
    arrays: dict[str, Any] = {
        "energy.loc": energy.loc,
        "energy.whitener": energy.whitener,
        "energy.log_det": energy.log_det,
        "loc": prior.loc,
        "scale": prior.scale,
        "inverse_temperature": prior.inverse_temperature,
    }
    for field in _OPTIONAL:
        if getattr(prior, field) is not None:
            arrays[field] = getattr(prior, field)
    kinds = {}
    for prefix, reference in (
        ("energy.reference", energy.reference),
        ("reference", prior.joint_reference),
    ):
        kinds[prefix] = type(reference).__name__
        for field in _reference_fields(kinds[prefix]):
            arrays[f"{prefix}.{field}"] = getattr(reference, field)
    for place, leaf in jax.tree_util.tree_leaves_with_path(energy.weights):
        arrays["weights" + jax.tree_util.keystr(place)] = leaf
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "names": list(prior.names),
        "observed": list(prior.observed),
        "supports": [_describe_support(s) for s in prior.coordinate_supports.supports],
        "references": kinds,
        "network": nnx.merge(energy.graph, energy.weights).settings,
        "arrays": {name: list(np.shape(array)) for name, array in arrays.items()},
    }
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            archive.writestr("description.json", json.dumps(description, indent=2))
            for name, array in arrays.items():
                buffer = io.BytesIO()
                np.save(buffer, np.asarray(array), allow_pickle=False)
                archive.writestr(f"{name}.npy", buffer.getvalue())
        # `mkstemp` makes files that only their owner can read; a prior is as public as its folder.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike[str]) -> EnergyDistribution:
    """Read a prior that `save` wrote. Nothing in the file is executed.

    Args:
        path: the file.

    Returns:
        The `EnergyDistribution`, equal to the one saved.

    Raises:
        FileNotFoundError: no file there.
        LoadError: a file that is truncated or damaged, that is something else, or that a newer
            version of this package wrote; the message says which.
    """
    path = Path(path)
    description, arrays = _read(path)
    try:
        return _rebuild(description, arrays)
    except DAMAGE as error:
        raise LoadError(
            f"'{path}' is damaged: its description and its arrays do not fit together ({error})."
        ) from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The description and the arrays, or a `LoadError` that says what the file is instead."""
    foreign = f"'{path}' is not a prior saved by numpyro_disco"
    with open(path, "rb") as file:
        start = file.read(4)
    if not start:
        raise LoadError(f"'{path}' is empty: it was truncated. Save the prior again.")
    if start[:2] != b"PK":
        raise LoadError(f"{foreign}: it is not a zip file of arrays.")
    try:
        with zipfile.ZipFile(path) as archive:
            members = set(archive.namelist())
            if "description.json" not in members:
                raise LoadError(f"{foreign}: it is an archive without `description.json`.")
            description = json.loads(archive.read("description.json"))
            if not isinstance(description, dict) or description.get("format") != FORMAT:
                raise LoadError(f"{foreign}: its description is of something else.")
            version = description.get("format_version")
            if version not in range(OLDEST_VERSION, FORMAT_VERSION + 1):
                newer = not isinstance(version, int) or version > FORMAT_VERSION
                remedy = "Upgrade numpyro_disco." if newer else "Fit and save the prior again."
                raise LoadError(
                    f"'{path}' has format version {version}; this numpyro_disco reads versions "
                    f"{OLDEST_VERSION} to {FORMAT_VERSION}. {remedy}"
                )
            if version == 5 and description["network"]["defensive_share"]:
                raise LoadError(
                    f"'{path}' has format version 5 and a defensive share, which meant something "
                    "else then. Fit and save the prior again."
                )
            arrays = {}
            for name, shape in description["arrays"].items():
                if f"{name}.npy" not in members:
                    raise LoadError(f"'{path}' is damaged: the array {name!r} is missing.")
                buffer = io.BytesIO(archive.read(f"{name}.npy"))
                arrays[name] = np.load(buffer, allow_pickle=False)
                if list(arrays[name].shape) != shape:
                    raise LoadError(
                        f"'{path}' is damaged: the array {name!r} has shape {arrays[name].shape}, "
                        f"its description says {shape}."
                    )
    except LoadError:
        raise
    except DAMAGE as error:
        raise LoadError(
            f"'{path}' is truncated or damaged ({error}). Save the prior again."
        ) from error
    return description, arrays


def _rebuild(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> EnergyDistribution:
    # Shapes only: sizes that a file claims are held against its arrays before any memory is taken.
    network = nnx.eval_shape(lambda: EnergyNetwork(**description["network"], rngs=nnx.Rngs(0)))
    graph, fresh = nnx.split(network)
    kinds = description["references"]

    def weight(place: Any, leaf: Pytree) -> Any:
        array = arrays["weights" + jax.tree_util.keystr(place)]
        if array.shape != leaf.shape:
            raise ValueError(f"weight {jax.tree_util.keystr(place)} has shape {array.shape}")
        return jnp.asarray(array)

    energy = LearnedEnergy(
        weights=jax.tree_util.tree_map_with_path(weight, fresh),
        reference=_reference(kinds["energy.reference"], "energy.reference", arrays),
        loc=jnp.asarray(arrays["energy.loc"]),
        whitener=jnp.asarray(arrays["energy.whitener"]),
        log_det=jnp.asarray(arrays["energy.log_det"]),
        graph=graph,
    )
    names, observed = description["names"], description["observed"]
    if not (isinstance(names, list) and isinstance(observed, list)):
        raise ValueError("`names` and `observed` are not lists")
    supports = description.get("supports", [{"kind": "real"}] * len(names))
    if len(supports) != len(names):
        raise ValueError("`supports` does not fit `names`")
    prior = EnergyDistribution(
        energy,
        _reference(kinds["reference"], "reference", arrays),
        names=names,
        supports={name: _support(s) for name, s in zip(names, supports, strict=True)},
        loc=arrays["loc"],
        scale=arrays["scale"],
    )
    optional = {f: jnp.asarray(arrays[f]) if f in arrays else None for f in _OPTIONAL}
    values = optional["values"]
    batch_shape = () if values is None else values.shape[:-1]
    normalizer = {arrays[f].shape for f in _OPTIONAL if f.startswith("log_") and f in arrays}
    if not (
        len(observed) == len(names)
        and all(isinstance(o, bool) for o in observed)
        and not all(observed)
        and any(observed) == (values is not None)
        and (values is None or values.shape[-1:] == (len(names),))
        and arrays["inverse_temperature"].shape == ()
        and arrays["inverse_temperature"] > 0
        and normalizer <= {batch_shape}
    ):
        raise ValueError("what is clamped, tempered or normalised does not fit the names")
    prior = prior.replace(
        observed=tuple(observed),
        inverse_temperature=jnp.asarray(arrays["inverse_temperature"]),
        **optional,
    )
    return with_batch_shape(prior, batch_shape)


def _describe_support(support: constraints.Constraint) -> dict[str, Any]:
    """Kind and bounds of a constraint, as JSON."""
    for kind in SINGLE_CONSTRAINTS:
        if type(support) is type(getattr(constraints, kind)):
            return {"kind": kind}
    for kind in FAMILIES:
        if type(support) is getattr(constraints, kind):
            return {"kind": kind, "bounds": _numbers(support)}
    if isinstance(support, SinhArcsinhReal):
        return {"kind": "sinh_arcsinh", "map": _numbers(support)}
    raise ValueError(
        f"Expected one of NumPyro's own constraints on one number as a support, "
        f"{SINGLE_CONSTRAINTS + FAMILIES}; got {support!r}, which cannot be saved as data."
    )


def _numbers(support: constraints.Constraint) -> list[float]:
    return [float(number) for number in jax.tree.leaves(support)]


def _support(description: dict[str, Any]) -> constraints.Constraint:
    kind = description["kind"]
    if kind in SINGLE_CONSTRAINTS:
        return getattr(constraints, kind)
    if kind in FAMILIES:
        return getattr(constraints, kind)(*map(float, description["bounds"]))
    if kind == "sinh_arcsinh":
        return SinhArcsinhReal(*map(float, description["map"]))
    raise ValueError(f"there is no support {kind!r}")


def _reference_fields(kind: str) -> tuple[str, ...]:
    fields = {
        "GaussianReference": ("mean_", "covariance"),
        "MixtureReference": ("log_weights", "means", "covariances"),
    }
    return fields[kind]


def _reference(kind: str, prefix: str, arrays: dict[str, np.ndarray]) -> Reference:
    fields = [arrays[f"{prefix}.{field}"] for field in _reference_fields(kind)]
    if kind == "GaussianReference":
        return GaussianReference(*fields)
    log_weights, means, covariances = fields
    return MixtureReference.from_log_weights(
        jnp.asarray(log_weights), jnp.asarray(means), jnp.asarray(covariances), None
    )
