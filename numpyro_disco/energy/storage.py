"""A learned prior as arrays and a readable description, and back."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from numpyro_disco._numpyro import with_batch_shape
from numpyro_disco._typing import Array, Pytree
from numpyro_disco.energy.archive import LoadError, damage_reported
from numpyro_disco.energy.autoregressive import AutoregressiveNetwork
from numpyro_disco.energy.convolutions import EnergyUNet
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.energy.learned import LearnedEnergy
from numpyro_disco.energy.networks import EnergyNetwork
from numpyro_disco.energy.support_codes import decode_support, encode_support
from numpyro_disco.references.base import Reference
from numpyro_disco.references.gaussian import GaussianReference
from numpyro_disco.references.mixed import MixedReference
from numpyro_disco.references.mixture import MixtureReference
from numpyro_disco.tables.columns import column_from_json
from numpyro_disco.tables.variables import Variables

FORMAT = "numpyro_disco.prior"
FORMAT_VERSION = 7
VERSIONS = range(2, FORMAT_VERSION + 1)
"""Versions that can be read: 2 has no supports, 3 no sinh-arcsinh maps, 4 no defensive shares, 5
gave such a share another meaning, so it is read only without one, and 6 has neither columns nor
discrete coordinates nor variables."""
OPTIONAL = ("values", "log_normalizer", "log_normalizer_error", "noise_scale")
"""Attributes of a distribution that may be None."""
REFERENCE_FIELDS = {
    "GaussianReference": ("mean_", "covariance"),
    "MixtureReference": ("log_weights", "means", "covariances"),
    "MixedReference": ("log_weights", "means", "covariances", "log_probabilities"),
}
"""Arrays of each kind of reference."""
NETWORKS: dict[str, Callable[..., nnx.Module]] = {
    kind.__name__: kind for kind in (EnergyNetwork, EnergyUNet, AutoregressiveNetwork)
}
"""Kinds of networks by name."""

Arrays = Mapping[str, np.ndarray]


def restore(
    path: str | os.PathLike[str], description: Mapping[str, Any], arrays: Arrays
) -> EnergyDistribution:
    """Rebuild a prior from an archive that has been read.

    Args:
        path: the file, for messages.
        description: the description in the archive.
        arrays: the arrays in the archive, by name.

    Raises:
        LoadError: contents that do not fit together, or whose meaning has changed.
    """
    with damage_reported(path):
        changed = description["format_version"] == 5 and description["network"]["defensive_share"]
    if changed:
        raise LoadError(
            f"'{path}' has format version 5 and a defensive share, whose meaning has changed since "
            "then. Fit and save the prior again."
        )
    with damage_reported(path):
        return rebuild_prior(description, arrays)


def describe_prior(prior: EnergyDistribution) -> tuple[dict[str, Any], dict[str, Any]]:
    """Everything that makes a learned prior, as JSON and arrays.

    Args:
        prior: an `EnergyDistribution` whose energy was learned by `fit`.

    Returns:
        A description that JSON can hold, and arrays by name; `rebuild_prior` takes both.

    Raises:
        ValueError: an energy function of the user's own, or a support that is not NumPyro's.
    """
    energy = prior.energy_fn
    if not isinstance(energy, LearnedEnergy):
        raise ValueError(
            "Expected a prior made by `fit`; got one with an energy function of your own, and code "
            "is not saved as data. Save the arrays of your function, and make the distribution "
            "anew from them."
        )
    arrays: dict[str, Any] = {
        "energy.loc": energy.loc,
        "energy.whitener": energy.whitener,
        "energy.log_det": energy.log_det,
        "loc": prior.loc,
        "scale": prior.scale,
        "inverse_temperature": prior.inverse_temperature,
    }
    for field in OPTIONAL:
        if getattr(prior, field) is not None:
            arrays[field] = getattr(prior, field)
    references = {"energy.reference": energy.reference, "reference": prior.joint_reference}
    kinds = {prefix: type(reference).__name__ for prefix, reference in references.items()}
    for prefix, reference in references.items():
        for field in REFERENCE_FIELDS[kinds[prefix]]:
            arrays[f"{prefix}.{field}"] = getattr(reference, field)
    for place, leaf in jax.tree_util.tree_leaves_with_path(energy.weights):
        arrays[_weight_name(place)] = leaf
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "names": list(prior.names),
        "observed": list(prior.observed),
        "variables": None if prior.variables is None else prior.variables.to_json(),
        "supports": [encode_support(s) for s in prior.coordinate_supports.supports],
        "columns": [column.to_json() for column in prior.columns],
        "references": kinds,
        "num_levels": list(prior.coordinate_supports.num_levels),
        "network": nnx.merge(energy.graph, energy.weights).settings,
    }
    return description, arrays


def rebuild_prior(description: Mapping[str, Any], arrays: Arrays) -> EnergyDistribution:
    """The prior of which `describe_prior` made a description and arrays.

    Args:
        description: the description; unknown entries are ignored.
        arrays: the arrays by name; unknown ones are ignored.

    Returns:
        An `EnergyDistribution`.

    Raises:
        Exception: any error in `archive.DAMAGE` where description and arrays do not fit together.
            Call it under `archive.damage_reported`.
    """
    names, observed = description["names"], description["observed"]
    if not (isinstance(names, list) and isinstance(observed, list)):
        raise ValueError("`names` and `observed` are not lists")
    supports = description.get("supports", [{"kind": "real"}] * len(names))
    if len(supports) != len(names):
        raise ValueError("`supports` does not fit `names`")
    columns = map(column_from_json, description.get("columns", []))
    prior = EnergyDistribution(
        _energy(description, arrays),
        _reference(description, "reference", arrays),
        names=names,
        supports={name: decode_support(s) for name, s in zip(names, supports, strict=True)},
        columns=dict(zip(names, columns, strict="columns" in description)),
        loc=arrays["loc"],
        scale=arrays["scale"],
    )
    optional = {f: jnp.asarray(arrays[f]) if f in arrays else None for f in OPTIONAL}
    batch_shape = _check_state(observed, arrays["inverse_temperature"], optional, len(names))
    prior = prior.replace(
        observed=tuple(observed),
        inverse_temperature=jnp.asarray(arrays["inverse_temperature"]),
        **optional,
    )
    if description.get("variables") is not None:
        variables = Variables.from_json(description["variables"])
        if variables.names != prior.names:
            raise ValueError("`variables` do not fit `names`")
        prior = prior.over(variables)
    return with_batch_shape(prior, batch_shape)


def _energy(description: Mapping[str, Any], arrays: Arrays) -> LearnedEnergy:
    # Shapes only: the sizes in the description are compared with the arrays before any memory of
    # such a size is allocated.
    sizes = dict(description["network"])
    make = NETWORKS[sizes.pop("kind", EnergyNetwork.__name__)]
    network = nnx.eval_shape(lambda: make(**sizes, rngs=nnx.Rngs(0)))
    graph, fresh = nnx.split(network)

    def weight(place: Any, leaf: Pytree) -> Array:
        array = arrays[_weight_name(place)]
        if array.shape != leaf.shape:
            raise ValueError(f"{_weight_name(place)} has shape {array.shape}")
        return jnp.asarray(array)

    return LearnedEnergy(
        weights=jax.tree_util.tree_map_with_path(weight, fresh),
        reference=_reference(description, "energy.reference", arrays),
        loc=jnp.asarray(arrays["energy.loc"]),
        whitener=jnp.asarray(arrays["energy.whitener"]),
        log_det=jnp.asarray(arrays["energy.log_det"]),
        graph=graph,
    )


def _weight_name(place: Any) -> str:
    return "weights" + jax.tree_util.keystr(place)


def _reference(description: Mapping[str, Any], prefix: str, arrays: Arrays) -> Reference:
    kind = description["references"][prefix]
    fields = [arrays[f"{prefix}.{field}"] for field in REFERENCE_FIELDS[kind]]
    if kind == "GaussianReference":
        return GaussianReference(*fields)
    log_weights, means, covariances = (jnp.asarray(field) for field in fields[:3])
    if kind == "MixtureReference":
        return MixtureReference.from_log_weights(log_weights, means, covariances)
    num_levels = tuple(map(int, description["num_levels"]))
    return MixedReference.from_log_weights(
        log_weights, means, covariances, jnp.asarray(fields[3]), num_levels
    )


def _check_state(
    observed: list[Any],
    inverse_temperature: np.ndarray,
    optional: Mapping[str, Array | None],
    dimension: int,
) -> tuple[int, ...]:
    """Check what is clamped, tempered and normalised, and return the batch shape."""
    values = optional["values"]
    batch_shape = () if values is None else values.shape[:-1]
    normalizers = (optional["log_normalizer"], optional["log_normalizer_error"])
    if not (
        len(observed) == dimension
        and all(isinstance(one, bool) for one in observed)
        and not all(observed)
        and any(observed) == (values is not None)
        and (values is None or values.shape[-1:] == (dimension,))
        and inverse_temperature.shape == ()
        and inverse_temperature > 0
        and all(array is None or array.shape == batch_shape for array in normalizers)
    ):
        raise ValueError("what is clamped, tempered or normalised does not fit the names")
    return batch_shape
