"""The choice of a map for columns with heavy tails or skew."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._statistics import selected, standard_error
from numpyro_disco._typing import Array
from numpyro_disco.references.fitting import MixtureFit, fit_reference, mixture_reference
from numpyro_disco.training.rows.table import Table
from numpyro_disco.training.rows.units import standard_units, unconstrained_rows

TRANSFORMS = (None, "sinh_arcsinh", "auto")
"""Values of `transform` in `fit`."""
TRIED_ROWS, TRIED_HELD_OUT, TRIED_COMPONENTS = 6000, 0.3, 16
"""Most rows on which a transform is chosen, their held-out share, and the most components."""


def choose_transform(
    rng_key: Array, table: Table, *, resolution: float, whiten: bool
) -> str | None:
    """Choose the transform under which a Gaussian mixture predicts held-out rows better.

    The two are compared on some complete rows, by log density in the user's units. The map is taken
    only if its gain exceeds two standard errors.

    Args:
        rng_key: random key for the split and the spreading of whole numbers.
        table: the rows.
        resolution: the finest scale that matters, in standardised units.
        whiten: as for `standard_units`.

    Returns:
        "sinh_arcsinh" or None.
    """
    complete = table.values[~table.incomplete]
    order = np.asarray(jax.random.permutation(rng_key, len(complete)))
    weights = selected(selected(table.weights, ~table.incomplete), order[:TRIED_ROWS])
    some = table._replace(values=complete[order[:TRIED_ROWS]], weights=weights)
    if round((1 - TRIED_HELD_OUT) * len(some.values)) < len(table.names) + 2:
        return None
    (plain, weights), (mapped, _) = (
        _held_out_log_density(rng_key, some, transform, resolution=resolution, whiten=whiten)
        for transform in (None, "sinh_arcsinh")
    )
    gain = mapped - plain
    mean = np.average(gain, weights=weights)
    return "sinh_arcsinh" if mean > 2 * standard_error(gain, weights) else None


def _held_out_log_density(
    rng_key: Array, table: Table, transform: str | None, *, resolution: float, whiten: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Log density of each held-out row in the user's units, by a mixture fitted to the others.

    The weights of the held-out rows come with it.
    """
    values, supports = unconstrained_rows(rng_key, table, transform)
    units = standard_units(
        rng_key,
        values,
        table.names,
        row_weights=table.weights,
        held_out_fraction=TRIED_HELD_OUT,
        resolution=resolution,
        whiten=whiten,
        num_levels=supports.num_levels,
    )
    held_out, rows = (units.standardize(part) for part in (units.held_out, units.rows))
    mixture, _ = fit_reference(
        rows,
        held_out,
        settings=MixtureFit(max_components=TRIED_COMPONENTS),
        basis=units.basis,
        row_weights=units.row_weights,
        held_out_weights=units.held_out_weights,
        num_levels=supports.num_levels,
    )
    with jax.enable_x64(True):
        y = jnp.asarray(units.held_out)
        log_dets = np.asarray(supports.log_dets(y, supports.constrain(y))).sum(-1)
    reference = mixture_reference(mixture, supports.num_levels)
    found = np.asarray(reference.log_prob(jnp.asarray(held_out)), np.float64)
    return found + np.linalg.slogdet(units.whitener)[1] - log_dets, units.held_out_weights
