"""The density of an energy: the part of `EnergyDistribution` that evaluates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from numpyro_disco._checks import check_names, check_positive, is_traced
from numpyro_disco._compiling import as_one_program
from numpyro_disco._numpyro import StableDistribution, validate_sample, with_event_shape
from numpyro_disco._typing import Array, ArrayLike, EnergyFn
from numpyro_disco.energy.coordinates import unconstrained_coordinates
from numpyro_disco.energy.guard import guard
from numpyro_disco.energy.learned import as_pytree_callable
from numpyro_disco.energy.requirements import (
    check_columns,
    check_energy,
    check_joint_reference,
    check_location,
    check_prior_supports,
)
from numpyro_disco.energy.stacking import beside_batch, evaluate_stacked
from numpyro_disco.references.base import Reference
from numpyro_disco.references.constrained import ConstrainedReference, conditional_reference
from numpyro_disco.supports.arrays import StandardizedArray
from numpyro_disco.supports.clamped import StandardizedVector
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.tables.columns import Column
from numpyro_disco.tables.reading import read_points
from numpyro_disco.tables.variable import Variable
from numpyro_disco.tables.variables import Variables


class EnergyDensity(StableDistribution):
    """An unnormalised density exp(-E(x)), some of whose coordinates may be clamped.

    `EnergyDistribution` adds conditioning, tempering and draws, and documents the arguments.
    """

    arg_constraints: dict[str, Any] = {}
    pytree_data_fields = (
        "energy_fn",
        "joint_reference",
        "loc",
        "scale",
        "inverse_temperature",
        "values",
        "log_normalizer",
        "log_normalizer_error",
        "noise_scale",
    )
    pytree_aux_fields = ("names", "observed", "coordinate_supports", "columns", "variables")

    names: tuple[str, ...]
    """Names of the coordinates."""
    columns: tuple[Column, ...]
    """Meaning of the numbers of each coordinate in tables."""
    coordinate_supports: CoordinateSupports
    """Support of each coordinate, and the maps to and from unconstrained space."""
    observed: tuple[bool, ...]
    """True for each clamped coordinate, D entries."""
    variables: Variables | None
    """The variables that the coordinates form, if the prior was learned from draws of variables, or
    the one array, if it was learned from arrays such as images."""
    log_normalizer: Array | None
    """log Z as estimated by `normalize`, or None."""
    log_normalizer_error: Array | None
    """Standard error of `log_normalizer`, from independent runs."""

    def __init__(
        self,
        energy_fn: EnergyFn,
        reference: Reference,
        *,
        names: Any = None,
        supports: Mapping[str, constraints.Constraint] | None = None,
        columns: Mapping[str, Column] | None = None,
        loc: ArrayLike | None = None,
        scale: ArrayLike | None = None,
        noise_scale: float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        check_joint_reference(reference)
        if not callable(energy_fn):
            raise ValueError(f"Expected a function for `energy_fn`; got {energy_fn!r}.")
        (dimension,) = reference.event_shape
        self.names = check_names(names, dimension)
        self.coordinate_supports = check_prior_supports(supports, self.names, reference.num_levels)
        self.columns = check_columns(columns, self.names, self.coordinate_supports.supports)
        self.energy_fn = as_pytree_callable(energy_fn)
        self.joint_reference = reference
        loc = jnp.asarray(reference.mean if loc is None else loc)
        scale = jnp.asarray(jnp.sqrt(reference.variance) if scale is None else scale)
        discrete = self.coordinate_supports.discrete
        self.loc = _unless(discrete, check_location(loc, dimension, "loc"), 0.0)
        self.scale = _unless(discrete, check_location(scale, dimension, "scale"), 1.0)
        self.inverse_temperature = jnp.ones((), self.loc.dtype)
        self.values: Array | None = None
        self.observed = (False,) * dimension
        self.log_normalizer = self.log_normalizer_error = None
        self.variables = None
        self.noise_scale: Array | None = None
        if noise_scale is not None:
            noise_scale = check_positive(noise_scale, "noise_scale")
            self.noise_scale = jnp.asarray(noise_scale, self.loc.dtype)
        check_energy(self.energy_fn, reference, self.loc)
        super().__init__((), (dimension,), validate_args=validate_args)

    # -- density --------------------------------------------------------------------------------

    @property
    def support(self) -> constraints.Constraint:
        """The supports of the coordinates, restricted to the clamped values if there are any.

        Its unconstrained coordinates are those of the reference's conditional, see `coordinates`.
        """
        values = np.zeros(self.loc.shape) if self.values is None else self.values
        loc, factor = self.coordinates(values, np.asarray(self.observed))
        support = StandardizedVector(
            loc, factor, self.values, self.observed, self.coordinate_supports
        )
        return support if self._array is None else StandardizedArray(support, self.event_shape)

    # -- vectors, arrays and variables ------------------------------------------------------------

    @property
    def _array(self) -> Variable | None:
        """The array whose elements are the coordinates, for a distribution over arrays."""
        return None if self.variables is None else self.variables.array

    def over(self, variables: Variables | None) -> Self:
        """The same density over variables, over one array, or over vectors (None)."""
        array = None if variables is None else variables.array
        shape = (len(self.names),) if array is None else array.shape
        return with_event_shape(self.replace(variables=variables), shape)

    @property
    def as_vector(self) -> Self:
        """The same density over vectors (D,)."""
        return self.over(None)

    def from_vectors(self, x: Array) -> Any:
        """Vectors (..., D) as a user sees them: arrays (...) + event_shape, or a dict of variables.

        The inverse of `read`.
        """
        if self.variables is None:
            return x
        values = self.variables.unpack(x)
        return values if self._array is None else values[self._array.name]

    @property
    def location_and_scale(self) -> tuple[Array, Array]:
        """Location and scale of each coordinate, with axes that broadcast with a batch."""
        loc, scale = (beside_batch(leaf, *self._batch_axes) for leaf in (self.loc, self.scale))
        return loc, scale

    def coordinates(self, values: ArrayLike, observed: ArrayLike) -> tuple[Array, Array]:
        """Unconstrained coordinates u of rows, y = loc + factor @ u, nearly standard normal.

        Args:
            values: array (..., D) in the user's units; entries of free coordinates are ignored.
            observed: boolean array (..., D), traced or not.

        Returns:
            Location (..., D) and lower-triangular factor (..., D, D), from the mean and covariance
            of the reference given the observed coordinates. These have the location and scale of
            the prior.
        """
        return unconstrained_coordinates(
            self.joint_reference,
            self.loc,
            self.scale,
            values,
            observed,
            supports=self.coordinate_supports,
            stack=self._batch_axes[0],
        )

    @property
    def reference(self) -> Reference | ConstrainedReference:
        """The sampleable density q of the free coordinates given the clamped ones, if any."""
        if self.values is not None:
            return self.reference_given(self.values, np.asarray(self.observed))
        if self.coordinate_supports.real:
            return self.joint_reference
        return ConstrainedReference(self.joint_reference, self.coordinate_supports)

    def reference_given(
        self, values: ArrayLike, observed: ArrayLike
    ) -> Reference | ConstrainedReference:
        """The reference given some coordinates, exactly, as a distribution over vectors.

        Args:
            values: array (..., D) in the user's units; entries of free coordinates are ignored.
            observed: boolean array (..., D), traced or not.
        """
        values = jnp.asarray(values, self.loc.dtype)
        return conditional_reference(
            self.joint_reference, self.coordinate_supports, values, observed
        )

    def energy(self, x: Any) -> Array:
        """E(x) in nats, up to a constant, shape (..., D) to (...); infinite outside the support."""
        points = self.points(x)
        energy = self._energies(points)
        if not isinstance(x, Mapping) or self.variables is None or self._array is not None:
            return energy
        # Coordinates of joint supports are unconstrained; the density is one of the variables.
        log_det = self.variables.log_det(points, ~np.asarray(self.observed))
        return jnp.where(self.variables.inside(x), energy + log_det, jnp.inf)

    def score(self, x: Any) -> Array:
        """-grad E(x), exact, shape (..., D); zero for clamped and for discrete coordinates."""
        gradient = self._gradients(self.points(x))
        still = np.asarray(self.observed) | self.coordinate_supports.discrete
        score = -jnp.where(still, 0.0, gradient)
        return score if self._array is None else self.from_vectors(score)

    @as_one_program
    def _energies(self, x: Array) -> Array:
        return self._at_points(self._energy_at, x, "()")

    @as_one_program
    def _gradients(self, x: Array) -> Array:
        return self._at_points(jax.grad(self._energy_at, argnums=1), x, "(d)")

    def _energy_at(self, parameters: tuple[EnergyFn, Array, Array], x: Array) -> Array:
        """E of one point in the user's units: minus the log density of its free coordinates."""
        energy_fn, inverse_temperature, loc = parameters
        if self.coordinate_supports.real:
            return inverse_temperature * energy_fn(x)
        # Outside the support, gradients of logarithms are NaN even where `where` discards them.
        centre = self.coordinate_supports.constrain(loc)
        inside = self.coordinate_supports.inside(x) & jnp.isfinite(
            self.coordinate_supports.unconstrain(x)
        )
        x = jnp.where(inside, x, centre)
        y = self.coordinate_supports.unconstrain(x)
        log_dets = self.coordinate_supports.log_dets(y, x)
        free = ~np.asarray(self.observed)
        energy = inverse_temperature * energy_fn(y) + log_dets @ free.astype(y.dtype)
        return jnp.where(inside.all(), energy, jnp.inf)

    def log_prob(self, value: Any) -> Array:
        """-E(x), minus log Z once `normalize` has run: shape (..., D) to (...).

        Up to an additive constant before `normalize`. For a clamped distribution, the log density
        of the free coordinates.

        Args:
            value: points as for `points`. For a prior over variables, the density of a dict is one
                of the variables; that of an array is one of the coordinates, which differ for
                variables with a joint support such as a simplex.

        Raises:
            ValueError: missing entries in a concrete `value`.
        """
        if self._array is not None:
            vectors = self.read(value, "value")
            # In compiled code, another shape of a known array is not known any more.
            _refuse_missing(vectors)
            return self._log_prob(self.from_vectors(vectors))
        if self.variables is None or not isinstance(value, Mapping):
            return self._log_prob(self.read(value, "value"))
        # Clamped coordinates have their values to the last bit, as the support asks for.
        x = self.points(value)
        log_prob = self._log_prob(x) - self.variables.log_det(x, ~np.asarray(self.observed))
        return jnp.where(self.variables.inside(value), log_prob, -jnp.inf)

    @validate_sample
    def _log_prob(self, value: ArrayLike) -> Array:
        _refuse_missing(value)
        guarded = guard(self)
        log_prob = -guarded.energy(value)
        log_normalizer = guarded.log_normalizer
        return log_prob if log_normalizer is None else log_prob - log_normalizer

    def read(self, x: Any, argument: str = "x") -> Any:
        """Points as an array (..., D), in the order of `names`.

        Args:
            x: array (..., D), which is returned as it is; or anything with names: a DataFrame, a
                mapping, a series as one point, an xarray object. For a prior over variables, a
                dict of arrays (...) + shape; for one over arrays, an array (...) + event_shape.
            argument: name of the argument for error messages.

        Raises:
            ValueError: names that are unknown or not given, or entries of another kind.
        """
        if self._array is not None and not isinstance(x, Mapping):
            return self._flattened(x, argument)
        if self.variables is not None and isinstance(x, Mapping) and self._array is None:
            return self.variables.pack(x).astype(self.loc.dtype)
        return read_points(x, self.names, self.columns, argument)

    def _flattened(self, x: Any, argument: str) -> Any:
        """Arrays (...) + event_shape as vectors (..., D), in their own precision."""
        x = x if is_traced(x) else np.ma.filled(np.ma.asarray(x, float), np.nan)
        ndim = len(self.event_shape)
        if x.shape[max(0, x.ndim - ndim) :] != self.event_shape:
            raise ValueError(
                f"Expected an array whose last axes are {self.event_shape} for `{argument}`; got "
                f"shape {x.shape}."
            )
        return x.reshape(*x.shape[: x.ndim - ndim], len(self.names))

    def points(self, x: Any) -> Array:
        """The points x (..., D), with clamped coordinates set to their values.

        Args:
            x: as for `read`.
        """
        x = jnp.asarray(self.read(x))
        if x.ndim == 0 or x.shape[-1] != len(self.names):
            raise ValueError(
                f"Expected points with a last axis of {len(self.names)}, one entry for each of "
                f"{self.names}; got shape {x.shape}."
            )
        if self.values is None:
            return x
        return jnp.where(np.asarray(self.observed), self.values, x)

    def log_dets(self, x: Array, which: ArrayLike) -> Array:
        """Log ``|dx / dy|`` summed over some coordinates, shape (..., D) to (...).

        Subtract it from a log density of these coordinates in unconstrained space to get the log
        density in the user's units.

        Args:
            x: points (..., D) in the user's units; entries of other coordinates are ignored.
            which: boolean array (..., D), true for the coordinates to sum over.
        """
        log_dets = jnp.zeros(x.shape[:-1], x.dtype)
        if self.variables is not None:
            log_dets = self.variables.log_det(x, which)
        if self.coordinate_supports.real:
            return log_dets
        x = jnp.where(which, x, self.coordinate_supports.constrain(self.loc))
        each = self.coordinate_supports.log_dets(self.coordinate_supports.unconstrain(x), x)
        return log_dets + jnp.where(which, each, 0.0).sum(-1)

    # -- stacked leaves: `scan` and `jax.vmap` make one distribution out of many ----------------

    @property
    def _batch_axes(self) -> tuple[tuple[int, ...], int]:
        """Leading axes that every leaf has gained, and the number of batch axes of the values."""
        stack = jnp.shape(self.inverse_temperature)
        return stack, 0 if self.values is None else self.values.ndim - 1 - len(stack)

    def _at_points(self, function: Callable, x: Array, output: str) -> Array:
        """`function(parameters, point)` at vectors (..., D)."""
        stack, batch_ndim = self._batch_axes
        parameters = (self.energy_fn, self.inverse_temperature, self.loc)
        return evaluate_stacked(
            function,
            parameters,
            x,
            stack=stack,
            batch_ndim=batch_ndim,
            output=output,
        )

    def replace(self, **fields: Any) -> Self:
        """A copy with some attributes replaced, unchecked."""
        new = copy.copy(self)
        for name, value in fields.items():
            setattr(new, name, value)
        return new


def _unless(discrete: np.ndarray, value: Array, inert: float) -> Array:
    """`value` (D,), with one number in place of the entries of discrete coordinates."""
    return jnp.where(discrete, jnp.asarray(inert, value.dtype), value) if discrete.any() else value


def _refuse_missing(value: ArrayLike) -> None:
    """Refuse NaN where a point is known."""
    if not is_traced(value) and np.isnan(np.asarray(value)).any():
        raise ValueError(
            "Expected a `value` without NaN, where a density is not defined; got NaN. For data "
            "with missing entries use `numpyro_disco.sample(name, prior, obs=data)`, which "
            "makes each missing entry a latent, instead of `condition`, `substitute` or "
            "`numpyro.sample(..., obs=)`."
        )
