"""Rows made ready to be learned from: checked, mapped to unconstrained space, standardised."""

from __future__ import annotations

import dataclasses
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from numpyro_disco._statistics import standard_error
from numpyro_disco._typing import Array
from numpyro_disco.references.fitting import MixtureFit, fit_reference
from numpyro_disco.references.mixture import MixtureReference
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.supports.sinh_arcsinh import fit_sinh_arcsinh
from numpyro_disco.training.settings import TrainingSettings

MIN_VARIANCE = 1e-6
"""Of a direction that is brought to unit variance, in squared deviations of the columns."""
MAX_SHARE = 0.1
"""Of the rows, that may have one and the same value in a column and still have a density there."""
TRIED_ROWS, TRIED_HELD_OUT, TRIED_COMPONENTS = 6000, 0.3, 16
"""Rows that choose a transform, the share of them that judges, and components of each mixture."""
SPIKE = 20
"""Rows of one value, as many times those of any other, of which `fit` warns."""


def check_ties(
    table: np.ndarray, names: tuple[str, ...], given: tuple[constraints.Constraint, ...]
) -> None:
    """Refuse continuous columns in which many rows share one value: there is no density there.

    Warn where it is less, but still a spike.
    """
    for name, support, column in zip(names, given, table.T, strict=True):
        if support.is_discrete:
            continue
        values, counts = np.unique(column[~np.isnan(column)], return_counts=True)
        share = counts.max() / counts.sum()
        if share > MAX_SHARE:
            whole = (values == np.round(values)).all()
            remedy = (
                "Say that it holds whole numbers, "
                f"`supports={{{name!r}: constraints.integer_interval({values[0]:.0f}, "
                f"{values[-1]:.0f})}}`"
                if whole
                else "Model it outside of the prior"
            )
            raise ValueError(
                f"Expected columns of `data` with a density; {share:.0%} of the rows have the "
                f"value {values[counts.argmax()]:g} in {name!r}, which has {len(values)} values "
                f"altogether. {remedy}; or give `noise_scale`, which smooths every column."
            )
        *_, second, most = np.sort(np.append(0, counts))
        if most >= SPIKE and most > SPIKE * second:
            warnings.warn(
                f"{most} rows of `data` have the value {values[counts.argmax()]:g} in {name!r}, "
                "which no other value comes near to: the prior will hold a very narrow mode there, "
                "in which samplers move slowly. If it stands for something else (below the limit "
                "of detection, not applicable), drop these rows or mark it with NaN.",
                stacklevel=3,
            )


def unconstrained_rows(
    rng_key: Array,
    table: np.ndarray,
    names: tuple[str, ...],
    given: tuple[constraints.Constraint, ...],
    transform: str | None = None,
) -> tuple[np.ndarray, CoordinateSupports]:
    """The rows in unconstrained space, whole numbers spread, and the supports of what came out.

    With a `transform`, the unconstrained space of a column that may be any real number is that of
    a map fitted to it.
    """
    table, found = table.copy(), list(given)
    for place, (name, support) in enumerate(zip(names, given, strict=True)):
        column = table[:, place]
        seen = column[~np.isnan(column)]
        outside = seen[~np.asarray(support(seen))]
        if len(outside):
            raise ValueError(
                f"Expected values of {name!r} in `data` to be in its support, {support!r}; "
                f"{len(outside)} of {len(seen)} are not, {outside[0]:g} among them."
            )
        if support.is_discrete:
            lower, upper = (getattr(support, f"{end}_bound", None) for end in ("lower", "upper"))
            if isinstance(support, type(constraints.boolean)):
                lower, upper = 0, 1
            key = jax.random.fold_in(rng_key, place)
            # Single precision draws multiples of 2^-23 from 0 on: half of one more is inside.
            within = np.asarray(jax.random.uniform(key, column.shape, np.float32), np.float64)
            table[:, place] += within + 2.0**-24 - 0.5
            found[place] = _around(lower, upper)
        elif transform == "sinh_arcsinh" and isinstance(support, type(constraints.real)):
            found[place] = fit_sinh_arcsinh(seen)
    supports = CoordinateSupports(tuple(found))
    if supports.real:
        return table, supports
    # Double precision: columns may be nearly collinear in unconstrained space as well.
    with jax.enable_x64(True):
        y = np.asarray(supports.unconstrain(jnp.asarray(table)))
    infinite = ~np.isfinite(y) & ~np.isnan(table)
    if infinite.any():
        row, place = np.argwhere(infinite)[0]
        raise ValueError(
            f"Expected values of {names[place]!r} in `data` inside of its support, "
            f"{supports.supports[place]!r}; {int(infinite[:, place].sum())} are on its bound, "
            f"{table[row, place]:g}, where no density reaches. Give a wider support, or move them "
            "inside by less than they were measured to."
        )
    return np.where(np.isnan(table), np.nan, y), supports


def _around(lower: float | None, upper: float | None) -> constraints.Constraint:
    """The real numbers within one half of the whole numbers between two bounds."""
    if lower is not None and upper is not None:
        return constraints.interval(lower - 0.5, upper + 0.5)
    if lower is not None:
        return constraints.greater_than(lower - 0.5)
    return constraints.real if upper is None else constraints.less_than(upper + 0.5)


def check_rounding(table: np.ndarray, names: tuple[str, ...], options: TrainingSettings) -> float:
    """Refuse columns whose values rounding moves by as much as the smoothing; the largest of that.

    The energy takes points in the user's units, and must tell apart what the smoothing does.
    In standard deviations of the columns; entries may be NaN.
    """
    dtype = jnp.result_type(float)
    largest, scale = np.nanmax(np.abs(table), axis=0), np.nanstd(table, axis=0)
    spacing = float(jnp.finfo(dtype).eps) * largest / scale
    coarse = spacing > 0.1 * options.smallest_noise
    if coarse.any():
        raise ValueError(
            f"Expected columns of `data` that {dtype} can tell apart; "
            f"{[names[i] for i in np.flatnonzero(coarse)]} lie so far from zero that rounding is "
            f"{spacing.max():.2g} of their standard deviation. Subtract an origin from them, or "
            "use double precision: `numpyro.enable_x64()`."
        )
    return float(spacing.max())


class Units(NamedTuple):
    """Rows in unconstrained space, and what standardises them; double precision."""

    held_out: np.ndarray
    rows: np.ndarray
    loc: np.ndarray
    scale: np.ndarray
    whitener: np.ndarray
    """z = whitener @ (x - loc)."""
    basis: np.ndarray
    """Its inverse."""

    def standardize(self, x: np.ndarray) -> np.ndarray:
        """In the precision that is computed in."""
        return ((x - self.loc) @ self.whitener.T).astype(jnp.result_type(float))


def standard_units(
    rng_key: Array,
    table: np.ndarray,
    filled: np.ndarray,
    names: tuple[str, ...],
    options: TrainingSettings,
) -> Units:
    """Held-out rows, rows to train on (all of `filled` among them), and the units of the latter."""
    order = np.asarray(jax.random.permutation(rng_key, len(table)))
    num_held_out = max(2, round(options.held_out_fraction * len(table)))
    held_out = table[order[:num_held_out]]
    train = np.concatenate([table[order[num_held_out:]], filled])
    least = table.shape[1] + 2
    if len(train) < least:
        raise ValueError(
            f"Expected at least {least} rows of `data` to train on, for {least - 2} columns; got "
            f"{len(train)} beside {len(held_out)} held-out ones. Bring more rows, or make "
            "`held_out_fraction` smaller."
        )
    loc, scale = train.mean(axis=0), train.std(axis=0)
    constant = ~(scale > 1e-12 * np.abs(train).max(axis=0))
    if constant.any():
        raise ValueError(
            f"Expected columns of `data` that vary among the {len(train)} rows trained on; "
            f"{[names[i] for i in np.flatnonzero(constant)]} do not. Drop them, or make "
            "`held_out_fraction` smaller."
        )
    spacing = check_rounding(train, names, options)
    whitener, basis = np.diag(1 / scale), np.diag(scale)
    if options.whiten:
        correlation = np.atleast_2d(np.corrcoef(train, rowvar=False))
        values, vectors = np.linalg.eigh(correlation)
        # Directions that rounding, or hardly any variance, fills are not blown up to a deviation.
        smallest = max(MIN_VARIANCE, (10 * spacing / options.smallest_noise) ** 2)
        root = np.sqrt(np.maximum(values, smallest))
        # Of all roots of the inverse the symmetric one stays nearest to the columns.
        whitener = (vectors / root) @ vectors.T / scale
        basis = scale[:, None] * ((vectors * root) @ vectors.T)
    return Units(held_out, train, loc, scale, whitener, basis)


def choose_transform(
    rng_key: Array,
    table: np.ndarray,
    names: tuple[str, ...],
    given: tuple[constraints.Constraint, ...],
    options: TrainingSettings,
) -> str | None:
    """The transform under which a mixture of Gaussians says more of rows that it was not fitted to.

    Judged on some complete rows, in the user's units; none unless the gain is beyond two errors.
    """
    complete = table[~np.isnan(table).any(axis=1)]
    order = np.asarray(jax.random.permutation(rng_key, len(complete)))
    some = complete[order[:TRIED_ROWS]]
    if round((1 - TRIED_HELD_OUT) * len(some)) < table.shape[1] + 2:
        return None  # Too few rows to say.
    options = dataclasses.replace(options, held_out_fraction=TRIED_HELD_OUT)
    log_densities = {}
    for transform in (None, "sinh_arcsinh"):
        rows, supports = unconstrained_rows(rng_key, some, names, given, transform)
        units = standard_units(rng_key, rows, rows[:0], names, options)
        held_out, rows = (units.standardize(part) for part in (units.held_out, units.rows))
        mixture, _ = fit_reference(
            rows,
            held_out,
            settings=MixtureFit(max_components=TRIED_COMPONENTS),
            basis=units.basis,
        )
        with jax.enable_x64(True):
            y = jnp.asarray(units.held_out)
            log_dets = np.asarray(supports.log_dets(y, supports.constrain(y))).sum(-1)
        found = np.asarray(MixtureReference(*mixture).log_prob(jnp.asarray(held_out)), np.float64)
        log_densities[transform] = found + np.linalg.slogdet(units.whitener)[1] - log_dets
    gain = log_densities["sinh_arcsinh"] - log_densities[None]
    return "sinh_arcsinh" if gain.mean() > 2 * standard_error(gain) else None
