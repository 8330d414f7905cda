"""Unconstrained coordinates in which a conditional of a learned prior is nearly standard normal.

For the free coordinates y_f of a vector, given the observed ones,

    y_f = m + S L u,

where m and L L^T are the mean and the covariance of the reference's conditional, and S is the
prior's scale over that of the reference. Where the reference is close to the prior, u is nearly
standard normal and its entries nearly independent, so samplers that move in u take long steps. For
a conditional with several modes, m and L L^T are those of all modes together.

Any invertible map would do: what is drawn depends on it in no way, only how fast.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from numpyro_disco._checks import is_traced
from numpyro_disco._gaussians import outer
from numpyro_disco._typing import Array, ArrayLike
from numpyro_disco.energy.stacking import beside_batch
from numpyro_disco.references.base import Reference
from numpyro_disco.references.constrained import unconstrained_values
from numpyro_disco.references.moments import (
    conditional_moments,
    coordinate_factor,
    mixture_moments,
)
from numpyro_disco.supports.coordinates import CoordinateSupports


def unconstrained_coordinates(
    reference: Reference,
    loc: Array,
    scale: Array,
    values: ArrayLike,
    observed: ArrayLike,
    *,
    supports: CoordinateSupports,
    stack: tuple[int, ...] = (),
) -> tuple[Array, Array]:
    """Location and factor of the coordinates of each row.

    They are computed at once if everything is concrete, even where a program is being traced: a
    sampler evaluates its model many times, and this need not be part of it.

    Args:
        reference: the reference before it is conditioned.
        loc: location of the prior, shape (..., D).
        scale: scale of the prior, shape (..., D).
        values: array (..., D) in the user's units; entries of free coordinates are ignored.
        observed: boolean array (..., D).
        supports: supports of the D coordinates.
        stack: leading axes shared by the reference, `loc`, `scale` and `values`.

    Returns:
        Location (..., D) and lower-triangular factor (..., D, D). Observed coordinates have the
        prior's location, and its scale on the diagonal of the factor.
    """
    arguments = reference, loc, scale, values, observed
    compute = partial(_coordinates, supports=supports, stack=stack)
    if is_traced(arguments):
        return compute(*arguments)
    with jax.ensure_compile_time_eval():
        return compute(*arguments)


@partial(jax.jit, static_argnames=("supports", "stack"))
def _coordinates(
    reference: Reference,
    loc: Array,
    scale: Array,
    values: Array,
    observed: Array,
    supports: CoordinateSupports,
    stack: tuple[int, ...],
) -> tuple[Array, Array]:
    values = unconstrained_values(supports, values.astype(loc.dtype), observed)
    axes = stack, values.ndim - 1 - len(stack)
    components = jax.tree.map(lambda part: beside_batch(part, *axes), reference.components())
    loc, scale = beside_batch(loc, *axes), beside_batch(scale, *axes)
    whole_mean, whole_covariance = mixture_moments(
        jnp.exp(components.log_weights), components.means, components.covariances
    )
    ratio = scale / jnp.sqrt(jnp.diagonal(whole_covariance, axis1=-2, axis2=-1))
    mean, covariance = conditional_moments(components, values, observed, reference.num_levels)
    location = jnp.where(observed, loc, mean + (loc - whole_mean))
    return location, coordinate_factor(covariance * outer(ratio, ratio), scale, observed)
