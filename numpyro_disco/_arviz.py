"""Conversion of draws to ArviZ objects: `InferenceData` in ArviZ 0.x, `DataTree` in 1.x."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from numpyro_disco._checks import unused_name


def is_old(az: Any) -> bool:
    """True if the module `az` is ArviZ 0.x, whose objects hold groups as attributes.

    The version decides: from 1.3 on, `arviz.InferenceData` is another name of the tree.
    """
    return az.__version__.startswith("0.")


def get_group(az: Any, data: Any, group: str) -> Any:
    """The dataset of a group."""
    return data[group] if is_old(az) else data[group].to_dataset()


def set_group(az: Any, data: Any, group: str, dataset: Any) -> None:
    """Put a dataset in the place of that of a group."""
    if is_old(az):
        setattr(data, group, dataset)
    else:
        data[group].dataset = dataset


def storable_names(names: Iterable[str]) -> dict[str, str]:
    """New names for the variables whose names ArviZ cannot store, with a warning.

    ArviZ 1.x stores variables in a tree, and netCDF files are one: there "/" separates the levels.

    Args:
        names: names of all variables.

    Returns:
        A dict from each name that holds "/" to one that does not and is not used by another.
    """
    renamed: dict[str, str] = {}
    taken = set(names)
    for name in sorted(name for name in taken if "/" in name):
        renamed[name] = unused_name(name.replace("/", "_"), taken)
        taken.add(renamed[name])
    if renamed:
        warnings.warn(
            f"ArviZ cannot store names with '/'; these variables are renamed: {renamed}.",
            stacklevel=3,
        )
    return renamed


def from_group(
    group: str, draws: Mapping[str, Any], coords: Mapping[str, Any], dims: Mapping[str, list[str]]
) -> Any:
    """An ArviZ object with one group.

    Args:
        group: name of the group, such as "posterior".
        draws: arrays with leading axes (chain, draw), by variable.
        coords: labels of each dimension.
        dims: names of the dimensions of each variable after chain and draw.
    """
    import arviz as az

    if not is_old(az):
        return az.from_dict({group: dict(draws)}, coords=dict(coords), dims=dict(dims))
    data = az.from_dict(posterior=dict(draws), coords=dict(coords), dims=dict(dims))
    if group != "posterior":
        data.add_groups({group: data.posterior})
        del data.posterior
    return data


def tables_to_arviz(tables: jax.Array, names: Sequence[str], rows: Sequence[str] | None) -> Any:
    """Imputed tables as the variable "table" of the posterior, one chain.

    Args:
        tables: array (num_imputations, rows, D).
        names: names of the D columns.
        rows: labels of the rows; 0, 1, ... if None.
    """
    labels = list(range(tables.shape[1])) if rows is None else list(rows)
    return from_group(
        "posterior",
        {"table": np.asarray(tables)[None]},
        {"row": labels, "column": list(names)},
        {"table": ["row", "column"]},
    )


def ranks_to_arviz(ranks: Mapping[str, np.ndarray]) -> Any:
    """Calibration ranks as the group "prior_sbc", one chain.

    Args:
        ranks: arrays (rows,) of numbers in [0, 1], by name.
    """
    renamed = storable_names(ranks)
    draws = {renamed.get(name, name): np.asarray(rank)[None] for name, rank in ranks.items()}
    return from_group("prior_sbc", draws, {}, {})
