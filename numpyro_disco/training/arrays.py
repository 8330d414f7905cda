"""Stacks of arrays, such as images, as rows to learn from.

An array is one variable without a name. All its elements share one unit: noise, and so the
smoothing, has the same size everywhere, and elements that never vary, such as an empty border, do
no harm.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from numpyro_disco._statistics import selected
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.tables.columns import Real
from numpyro_disco.tables.variable import Variable
from numpyro_disco.tables.variables import Variables
from numpyro_disco.training.learning import PreparedRows
from numpyro_disco.training.network import UNet
from numpyro_disco.training.objectives import Disco
from numpyro_disco.training.objectives.disco import NoisyPointsObjective
from numpyro_disco.training.rows.row_weights import check_weights, with_mean_one
from numpyro_disco.training.rows.table import COARSE, Table
from numpyro_disco.training.settings import FitSettings

MIN_ARRAYS = 10
"""Fewest arrays to learn from."""
PARTIAL_NOISE = 0.5
"""Default share of the noisy points of which only some elements get more than the least noise."""
DENSITY_WEIGHT = 30.0
"""Default weight of the contrastive loss beside that of the slopes. Slopes of many elements weigh
much and do not see the masses of modes, which the contrastive loss does."""
NOISE_SCALE = 0.1
"""Default smoothing of arrays, in units of the root mean square deviation of their elements."""


def is_stack_of_arrays(data: Any) -> bool:
    """True for arrays with at least three axes: rows that are arrays themselves.

    Raises:
        ValueError: draws of one variable as an xarray object, whose chains are no rows.
    """
    if not hasattr(data, "__array__") or getattr(data, "ndim", 0) < 3:
        return False
    if {"chain", "draw"} <= set(getattr(data, "dims", ())):
        raise ValueError(
            "Expected a dataset of draws for `data`, or an array with one row for each draw; got "
            f"an xarray object with dimensions {data.dims}. Give `data.to_dataset(name=...)`, or "
            "its numbers, reshaped."
        )
    return True


def array_defaults(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `fit` for arrays, with an objective and a network where none was given."""
    found = dict(given)
    if found["objective"] in (None, "disco"):
        scale = NOISE_SCALE if found["noise_scale"] is None else found["noise_scale"]
        found |= {"objective": Disco(noise_scale=scale), "noise_scale": None}
    if found["network"] is None:
        found["network"] = UNet()
    return found


def read_arrays(data: Any, names: Any, weights: Any) -> tuple[Table, Variables]:
    """Parse a stack of arrays; those of weight zero and those without a number are left out.

    Args:
        data: array (N,) + shape of numbers; NaN, or a mask, where an element is missing.
        names: must be None.
        weights: weights of the arrays, shape (N,), or None.

    Raises:
        ValueError: names, entries that are not numbers, infinite ones, too few arrays, or arrays
            that are all equal.
    """
    if names is not None:
        raise ValueError(
            "Expected no `names` for arrays, whose elements are called '[0,0]', '[0,1]', ...; got "
            f"{names!r}."
        )
    stack = np.ma.masked_array(np.ma.asarray(data))
    if stack.dtype.kind not in "biuf" or 0 in stack.shape:
        raise ValueError(
            f"Expected real numbers for `data`; got shape {stack.shape} of {stack.dtype}."
        )
    shape = stack.shape[1:]
    values = np.ma.filled(stack.astype(np.float64), np.nan).reshape(len(stack), -1)
    if np.isinf(values).any():
        raise ValueError("Expected finite numbers, or NaN where one is missing, in `data`.")
    checked = None if weights is None else check_weights(weights, len(values))
    kept = np.asarray(~np.isnan(values).all(axis=1))
    if checked is not None:
        kept &= checked > 0
    values = values[kept]
    if len(values) < MIN_ARRAYS:
        raise ValueError(f"Expected at least {MIN_ARRAYS} arrays in `data`; got {len(values)}.")
    variables = Variables((Variable("", shape),))
    never = np.flatnonzero(np.isnan(values).all(axis=0))
    if len(never):
        raise ValueError(
            f"Expected each element of the arrays in `data` to be known in some; {len(never)} are "
            f"in none: {_some(variables.names, never)}. Cut them off, or give them a value."
        )
    _check_spread(values)
    dimension = values.shape[1]
    table = Table(
        values,
        variables.names,
        (constraints.real,) * dimension,
        (Real(),) * dimension,
        with_mean_one(selected(checked, kept)),
    )
    return table, variables


def _some(names: tuple[str, ...], places: np.ndarray) -> str:
    """The first few of these names."""
    return ", ".join(names[place] for place in places[:3]) + ", ..." * (len(places) > 3)


def _check_spread(values: np.ndarray) -> None:
    """Refuse arrays that do not vary, or whose variation single precision cannot hold."""
    spread = np.sqrt(np.nanmean((values - np.nanmean(values)) ** 2))
    loc, within = np.abs(np.nanmean(values)), np.nanstd(values - np.nanmean(values, axis=0))
    eps, tiny = jnp.finfo(jnp.result_type(float)).eps, np.finfo(np.float32).tiny
    if not within > 0 or within**2 < tiny or eps * (loc + spread) > COARSE * NOISE_SCALE * within:
        raise ValueError(
            "Expected arrays in `data` that vary, and whose variation is not lost in the rounding "
            f"of {jnp.result_type(float)}; their standard deviation is {within:.2g} about numbers "
            f"of {loc + spread:.2g}. Subtract an origin, or give them in another unit."
        )


def prepare_arrays(
    table: Table, settings: FitSettings, leaves_out: bool
) -> tuple[FitSettings, PreparedRows]:
    """Settings with the defaults of arrays, and the rows to learn from.

    Args:
        table: one row for each array.
        settings: settings of the fit.
        leaves_out: True if arrays with missing elements are left out.

    Raises:
        ValueError: settings that arrays cannot have.
    """
    objective = settings.objective
    if not isinstance(objective, NoisyPointsObjective) or objective.is_contrastive:
        raise ValueError(
            "Expected `disco.Disco(...)` or `disco.DiscoScore(...)` as the `objective` for arrays; "
            f"got {type(objective).__name__}."
        )
    if settings.supports or settings.transform is not None:
        raise ValueError("Expected neither `supports` nor a `transform` for arrays.")
    partial_noise = PARTIAL_NOISE if objective.partial_noise is None else objective.partial_noise
    target = objective.target or "row"
    objective = dataclasses.replace(objective, partial_noise=partial_noise, target=target)
    if isinstance(objective, Disco) and target == "row" and objective.density_weight is None:
        objective = dataclasses.replace(objective, density_weight=DENSITY_WEIGHT)
    kept = ~table.incomplete if leaves_out else np.ones(len(table.values), bool)
    if kept.sum() < MIN_ARRAYS:
        raise ValueError(
            f"Expected at least {MIN_ARRAYS} complete arrays in `data`; got {kept.sum()} of "
            f"{len(kept)}. Arrays with missing elements take part if `missing` is not 'complete'."
        )
    prepared = PreparedRows(
        table.values[kept],
        table.names,
        CoordinateSupports(table.supports),
        table.columns,
        weights=selected(table.weights, kept),
    )
    return dataclasses.replace(settings, objective=objective), prepared
