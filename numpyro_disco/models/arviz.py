"""Draws as labelled ArviZ objects: an `InferenceData` of ArviZ 0.x, a `DataTree` of 1.x."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from numpyro_disco._arviz import is_old
from numpyro_disco._numpyro import model_and_arguments
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.models.missing import Holes, PaddedHoles
from numpyro_disco.models.reading import model_structure, unwrapped


def to_arviz(
    sampler: Any,
    *,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    **kwargs: Any,
) -> Any:
    """ArviZ's own conversion of a run, with the coordinates of learned priors labelled.

    - The holes of a table, "name.missing", get the dimension "name.hole" labelled "row.column",
      with "name.row" and "name.column" beside it.
    - A vector site of a learned prior gets the dimension "name.coordinate", labelled by names;
      coordinates that are clamped are left out: constants have no diagnostics.

    Everything else is as `arviz.from_numpyro` makes it, which takes the same samplers.

    Args:
        sampler: a NumPyro `MCMC`, or a `TemperedSMC`, that has run.
        coords: more coordinates, as ArviZ takes them.
        dims: more dimensions, as ArviZ takes them.
        **kwargs: more arguments of `arviz.from_numpyro`.

    Returns:
        What `arviz.from_numpyro` returns.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro_disco as disco
        >>> from numpyro.infer import MCMC, NUTS
        >>> q = disco.GaussianReference(jnp.zeros(2), 9 * jnp.eye(2))
        >>> prior = disco.EnergyDistribution(lambda x: 0.5 * (x @ x), q, names=("a", "b"))
        >>> rows = jnp.array([[0.1, jnp.nan], [0.3, 0.4]])
        >>> mcmc = MCMC(NUTS(lambda: disco.sample("x", prior, obs=rows)),
        ...             num_warmup=10, num_samples=10, progress_bar=False)
        >>> mcmc.run(jax.random.key(0))
        >>> disco.to_arviz(mcmc).posterior["x.missing"].coords["x.hole"].values.tolist()
        ['0.b']
    """
    import arviz as az

    coords, dims = dict(coords or {}), dict(dims or {})
    model, args, model_kwargs = model_and_arguments(sampler)
    if model is None:
        raise ValueError("Expected a sampler with a `model`; got one of a potential function.")
    structure = model_structure(model, args, model_kwargs)
    holes: dict[str, Holes | PaddedHoles] = {}
    clamped: dict[str, np.ndarray] = {}
    for name, site in structure.items():
        if site["type"] not in ("sample", "deterministic") or name in dims:
            continue
        latent = site["type"] == "sample" and not site["is_observed"]
        fn = unwrapped(site["fn"]) if latent else None
        # ArviZ finds the dimensions of a site by itself only as long as none are given.
        plates = [f.name for f in sorted(site["cond_indep_stack"], key=lambda frame: frame.dim)]
        if isinstance(fn, Holes | PaddedHoles):
            holes[name] = fn
        elif isinstance(fn, EnergyDistribution):
            batch = len(site["fn"].batch_shape)
            others = plates if len(plates) == batch else [f"{name}_dim_{i}" for i in range(batch)]
            dims[name] = [*others, f"{name}.coordinate"]
            coords[f"{name}.coordinate"] = list(fn.names)
            if any(fn.observed):
                clamped[name] = np.flatnonzero(~np.asarray(fn.observed))
        else:
            dims[name] = [*plates, *(site.get("infer") or {}).get("event_dims", [])]
    dims = {name: named for name, named in dims.items() if named}
    data = az.from_numpyro(sampler, coords=coords, dims=dims, **kwargs)
    posterior = data["posterior"]
    if not is_old(az):
        posterior = posterior.to_dataset()
    for name, fn in holes.items():
        posterior = _label_holes(posterior, name, fn)
    for name, free in clamped.items():
        posterior = posterior.isel({f"{name}.coordinate": free})
    if not (holes or clamped):
        return data
    if is_old(az):
        data.posterior = posterior
    else:
        data["posterior"].dataset = posterior
    return data


def _label_holes(posterior: Any, name: str, fn: Holes | PaddedHoles) -> Any:
    """The holes of a table as one labelled vector, without padding."""
    table, draws = name.removesuffix(".missing"), posterior[name]
    rows, columns = fn.labels
    values = draws.values.reshape(*draws.shape[:2], -1)
    if values.shape[-1] != len(rows):
        values = values[..., list(fn.holes)]
    hole = f"{table}.hole"
    old = [
        dim for dim in draws.dims[2:] if all(dim not in v.dims for v in _others(posterior, name))
    ]
    posterior = posterior.drop_vars([name, *(dim for dim in old if dim in posterior.coords)])
    posterior[name] = ((*draws.dims[:2], hole), values)
    return posterior.assign_coords(
        {
            hole: [".".join(pair) for pair in zip(rows, columns, strict=True)],
            f"{table}.row": (hole, rows),
            f"{table}.column": (hole, columns),
        }
    )


def _others(posterior: Any, name: str) -> list[Any]:
    return [variable for key, variable in posterior.data_vars.items() if key != name]
