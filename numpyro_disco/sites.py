"""A learned prior inside a NumPyro model: one site for each coordinate.

`sample(name, prior)` makes sites "name.a", "name.b", ... that NumPyro's handlers see as ordinary
scalars, and one factor, "name.log_prob", that holds the joint log density. A coordinate alone has
no density that could be drawn: its site raises `NotImplementedError` where NumPyro would draw it
forward, and the samplers that only need log densities take it in their stride.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.distributions import Distribution, constraints
from numpyro.distributions.util import validate_sample
from numpyro.primitives import _PYRO_STACK

from numpyro_disco._checks import observed_values
from numpyro_disco._typing import Array, ArrayLike
from numpyro_disco.distributions import EnergyDistribution, not_latent
from numpyro_disco.supports import StandardizedReal, StandardizedVector


class Coordinate(Distribution):
    """The site of one coordinate of an `EnergyDistribution`: log density 0, the joint has it all.

    Args:
        prior: the joint distribution.
        index: which coordinate.
    """

    arg_constraints: dict[str, Any] = {}
    pytree_data_fields = ("prior",)
    pytree_aux_fields = ("index",)

    def __init__(self, prior: EnergyDistribution, index: int) -> None:
        self.prior, self.index = prior, index
        super().__init__(prior.batch_shape, ())

    @property
    def name(self) -> str:
        """Name of the coordinate."""
        return self.prior.names[self.index]

    @property
    def support(self) -> constraints.Constraint:
        """The coordinate's own; the unconstrained coordinate is standardised."""
        # `scan` stacks leaves along new leading axes: the coordinate is a matter of the last axis.
        loc, scale = self.prior.loc[..., self.index], self.prior.scale[..., self.index]
        return StandardizedReal(loc, scale, self.prior._supports.select([self.index]))

    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """A coordinate cannot be drawn before the others: see the error for what can be done."""
        raise NotImplementedError(
            f"Coordinate {self.name!r} of an `EnergyDistribution` cannot be drawn on its own: only "
            "all coordinates together have a density. Run MCMC, SVI or TemperedSMC on the model; "
            "or, to simulate forward, draw `x = prior.sample(rng_key, (n,))` first and hand the "
            "model its coordinates, `Predictive(model, site_values(name, prior, x))`."
        )

    @validate_sample
    def log_prob(self, value: ArrayLike) -> Array:
        """Zeros: the density is in the joint's factor."""
        return jnp.zeros(jnp.broadcast_shapes(jnp.shape(value), self.batch_shape))


class Holes(Distribution):
    """The missing entries of a table, as one vector: density of the rows given what is there.

    `log_prob` is the sum of the rows' joint log densities, up to what normalises the prior.

    Args:
        prior: an unclamped `EnergyDistribution` of one row.
        values: the table (..., D), anything where it is missing.
        observed: concrete boolean array (..., D), true where an entry is there.
    """

    arg_constraints: dict[str, Any] = {}
    pytree_data_fields = ("prior", "values")
    pytree_aux_fields = ("holes", "shape_of_table")

    def __init__(self, prior: EnergyDistribution, values: Array, observed: np.ndarray) -> None:
        self.prior, self.values = prior, values
        self.shape_of_table = observed.shape
        self.holes = tuple(int(i) for i in np.flatnonzero(~observed))
        super().__init__((), (len(self.holes),))

    @property
    def _columns(self) -> np.ndarray:
        return np.asarray(self.holes) % self.shape_of_table[-1]

    @property
    def support(self) -> constraints.Constraint:
        """All real vectors; unconstrained coordinates are standardised column by column."""
        columns = self._columns
        nothing = (False,) * len(columns)
        return StandardizedVector(
            self.prior.loc[..., columns],
            self.prior.scale[..., columns],
            None,
            nothing,
            self.prior._supports.select(columns),
        )

    def complete(self, value: ArrayLike) -> Array:
        """The table with its holes filled by `value`: shape (..., holes) to (..., *table)."""
        value = jnp.asarray(value)
        batch = value.shape[:-1]
        flat = jnp.broadcast_to(self.values.ravel(), (*batch, self.values.size))
        filled = flat.astype(value.dtype).at[..., np.asarray(self.holes)].set(value)
        return filled.reshape(*batch, *self.shape_of_table)

    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """Not drawn forward: a model with holes in its data is for inference."""
        raise NotImplementedError(
            "The missing entries of a table are inferred with the rest of the model: run MCMC, SVI "
            "or TemperedSMC. To fill them from the prior alone use `numpyro_disco.impute`."
        )

    @validate_sample
    def log_prob(self, value: ArrayLike) -> Array:
        """Sum over rows of the joint log density, shape (..., holes) to (...)."""
        rows = self.prior.log_prob(self.complete(value))
        batch_ndim = jnp.ndim(value) - 1
        return rows.sum(axis=tuple(range(batch_ndim, rows.ndim)))

    @property
    def reference(self) -> Distribution:
        """The holes under the reference of each row given what is there: drawable, normalised."""
        return HolesReference(self)


class HolesReference(Distribution):
    """Conditionals of the reference for the holes of a table, as one vector."""

    arg_constraints: dict[str, Any] = {}
    pytree_data_fields = ("parent",)

    def __init__(self, parent: Holes) -> None:
        self.parent = parent
        super().__init__((), parent.event_shape)

    @property
    def support(self) -> constraints.Constraint:
        """That of the holes."""
        return self.parent.support

    @property
    def _rows(self) -> Distribution:
        parent = self.parent
        observed = np.ones(parent.shape_of_table, bool)
        observed.flat[list(parent.holes)] = False
        return parent.prior.reference_given(parent.values, observed)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Independent draws, shape sample_shape + (holes,)."""
        rows = self._rows.sample(key, sample_shape)
        flat = rows.reshape(*sample_shape, -1)
        return flat[..., np.asarray(self.parent.holes)]

    def log_prob(self, value: ArrayLike) -> Array:
        """Normalised log density of the holes, shape (..., holes) to (...)."""
        rows = self._rows.log_prob(self.parent.complete(value))
        return rows.sum(axis=tuple(range(jnp.ndim(value) - 1, rows.ndim)))


def sample(name: str, prior: EnergyDistribution, *, obs: ArrayLike | None = None) -> Array:
    """Put a learned prior into a model, one site for each coordinate.

    Sites are called "name.coordinate"; default coordinates are "0", "1", .... NumPyro's own
    `condition`, `substitute`, `block`, `do` and `Predictive` work on them, as do plates (one
    vector for each member). A clamped coordinate has no site. The joint log density is the factor
    "name.log_prob"; an energy has no direction, so `do` on a coordinate does what `condition` does.

    With `obs`, rows whose NaN entries are missing: each missing entry is a latent, all of them the
    one vector site "name.missing" in the order of the table's entries, and nothing else is.

    Args:
        name: prefix of the sites.
        prior: an `EnergyDistribution` over D coordinates.
        obs: concrete array (..., D) with NaN where missing. Call it outside of plates: the axes
            before the last are independent rows.

    Returns:
        The vector, shape (..., D): plate axes first; with `obs` the completed table.

    Raises:
        ValueError: a handler gives a value to a coordinate that does not exist, or `obs` is traced
            or inside a plate.
        NotImplementedError: the model is run forward and a coordinate would have to be drawn.

    Example:
        >>> import jax.numpy as jnp, numpyro_disco as disco
        >>> q = disco.GaussianReference(jnp.zeros(2), 9 * jnp.eye(2))
        >>> prior = disco.EnergyDistribution(lambda x: 0.5 * (x @ x), q, names=("a", "b"))
        >>> disco.sample("x", prior, obs=jnp.array([[0.1, 0.2]])).shape
        (1, 2)
    """
    if not isinstance(prior, EnergyDistribution):
        raise ValueError(
            f"Expected an `EnergyDistribution`; got {type(prior).__name__}. For other "
            "distributions use `numpyro.sample`."
        )
    if obs is not None:
        return _sample_holes(name, prior, obs)
    free = [c for c, clamped in zip(prior.names, prior.observed, strict=True) if not clamped]
    _check_handlers(name, [f"{name}.{coordinate}" for coordinate in free])
    values: list[Any] = []
    for index, (coordinate, clamped) in enumerate(zip(prior.names, prior.observed, strict=True)):
        if clamped:
            assert prior.values is not None
            values.append(prior.values[..., index])
        else:
            values.append(_sample_coordinate(f"{name}.{coordinate}", Coordinate(prior, index)))
    x = jnp.stack(jnp.broadcast_arrays(*values), axis=-1)
    numpyro.factor(f"{name}.log_prob", prior.log_prob(x))
    return x


def site_values(name: str, prior: EnergyDistribution, x: ArrayLike) -> dict[str, Array]:
    """Vectors as a dict of coordinate sites, for `Predictive`, `substitute` or `init_to_value`.

    Args:
        name: the name given to `sample`.
        prior: the distribution given to `sample`.
        x: array (..., D).

    Returns:
        "name.coordinate" to array (...), clamped coordinates left out.

    Example:
        >>> import jax.numpy as jnp, numpyro_disco as disco
        >>> q = disco.GaussianReference(jnp.zeros(2), 9 * jnp.eye(2))
        >>> prior = disco.EnergyDistribution(lambda x: 0.5 * (x @ x), q, names=("a", "b"))
        >>> {key: v.shape for key, v in disco.site_values("x", prior, jnp.ones((5, 2))).items()}
        {'x.a': (5,), 'x.b': (5,)}
    """
    x = prior._points(x)
    return {
        f"{name}.{coordinate}": x[..., index]
        for index, coordinate in enumerate(prior.names)
        if not prior.observed[index]
    }


def _sample_coordinate(site: str, coordinate: Coordinate) -> Any:
    """The value of one coordinate's site, latent or given by `condition` or `do`."""
    given = [(handler, scoped) for handler, scoped in _observers(site) if scoped in handler.data]
    # `do` leaves the site itself behind as a latent that nothing depends on. With a density of its
    # own that would do no harm; a coordinate has none, and a flat latent cannot be sampled.
    done = [h.data[scoped] for h, scoped in given if isinstance(h, numpyro.handlers.do)]
    value = numpyro.sample(site, coordinate, obs=done[0] if done else None)
    if not given:
        return value
    plates = [handler for handler in _PYRO_STACK if isinstance(handler, numpyro.plate)]
    if jnp.ndim(value) > len(coordinate.batch_shape) and not plates:
        raise ValueError(
            f"Expected one number for {site!r}; got an array of shape {jnp.shape(value)}. For many "
            "vectors put `sample` into a plate of that size, or give it a table, `obs=`."
        )
    # A coordinate held at something inferred would need the normaliser of what is left.
    return not_latent(jnp.asarray(value, coordinate.prior.loc.dtype))


def _observers(site: str) -> Iterator[tuple[Any, str]]:
    """Handlers that say what is observed, innermost first, and what each of them calls `site`."""
    for handler in reversed(_PYRO_STACK):
        if isinstance(handler, numpyro.handlers.scope):
            site = f"{handler.prefix}{handler.divider}{site}"
        elif isinstance(handler, numpyro.handlers.condition | numpyro.handlers.do) and handler.data:
            yield handler, site


def _check_handlers(name: str, known: list[str]) -> None:
    """Refuse an observation of a site that does not exist: NumPyro would ignore it.

    Only `condition` and `do` say what a user observes; `substitute` also carries what NumPyro
    itself puts there, parameters of guides and deterministic sites among them.
    """
    for handler, scoped in _observers(name):
        prefix = scoped.removesuffix(name)
        sites = {prefix + site for site in known}
        for site in handler.data:
            if site not in sites and (site == scoped or site.startswith(f"{scoped}.")):
                raise ValueError(
                    f"`{type(handler).__name__}` names {site!r}, which is not a site of {name!r}: "
                    f"its sites are {sorted(sites)}, one for each free coordinate. If it is a site "
                    f"of your own, give it a name that does not start with '{name}.'."
                )


def _sample_holes(name: str, prior: EnergyDistribution, obs: ArrayLike) -> Array:
    values, observed = observed_values(obs, prior.names, "obs")
    if isinstance(observed, jax.core.Tracer):
        raise ValueError(
            "Expected a concrete array for `obs`, whose NaN say what is missing; got a traced one. "
            "Close the model over the table, or turn `jit_model_args` off."
        )
    if any(prior.observed):
        raise ValueError("Expected an unclamped prior with `obs`: put the values into the table.")
    if any(isinstance(handler, numpyro.plate) for handler in _PYRO_STACK):
        raise ValueError(
            "Call `sample(..., obs=table)` outside of plates: the rows of the table are "
            "independent already, and a plate would count each of them once for every member."
        )
    _check_handlers(name, [f"{name}.missing"])
    values = jnp.asarray(values, prior.loc.dtype)
    if observed.all():
        numpyro.factor(f"{name}.log_prob", prior.log_prob(values).sum())
        return values
    holes = Holes(prior, values, observed)
    missing = numpyro.sample(f"{name}.missing", holes)
    return holes.complete(missing)
