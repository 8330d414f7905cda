"""A learned prior inside a NumPyro model: one site for each coordinate.

`sample(name, prior)` makes sites "name.a", "name.b", ... that NumPyro's handlers see as ordinary
scalars, and one factor, "name.log_prob", that holds the joint log density. A coordinate alone has
no density that could be drawn: its site raises `NotImplementedError` where NumPyro would draw it
forward, and the samplers that only need log densities take it in their stride.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from numpyro.distributions import Distribution, constraints

from numpyro_disco._numpyro import (
    active_handlers,
    only_handlers,
    promote_batch_shape,
    validate_sample,
    with_batch_shape,
)
from numpyro_disco._typing import Array, ArrayLike
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.energy.guard import not_latent
from numpyro_disco.models.missing import Holes, PaddedHoles
from numpyro_disco.supports.clamped import StandardizedReal


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
        vector = self.prior.support
        loc, scale = vector.loc[..., self.index], vector.scale[..., self.index]
        return StandardizedReal(loc, scale, self.prior.coordinate_supports.select([self.index]))

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


@promote_batch_shape.register
def _(coordinate: Coordinate) -> Coordinate:
    """What `scan` stacked along time becomes a batch, as of the prior."""
    new = copy.copy(coordinate)
    new.prior = promote_batch_shape(coordinate.prior)
    return with_batch_shape(new, new.prior.batch_shape)


def sample(
    name: str,
    prior: EnergyDistribution,
    *,
    obs: Any = None,
    padded: bool | None = None,
    deterministic: bool = False,
) -> Array:
    """Put a learned prior into a model, one site for each coordinate.

    Sites are called "name.coordinate"; default coordinates are "0", "1", .... NumPyro's own
    `condition`, `substitute`, `block`, `do` and `Predictive` work on them, as do plates (one
    vector for each member). A clamped coordinate has no site. The joint log density is the factor
    "name.log_prob"; an energy has no direction, so `do` on a coordinate does what `condition` does.

    With `obs`, rows whose NaN entries are missing: each missing entry is a latent, all of them the
    one vector site "name.missing" in the order of the table's entries, and nothing else is.
    `numpyro_disco.to_arviz` labels them by row and column.

    Where the holes are can be seen in a concrete table only. Of a traced one (an argument of a
    compiled function, as in `TemperedSMC`; the rows of a subsampling plate) "name.missing" holds a
    number for *every* entry; those of entries that are there are padding, independent standardised
    normals that touch nothing: evidence and posterior of all else stay as they are, and tables with
    other holes do not compile again.

    Args:
        name: prefix of the sites.
        prior: an `EnergyDistribution` over D coordinates.
        obs: array (..., D) with NaN where missing, a DataFrame, or a dict of columns. The axes
            before the last are independent rows, inside of plates of that shape or outside of any.
        padded: whether "name.missing" is padded; by default if the table is traced or the plate
            subsampled. Say `True` where a model is run with a concrete table first and with a
            traced one later, as `MCMC(..., jit_model_args=True)` does.
        deterministic: also record the whole vectors, as the deterministic site "name".

    Returns:
        The vector, shape (..., D): plate axes first; with `obs` the completed table.

    Raises:
        ValueError: a handler gives a value to a coordinate that does not exist, or `obs` does not
            fit the plates around it or the supports.
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
    if deterministic:
        return numpyro.deterministic(name, sample(name, prior, obs=obs, padded=padded))
    if obs is not None:
        return _sample_holes(name, prior, obs, padded)
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
    x = prior.points(x)
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
    if jnp.ndim(value) > len(coordinate.batch_shape) and not _plates():
        raise ValueError(
            f"Expected one number for {site!r}; got an array of shape {jnp.shape(value)}. For many "
            "vectors put `sample` into a plate of that size, or give it a table, `obs=`."
        )
    if not isinstance(value, jax.core.Tracer):
        with jax.ensure_compile_time_eval():
            inside = coordinate.support(jnp.asarray(value)).all()
        if not bool(inside):
            raise ValueError(
                f"Expected finite numbers inside of the support of {site!r}, "
                f"{coordinate.support!r}; got {value}. Leave out what is not known, or give rows "
                "with holes to `sample(name, prior, obs=rows)`."
            )
    # A coordinate held at something inferred would need the normaliser of what is left.
    return not_latent(jnp.asarray(value, coordinate.prior.loc.dtype))


def _observers(site: str) -> Iterator[tuple[Any, str]]:
    """Handlers that say what is observed, innermost first, and what each of them calls `site`."""
    for handler in reversed(active_handlers()):
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


def _sample_holes(name: str, prior: EnergyDistribution, obs: Any, padded: bool | None) -> Array:
    pattern = prior.pattern(obs, "obs")
    observed = pattern.observed
    if any(prior.observed):
        raise ValueError("Expected an unclamped prior with `obs`: put the values into the table.")
    _check_handlers(name, [f"{name}.missing"])
    values = jnp.asarray(pattern.values, prior.loc.dtype)
    traced = isinstance(observed, jax.core.Tracer)
    subsampled = any(plate.subsample_size != plate.size for plate in _plates())
    if padded is False and (traced or subsampled):
        raise ValueError(
            "Expected a concrete table for `obs` outside of subsampling plates with "
            "`padded=False`: where its holes are must be known when the model is compiled."
        )
    if padded or traced or subsampled:
        # Each member of a plate has a vector of its own; without plates, the rows are one event.
        rows = PaddedHoles(prior, values, jnp.asarray(observed))
        fn = rows if _plates() else rows.to_event(values.ndim - 1)
        try:
            return rows.complete(numpyro.sample(f"{name}.missing", fn))
        except (TypeError, ValueError) as error:
            if padded is None:
                error.add_note(
                    f"The table of {name!r} is traced. If the model was run before with a concrete "
                    "one, as under `jit_model_args=True`, give `padded=True` to "
                    "`numpyro_disco.sample`."
                )
            raise
    shape = _plate_shape()
    if _plates() and values.shape[:-1] != shape:
        raise ValueError(
            f"Expected a table of shape {(*shape, len(prior.names))} for `obs` inside of plates of "
            f"shape {shape}, one row for each member; got {values.shape}."
        )
    # The holes of all rows are one vector, whatever the plates: no two rows have as many.
    with _outside_plates():
        if observed.all():
            numpyro.factor(f"{name}.log_prob", prior.log_prob(values).sum())
            return values
        fn = Holes(prior, values, observed, pattern.labels)
        return fn.complete(numpyro.sample(f"{name}.missing", fn))


def _plates() -> list[numpyro.plate]:
    return [handler for handler in active_handlers() if isinstance(handler, numpyro.plate)]


def _plate_shape() -> tuple[int, ...]:
    sizes = {plate.dim: plate.subsample_size for plate in _plates()}
    return tuple(sizes.get(dim, 1) for dim in range(min(sizes, default=0), 0))


def _outside_plates() -> AbstractContextManager[None]:
    """Sites in here belong to no plate."""
    return only_handlers([h for h in active_handlers() if not isinstance(h, numpyro.plate)])
