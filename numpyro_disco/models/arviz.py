"""Labelled ArviZ objects from runs of models with learned priors.

The result is an `InferenceData` with ArviZ 0.x and a `DataTree` with ArviZ 1.x.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from numpyro_disco._arviz import get_group, set_group, storable_names
from numpyro_disco._numpyro import (
    model_and_arguments,
    with_observed_vectors,
    with_renamed_sites,
)
from numpyro_disco._statistics import log_mean
from numpyro_disco._tracing import is_latent, trace_sites
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.models.discrete import DiscreteCoordinate
from numpyro_disco.models.missing import MissingEntries, PaddedEntries
from numpyro_disco.models.results import RunResults
from numpyro_disco.models.structure import without_wrappers


def to_arviz(
    sampler: Any,
    *,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    **kwargs: Any,
) -> Any:
    """Convert a run to ArviZ, with labels for the coordinates of learned priors.

    This is `arviz.from_numpyro`, with these additions:

    - The missing entries of a table, "name.missing", get the dimension "name.entry" with labels
      "row.column", and the coordinates "name.row" and "name.column" along it. Padding is left out.
    - A vector site of a learned prior gets the dimension "name.coordinate" with the names of its
      coordinates. Clamped coordinates are left out, since constants have no diagnostics.
    - Draws of a category, "name.column", are codes. The coordinate "name.column.level" has their
      labels, so ``posterior["x.cut.level"][posterior["x.cut"]]`` are the draws as labels.
    - The log evidence of each run of a `TemperedSMC` is `sample_stats["log_normalizer"]`. The log
      of the runs' mean evidence, its standard error and the share of draws of the priors that are
      impossible are attributes of the groups "posterior" and "sample_stats": "log_normalizer",
      "log_normalizer_error" and "impossible_share".
    - A table with names that a vector site observes is stored in the order of the coordinates.
    - A site whose name holds "/", which ArviZ cannot store, is renamed, with a warning.

    Args:
        sampler: a NumPyro `MCMC`, or a `TemperedSMC`, that has run.
        coords: further coordinates, as for ArviZ.
        dims: further dimensions, as for ArviZ.
        **kwargs: further arguments of `arviz.from_numpyro`.

    Returns:
        The result of `arviz.from_numpyro`, labelled.

    Raises:
        ValueError: The sampler has a potential function instead of a model.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro_disco as disco
        >>> from numpyro.infer import MCMC, NUTS
        >>> q = disco.GaussianReference(jnp.zeros(2), 9 * jnp.eye(2))
        >>> prior = disco.EnergyDistribution(lambda x: 0.5 * (x @ x), q, names=("a", "b"))
        >>> rows = jnp.array([[0.1, jnp.nan], [0.3, 0.4]])
        >>> mcmc = MCMC(NUTS(lambda: disco.sample("x", prior, obs=rows)),
        ...             num_warmup=10, num_samples=10, progress_bar=False)
        >>> mcmc.run(jax.random.key(0))
        >>> disco.to_arviz(mcmc).posterior["x.missing"].coords["x.entry"].values.tolist()
        ['0.b']
    """
    import arviz as az

    model, args, model_kwargs = model_and_arguments(sampler)
    if model is None:
        raise ValueError("Expected a sampler with a `model`; got one of a potential function.")
    sites = trace_sites(model, args, model_kwargs)
    if vectors := _observed_vectors(sites):
        sampler = with_observed_vectors(sampler, vectors)
    if renamed := storable_names(sites):
        sampler = with_renamed_sites(sampler, renamed)
        sites = trace_sites(sampler.sampler.model, args, model_kwargs)
    labels = _read_labels(sites, dims or {})
    data = az.from_numpyro(
        sampler, coords={**(coords or {}), **labels.coords}, dims=labels.dims, **kwargs
    )
    posterior = get_group(az, data, "posterior")
    for name, fn in labels.missing.items():
        posterior = _label_missing(posterior, name, fn)
    for name, free in labels.free.items():
        posterior = posterior.isel({f"{name}.coordinate": free})
    levels = {f"{name}.level": found for name, found in labels.levels.items() if name in posterior}
    posterior = posterior.assign_coords(levels)
    if isinstance(sampler, RunResults):
        posterior = posterior.assign_attrs(_evidence(sampler))
        stats = get_group(az, data, "sample_stats").assign_attrs(_evidence(sampler))
        # One number for each run, which ArviZ's converter repeats for each draw.
        stats["log_normalizer"] = stats["log_normalizer"].isel(draw=0, drop=True)
        set_group(az, data, "sample_stats", stats)
    set_group(az, data, "posterior", posterior)
    return data


def _observed_vectors(sites: dict[str, dict]) -> dict[str, Any]:
    """Observed values with names, such as DataFrames, as vectors or arrays of their priors."""
    found = {}
    for name, site in sites.items():
        if site["type"] != "sample" or not site["is_observed"]:
            continue
        fn, value = without_wrappers(site["fn"]), site["value"]
        if isinstance(fn, EnergyDistribution) and not isinstance(value, np.ndarray | jax.Array):
            vectors = fn.points(value)
            whole = fn.from_vectors(vectors)
            found[name] = vectors if isinstance(whole, dict) else whole
    return found


def _evidence(sampler: RunResults) -> dict[str, float]:
    """The log evidence, its error and the share of impossible draws, as attributes."""
    mean, error = log_mean(sampler.log_normalizer)
    return {
        "log_normalizer": float(mean),
        "log_normalizer_error": float(error),
        "impossible_share": float(np.mean(np.asarray(sampler.impossible_share))),
    }


class _Labels(NamedTuple):
    """Labels of the sites of a model."""

    coords: dict[str, Any]
    """Names of the coordinates of each vector site."""
    dims: dict[str, Sequence[str]]
    """Dimensions of each site that has any."""
    missing: dict[str, MissingEntries | PaddedEntries]
    """Sites of missing entries."""
    free: dict[str, np.ndarray]
    """Free coordinates of the vector sites that have clamped ones."""
    levels: dict[str, list[Any]]
    """Labels of the levels of each category."""


def _read_labels(sites: dict[str, dict], dims: Mapping[str, Sequence[str]]) -> _Labels:
    """Find the labels of all sites; `dims` are the user's, which take precedence."""
    labels = _Labels({}, dict(dims), {}, {}, {})
    for name, site in sites.items():
        if site["type"] not in ("sample", "deterministic") or name in dims:
            continue
        fn = without_wrappers(site["fn"]) if is_latent(site) else None
        if isinstance(fn, DiscreteCoordinate) and fn.labels:
            labels.levels[name] = list(fn.labels)
        # ArviZ finds the plates of a site itself, but only if no dimensions are given.
        plates = [f.name for f in sorted(site["cond_indep_stack"], key=lambda frame: frame.dim)]
        if isinstance(fn, MissingEntries | PaddedEntries):
            labels.missing[name] = fn
        elif isinstance(fn, EnergyDistribution) and len(fn.event_shape) == 1:
            num_axes = len(site["fn"].batch_shape)
            unnamed = [f"{name}_dim_{i}" for i in range(num_axes)]
            axes = plates if len(plates) == num_axes else unnamed
            labels.dims[name] = [*axes, f"{name}.coordinate"]
            labels.coords[f"{name}.coordinate"] = list(fn.names)
            if any(fn.observed):
                labels.free[name] = np.flatnonzero(~np.asarray(fn.observed))
        elif named := [*plates, *(site.get("infer") or {}).get("event_dims", [])]:
            labels.dims[name] = named
    return labels


def _label_missing(posterior: Any, name: str, fn: MissingEntries | PaddedEntries) -> Any:
    """Replace the draws of missing entries by one labelled vector without padding."""
    table, draws = name.removesuffix(".missing"), posterior[name]
    rows, columns = fn.labels
    values = draws.values.reshape(*draws.shape[:2], -1)
    if values.shape[-1] != len(rows):
        values = values[..., list(fn.places)]
    entry = f"{table}.entry"
    in_use = {dim for other, v in posterior.data_vars.items() if other != name for dim in v.dims}
    unused = [dim for dim in draws.dims[2:] if dim not in in_use and dim in posterior.coords]
    posterior = posterior.drop_vars([name, *unused])
    posterior[name] = ((*draws.dims[:2], entry), values)
    return posterior.assign_coords(
        {
            entry: [".".join(pair) for pair in zip(rows, columns, strict=True)],
            f"{table}.row": (entry, rows),
            f"{table}.column": (entry, columns),
        }
    )
