"""Draws as labelled ArviZ objects: an `InferenceData` of ArviZ 0.x, a `DataTree` of 1.x."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np


def is_old(az: Any) -> bool:
    """ArviZ 0.x holds groups as attributes of an `InferenceData`, 1.x as branches of a tree.

    From 1.3 the old name stands for the tree, so names do not tell the two apart.
    """
    return az.__version__.startswith("0.")


def from_group(
    group: str, draws: Mapping[str, Any], coords: Mapping[str, Any], dims: Mapping[str, list[str]]
) -> Any:
    """Draws with leading axes (chain, draw) as an ArviZ object with one group."""
    import arviz as az

    if not is_old(az):
        return az.from_dict({group: dict(draws)}, coords=dict(coords), dims=dict(dims))
    data = az.from_dict(posterior=dict(draws), coords=dict(coords), dims=dict(dims))
    if group != "posterior":
        data.add_groups({group: data.posterior})
        del data.posterior
    return data


def tables_to_arviz(tables: jax.Array, names: Sequence[str], rows: Sequence[str] | None) -> Any:
    """Completed tables (num_imputations, rows, D), as the variable "table" of one chain."""
    labels = list(range(tables.shape[1])) if rows is None else list(rows)
    return from_group(
        "posterior",
        {"table": np.asarray(tables)[None]},
        {"row": labels, "column": list(names)},
        {"table": ["row", "column"]},
    )


def ranks_to_arviz(ranks: Mapping[str, np.ndarray]) -> Any:
    """Ranks in [0, 1], one array (rows,) for each name, as the group "prior_sbc"."""
    return from_group("prior_sbc", {k: np.asarray(r)[None] for k, r in ranks.items()}, {}, {})
