"""Figures of a learned prior: its conditionals, and its draws against rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from numpyro_disco._checks import check_count, check_key, name_index
from numpyro_disco._typing import Array
from numpyro_disco.diagnostics.panels import (
    Shown,
    draw_marginal,
    draw_pair,
    entry_text,
    given_axes,
    label_axis,
    pyplot,
    shown_columns,
)
from numpyro_disco.diagnostics.plots import MAX_COLUMNS, draw_pairs
from numpyro_disco.energy.conditionals import draw_conditionals
from numpyro_disco.energy.distribution import EnergyDistribution, check_prior
from numpyro_disco.energy.drawing import particles_for
from numpyro_disco.energy.pattern import Pattern

MAX_GIVEN = 6
"""Most conditioning values that a title names."""


def plot_conditional(
    rng_key: Array,
    prior: EnergyDistribution,
    observed: Any,
    columns: str | Sequence[str] | None = None,
    *,
    rows: Any = None,
    num_nearest: int = 100,
    draws: Any = None,
    num_samples: int = 1000,
    ax: Any = None,
) -> Any:
    """Draw one or two columns given others, with the rows nearest to the condition.

    Draws are outlined: a histogram for one column, contours around half and nine tenths of them for
    two. Rows are filled. Give rows that the prior was not trained on: they are not draws of the
    conditional, because what is conditioned on differs from row to row, but they show where it
    should be. Needs matplotlib, the `plots` extra.

    Args:
        rng_key: random key.
        prior: the `EnergyDistribution`.
        observed: what is known, for one row: as for `sample_conditional`.
        columns: names of one or two free columns; the first two by default, or the only one.
        rows: held-out rows, as a DataFrame, a dict of columns or an array (rows, D); none by
            default.
        num_nearest: how many rows are drawn: those nearest in the columns conditioned on, in
            units of their standard deviations; levels have to be equal.
        draws: draws of the conditional that another method made, shape (n, D), to show in place of
            the prior's.
        num_samples: number of draws of the prior.
        ax: matplotlib axes; new ones by default.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: unknown or conditioned `columns`, other than one row in `observed`, or a prior
            over arrays such as images.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro_disco as disco
        >>> q = disco.GaussianReference(jnp.zeros(2), 9 * jnp.eye(2))
        >>> prior = disco.EnergyDistribution(lambda x: 0.5 * (x @ x), q, names=("a", "b"))
        >>> ax = disco.plot_conditional(jax.random.key(0), prior, {"a": 0.3}, num_samples=50)
        >>> ax.get_xlabel()
        'b'
    """
    _check_table(prior)
    check_count(num_samples, "num_samples")
    check_count(num_nearest, "num_nearest")
    given = prior.with_clamped(prior.pattern(observed))
    if not given.is_single:
        raise ValueError("Expected one row for `observed`; got several. Draw one after the other.")
    known = np.asarray(given.observed)
    places = _free_places(prior, columns, known)
    condition = given.as_rows("observed")
    rng_key = check_key(rng_key)
    if draws is None:
        count = particles_for(num_samples)
        draws = draw_conditionals(rng_key, prior, condition, num_samples, count).draws[:, 0]
    near = np.zeros((0, len(prior.names)))
    if rows is not None:
        near = _nearest(prior, prior.pattern(rows, "rows"), condition, num_nearest)
    shown = _shown(prior, near, np.asarray(draws), places)
    (ax,) = given_axes(ax, 1, (5.5, 4))
    labels = (f"the {len(near)} nearest rows", "draws")
    if len(shown) == 1:
        draw_marginal(ax, shown[0], labels)
    else:
        draw_pair(ax, shown[0], shown[1], labels)
    for side, column in zip((ax.xaxis, ax.yaxis), shown, strict=False):
        label_axis(side, column)
    ax.set_title(_title(prior, np.asarray(given.values), known), fontsize="medium")
    if len(shown) == 1:
        ax.set_ylim(top=1.2 * ax.get_ylim()[1])  # room for the legend
    ax.legend(loc="upper center" if len(shown) == 1 else "best", ncols=3 - len(shown))
    return ax


def plot_pairs(
    rng_key: Array,
    prior: EnergyDistribution,
    rows: Any,
    columns: Sequence[str] | None = None,
    *,
    num_samples: int = 1000,
) -> Any:
    """Draw rows and draws of a prior against each other, in pairs of columns.

    Rows are filled and draws are outlined, by histograms and by contours around half and nine
    tenths of the draws. Use rows that the prior was not trained on. Needs matplotlib, the `plots`
    extra.

    Args:
        rng_key: random key.
        prior: the `EnergyDistribution`.
        rows: a DataFrame, a dict of columns or an array (rows, D); NaN where missing.
        columns: names of the columns to draw; the first five that are not clamped by default.
        num_samples: number of draws.

    Returns:
        The matplotlib figure.

    Raises:
        ValueError: unknown or clamped `columns`, or a prior over arrays such as images.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro_disco as disco
        >>> q = disco.GaussianReference(jnp.zeros(2), 9 * jnp.eye(2))
        >>> prior = disco.EnergyDistribution(lambda x: 0.5 * (x @ x), q, names=("a", "b"))
        >>> rows = jax.random.normal(jax.random.key(1), (50, 2))
        >>> len(disco.plot_pairs(jax.random.key(0), prior, rows, num_samples=50).axes)
        3
    """
    _check_table(prior)
    known = np.asarray(prior.observed)
    if columns is None:
        columns = [name for name, held in zip(prior.names, known, strict=True) if not held]
        columns = columns[:MAX_COLUMNS]
    places = _free_places(prior, columns, known, most=len(prior.names))
    given = prior.pattern(rows, "rows")
    values = np.where(given.observed, given.values, np.nan)
    count = check_count(num_samples, "num_samples")
    everything_free = prior.clamped.as_rows("prior")
    drawn = draw_conditionals(
        check_key(rng_key), prior, everything_free, count, particles_for(count)
    )
    shown = _shown(prior, values, np.asarray(drawn.draws[:, 0]), places)
    size = max(4.5, 2.1 * len(shown))
    figure = pyplot().figure(figsize=(size, 0.9 * size), layout="constrained")
    draw_pairs(figure, shown, ("rows", "draws"))
    return figure


def _check_table(prior: Any) -> None:
    """Require a prior over named numbers."""
    check_prior(prior)
    if len(prior.event_shape) != 1 or prior.batch_shape != ():
        raise ValueError(
            "Expected a `prior` over one row of a table; got one over arrays or a batch of rows. "
            "Draw with `sample_conditional`, and plot the draws."
        )


def _free_places(
    prior: EnergyDistribution, columns: str | Sequence[str] | None, known: np.ndarray, most: int = 2
) -> list[int]:
    """Positions of the columns to draw."""
    if columns is None:
        columns = [name for name, held in zip(prior.names, known, strict=True) if not held][:most]
    columns = [columns] if isinstance(columns, str) else list(columns)
    places = [name_index(name, prior.names, "columns") for name in columns]
    if not 1 <= len(places) <= most or known[places].any():
        fixed = [name for name, held in zip(prior.names, known, strict=True) if held]
        raise ValueError(
            f"Expected one to {most} free `columns`; got {tuple(columns)}, where {tuple(fixed)} "
            "are conditioned on."
        )
    return places


def _nearest(prior: EnergyDistribution, rows: Pattern, condition: Pattern, count: int) -> Any:
    """Rows nearest to a condition in what it observes, NaN where missing, shape (<= count, D)."""
    known = np.asarray(condition.observed)[0]
    values = np.where(rows.observed, rows.values, np.nan)
    values = values[np.isfinite(values[:, known]).all(axis=1)]
    target = np.asarray(condition.values)[0]
    levels = known & np.asarray(prior.coordinate_supports.discrete)
    values = values[(values[:, levels] == target[levels]).all(axis=1)]
    real = known & ~levels
    if not real.any() or len(values) <= count:
        return values[:count]
    deviations = values[:, real].std(axis=0)
    steps = (values[:, real] - target[real]) / np.where(deviations > 0, deviations, 1.0)
    distances = (steps**2).sum(axis=1)
    return values[np.argsort(distances, kind="stable")[:count]]


def _shown(
    prior: EnergyDistribution, rows: np.ndarray, draws: np.ndarray, places: list[int]
) -> list[Shown]:
    """The columns at some positions, as they are drawn."""
    return shown_columns(
        [prior.names[place] for place in places],
        [prior.columns[place] for place in places],
        np.asarray(prior.coordinate_supports.discrete)[places],
        rows[:, places],
        draws[:, places],
    )


def _title(prior: EnergyDistribution, values: np.ndarray, known: np.ndarray) -> str:
    """The condition in words."""
    places = np.flatnonzero(known)
    texts = [
        f"{prior.names[place]} = {entry_text(prior.columns[place], values[place])}"
        for place in places[:MAX_GIVEN]
    ]
    if len(places) > MAX_GIVEN:
        texts.append(f"{len(places) - MAX_GIVEN} more")
    lines = [", ".join(texts[start : start + 3]) for start in range(0, len(texts), 3)]
    return "given " + ",\n".join(lines) if lines else "nothing given"
