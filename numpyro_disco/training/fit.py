"""`fit`: from rows of data to a learned prior.

The steps: settings are resolved (`settings.py`), data is parsed once (`rows/table.py`), mapped to
unconstrained space and standardised (`rows/units.py`); then a reference is made, a network is
trained as its correction, and the result is put together (`learning.py`).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from numpyro.distributions import constraints

from numpyro_disco._checks import check_key
from numpyro_disco._statistics import selected
from numpyro_disco._typing import Array, ArrayLike
from numpyro_disco.energy.requirements import check_joint_reference
from numpyro_disco.references.base import Reference
from numpyro_disco.references.fitting import MixtureFit
from numpyro_disco.tables.draws import read_draws
from numpyro_disco.tables.variables import Variables
from numpyro_disco.training.arrays import (
    array_defaults,
    is_stack_of_arrays,
    prepare_arrays,
    read_arrays,
)
from numpyro_disco.training.checkpoints import Checkpoint, fit_marks
from numpyro_disco.training.incomplete_rows import learn_from_incomplete
from numpyro_disco.training.learning import FitKeys, PreparedRows, Task, learn
from numpyro_disco.training.network import MLP, UNet, check_network
from numpyro_disco.training.objectives import Objective
from numpyro_disco.training.optimizer import AdamW
from numpyro_disco.training.result import FitResult
from numpyro_disco.training.rows.row_weights import aligned_with_draws, draws_without_weights
from numpyro_disco.training.rows.table import (
    Table,
    check_dependence,
    check_range,
    check_rounding,
    read_table,
)
from numpyro_disco.training.rows.table_warnings import (
    warn_of_determined,
    warn_of_few_effective_rows,
    warn_of_incomplete_rows,
    warn_of_spikes,
    warn_of_wide,
)
from numpyro_disco.training.rows.transforms import choose_transform
from numpyro_disco.training.rows.units import unconstrained_rows
from numpyro_disco.training.rows.windows import Stream, read_sample
from numpyro_disco.training.settings import FitSettings, Refit, requested_settings


def fit(
    rng_key: Array,
    data: Any,
    *,
    objective: Objective | str | None = None,
    noise_scale: float | str | None = None,
    network: MLP | UNet | None = None,
    reference: Reference | MixtureFit | str | None = None,
    optimizer: AdamW | optax.GradientTransformation | None = None,
    names: Sequence[str] | None = None,
    weights: ArrayLike | str | None = None,
    supports: Mapping[str, constraints.Constraint] | None = None,
    transform: str | None = None,
    missing: str | Refit | None = None,
    num_steps: int | None = None,
    batch_size: int | None = None,
    held_out_fraction: float | None = None,
    patience: int | None = None,
    resume: FitResult | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    devices: Sequence[jax.Device] | None = None,
    progress_bar: bool = True,
) -> FitResult:
    """Learn the joint density of the columns of `data` as one energy.

    Rows are mapped to unconstrained space if `supports` ask for it, and standardised. A network is
    trained on nine tenths of the rows; the weights that do best on the others are kept. There are
    two main objectives:

    - `Contrastive()`, the default, learns the density of the rows. It fits a Gaussian mixture as
      the reference and trains the network to tell rows from draws of it. The relative masses of
      modes and the normalising constant are learned as well, where draws of the reference reach.
    - `Disco(noise_scale=...)` learns the density of the rows smoothed by Gaussian noise, by score
      matching against the exact posterior over training rows. It needs no reference near the rows.
      `noise_scale=0.05` is short for it.

    Conditionals drawn later are asymptotically exact for the learned density. `FitResult.report`
    checks how close that is to the density of the data.

    Args:
        rng_key: random key; the same key gives the same result on the same machine.
        data: array (N, D), a DataFrame of pandas, polars or pyarrow, a dict of columns, or an
            xarray object; finite numbers, booleans, categories or text of at most 64 levels, and
            dates; entries may be missing. At least max(10, D + 2) complete rows. Rows that do not
            fit into memory can stay on disk: a memory-mapped array, a Parquet data set (its path,
            or a `pyarrow.dataset.Dataset`; columns that `names` leaves out are not read), or a
            `grain.RandomAccessDataSource` of records. Of more than 200,000 such rows, a random
            sample of that size gives the units, the reference and the held-out rows, and is what
            `report` compares with; batches are drawn from all other rows. Or draws of another run,
            whose sites become variables of their own shape, so that `disco.sample` returns a dict:
            an `MCMC` or `TemperedSMC` that has run, an ArviZ object with a posterior, an xarray
            dataset with chain and draw, or a dict of arrays (N,) + shape, some with more axes.
            Deterministic sites are taken only if `names` asks for them. Or an array with three axes
            or more, (N, height, width), (N, height, width, channels) or (N, length, channels): at
            least ten arrays such as images, which are learned with `Disco`, a `UNet`, and a
            Gaussian with their covariances as the reference.
        objective: an objective such as `disco.Contrastive(num_redraws=2)` or
            `disco.Disco(noise_scale=0.05)`, or its name if it needs no settings. By default
            `Contrastive()`; with a `reference` other than a fitted mixture, `Disco()`.
        noise_scale: short for `objective=disco.Disco(noise_scale=...)`.
        network: sizes of the network, `disco.MLP(width=128, num_blocks=2)` by default, and
            `disco.UNet(width=32)` for arrays.
        reference: "mixture" or `disco.MixtureFit(max_components=...)`, a Gaussian mixture with as
            many components as held-out rows support, the default of contrastive objectives;
            "gaussian", a Gaussian with the mean and twice the standard deviations of the data, the
            default of the others; or a reference of your own in the user's units (of unconstrained
            coordinates, with `supports`).
        optimizer: `disco.AdamW(learning_rate=2e-3)` by default, or any optax optimiser.
        names: D distinct names; by default those that `data` carries, or "0", "1", .... They select
            the order of named columns, or rename them; of draws, they select variables. If all
            variables are sites of one learned prior, "theta.b", its prefix is dropped.
        weights: survey or importance weights of the rows, shape (N,), or the name of a column of
            `data` that holds them and is not learned: finite and non-negative, in any unit. A row
            of weight two counts like two equal rows, and one of weight zero is left out. The
            density that is learned is that of the weighted rows; held-out losses and the report are
            weighted as well. None by default: all are equal.
        supports: from names to NumPyro constraints on one number: `constraints.positive`,
            `unit_interval`, `interval(a, b)`, .... Draws stay inside. `boolean` and
            `integer_interval(a, b)` with at most 64 levels make a column discrete: each level has
            a mass, which is learned as such (`Contrastive` only). Other discrete constraints
            (`nonnegative_integer`, wider intervals) declare whole numbers that are spread evenly
            over the unit interval around each, so that they have a density; round draws to get
            whole numbers back. Of draws, supports of variables such as `constraints.simplex` or
            `corr_cholesky`, in place of those of the sampler's model.
        transform: "sinh_arcsinh" trains on columns mapped towards normality, one map of four
            numbers for each column without a support; densities and draws stay in the user's units.
            It helps with heavy tails and skew, and hurts where columns are nearly linear functions
            of each other. "auto" takes it if held-out rows prefer it. None by default.
        missing: what is done with rows in which entries are missing. "mixture", the default, draws
            them from a mixture fitted to what is observed of all rows, which is right if they are
            missing at random, and learns from all rows. `disco.Refit(num_refits=...)` then draws
            them from the learned density and learns again, each time. "complete" learns from
            complete rows alone, which is unbiased only if entries are missing completely at random.
            Of rows that stay on disk, only complete ones are learned from.
        num_steps: most optimiser steps, rounded up to rounds of 50; by default 1,500 for
            contrastive objectives, otherwise 3,000.
        batch_size: rows (and as many draws of the reference), or noisy points, in a step; by
            default, for contrastive objectives 512 on up to 2,000 rows and 2,048 on more than
            10,000; for `Likelihood` 256; otherwise 1,024.
        held_out_fraction: share of the rows that are not trained on and judge the fit; 0.1 by
            default.
        patience: steps without a lower held-out loss after which contrastive objectives and
            `Likelihood` stop, or after a quarter of them if that loss has risen by more than three
            standard errors; 500 by default.
        resume: an earlier result to continue, with the same key, data and settings; settings that
            are not given again are taken from it. A larger `num_steps` (and `patience`) trains for
            longer.
        checkpoint: a folder in which the state of training is saved between rounds of 50 steps,
            twice a minute at most. If it exists and belongs to the same call, `fit` continues and
            ends with the result of an uninterrupted call; if that had ended, it returns at once.
        devices: JAX devices that share each batch equally, for instance `jax.devices()`, including
            those of other processes under `jax.distributed`, all of which make the same call. The
            result is the same up to rounding.
        progress_bar: show progress with tqdm.

    Returns:
        A `FitResult`. After an interruption from the keyboard it holds the best weights so far.

    Raises:
        ValueError: data without a density, or arguments that do not fit together.
        CheckpointError: `checkpoint` belongs to another call, or is damaged.
        FloatingPointError: the loss is not finite.

    Warns:
        UserWarning: rows with missing entries are left out, `weights` leave a small effective
            number of rows, one value of a column is far more common than any other, or a few
            columns determine another one (see `training.rows.determined`).

    References:
        Wedenig & Peharz 2025; Gutmann & Hyvarinen 2012.

    Example:
        >>> import jax, numpy as np, numpyro_disco as disco
        >>> rows = np.random.default_rng(0).normal(size=(200, 2))
        >>> fit = disco.fit(
        ...     jax.random.key(0), {"a": rows[:, 0], "b": rows[:, 1]}, num_steps=50, batch_size=64,
        ...     network=disco.MLP(width=16, num_blocks=1), progress_bar=False,
        ... )
        >>> fit.distribution.names
        ('a', 'b')
    """
    keys = FitKeys(*jax.random.split(check_key(rng_key), 4))
    given = {
        "objective": objective,
        "noise_scale": noise_scale,
        "reference": reference,
        "network": network,
        "optimizer": optimizer,
        "supports": supports,
        "transform": transform,
        "missing": missing,
        "num_steps": num_steps,
        "batch_size": batch_size,
        "held_out_fraction": held_out_fraction,
        "patience": patience,
    }
    settings = _requested(data, resume, given)
    sample_key = jax.random.fold_in(keys.table, 2)
    table, stream, variables = _read(sample_key, data, names, weights, settings)
    _check_stream(settings, stream)
    settings = _for_columns(table, variables, settings)
    spread_key, impute_key = jax.random.split(keys.table)
    marks = fit_marks(
        rng_key,
        table.names,
        jax.tree.leaves((table.values, table.weights)),
        settings,
        None if resume is None else resume.resumable.run,
    )
    leaves_out = settings.missing == "complete" or stream is not None
    if leaves_out:
        warn_of_incomplete_rows(table, sampled=stream is not None)
    settings, prepared = _prepare(spread_key, table, settings, leaves_out, variables)
    prepared = prepared._replace(stream=stream, variables=variables)
    task = Task(keys, prepared, settings, Checkpoint(checkpoint, marks), devices, progress_bar)
    if np.isnan(prepared.rows).any():
        return learn_from_incomplete(impute_key, task, resume)
    return learn(task, "fit", resume)


def _requested(data: Any, resume: FitResult | None, given: dict[str, Any]) -> FitSettings:
    """The requested settings, for rows or for arrays."""
    if is_stack_of_arrays(data) and resume is None:
        given = array_defaults(given)
    return requested_settings(None if resume is None else resume.settings, **given)


def _read(
    rng_key: Array, data: Any, names: Sequence[str] | None, weights: Any, settings: FitSettings
) -> tuple[Table, Stream | None, Variables | None]:
    """The rows in memory, those on disk, and the variables if these are draws of variables."""
    smoothed = not settings.objective.needs_density
    fills = settings.missing != "complete"
    if is_stack_of_arrays(data):
        table, variables = read_arrays(data, names, weights)
        return table, None, variables
    draws = read_draws(data, names, settings.supports)
    if draws is None:
        table, stream = read_sample(
            rng_key, data, names, settings.supports, weights, smoothed=smoothed, fills=fills
        )
    else:
        stream = None
        columns, draws = draws.columns, draws_without_weights(draws, weights)
        weights = aligned_with_draws(weights, data, len(next(iter(columns.values()))))
        table = read_table(columns, None, draws.supports, weights, smoothed=smoothed, fills=fills)
    warn_of_few_effective_rows(table)
    warn_of_wide(table, smoothed)
    return table, stream, None if draws is None else draws.variables


def _check_stream(settings: FitSettings, stream: Stream | None) -> None:
    """Refuse settings for which all rows have to be in memory, for rows that are not."""
    if stream is None:
        return
    if settings.objective.needs_all_rows:
        raise ValueError(
            f"Expected an `objective` that learns from batches, for rows that stay on disk; got "
            f"{type(settings.objective).__name__}, whose targets are computed from all rows. Use "
            "`disco.Contrastive()` or `disco.Denoising()`, or give a random part of the rows that "
            "fits into memory, as an array."
        )
    if isinstance(settings.missing, Refit):
        raise ValueError(
            "Expected no `missing=disco.Refit(...)` for rows that stay on disk: all rows are "
            f"imputed in memory; got {settings.missing}. Give a random part of the rows, as an "
            "array."
        )


def _for_columns(table: Table, variables: Variables | None, settings: FitSettings) -> FitSettings:
    """Refuse settings that do not fit the columns; find the columns that the objective names."""
    _check_reference(settings.reference, len(table.names))
    array = None if variables is None else variables.array
    check_network(settings.network, None if array is None else array.shape)
    settings.objective.check_dimension(*table.values.shape)
    _check_discrete(table, settings)
    objective = settings.objective.for_columns(table.names, variables)
    return dataclasses.replace(settings, objective=objective)


def _check_discrete(table: Table, settings: FitSettings) -> None:
    """Refuse discrete columns that the objective or the reference cannot have."""
    discrete = [n for n, count in zip(table.names, table.num_levels, strict=True) if count]
    if discrete and settings.objective.normalizes:
        raise ValueError(
            f"Expected `objective=disco.Contrastive()` for `data` with the discrete columns "
            f"{discrete}; got {type(settings.objective).__name__}, which learns a density, and "
            "levels have masses. Use `Contrastive()`, or leave these columns out."
        )
    if discrete and not settings.objective.takes_discrete:
        raise ValueError(
            f"Expected `objective=disco.Contrastive()` for `data` with the discrete columns "
            f"{discrete}; got {type(settings.objective).__name__}, which follows gradients, and "
            "levels have none. Use `Contrastive()`, or declare whole numbers that may be smoothed "
            f"as real: `supports={{{discrete[0]!r}: constraints.real}}`."
        )
    reference = settings.reference
    given = reference.num_levels if isinstance(reference, Reference) else table.num_levels
    if discrete and (
        given != table.num_levels or not isinstance(reference, Reference | MixtureFit)
    ):
        raise ValueError(
            "Expected 'mixture', `disco.MixtureFit(...)` or a `disco.MixedReference` with the "
            f"levels {table.num_levels} for `reference`, as {discrete} are discrete; got "
            f"{reference!r}."
        )


def _check_reference(reference: Any, dimension: int) -> None:
    """Refuse a reference over another number of columns, and one that is conditioned."""
    if not isinstance(reference, Reference):
        return
    check_joint_reference(reference)
    if tuple(reference.event_shape) != (dimension,):
        raise ValueError(
            f"Expected a `reference` over {dimension} coordinates, as `data` has columns; got "
            f"event shape {reference.event_shape}."
        )


def _prepare(
    rng_key: Array,
    table: Table,
    settings: FitSettings,
    leaves_out: bool,
    variables: Variables | None,
) -> tuple[FitSettings, PreparedRows]:
    """Check the rows, choose a transform, and map the rows to unconstrained space.

    Rows with missing entries are left out, if `leaves_out`.
    """
    if variables is not None and variables.array is not None:
        return prepare_arrays(table, settings, leaves_out)
    resolution = settings.objective.smallest_resolution
    if settings.objective.needs_density:
        warn_of_spikes(table)
        warn_of_determined(table)
    check_range(table)
    check_rounding(table, resolution)
    if settings.transform == "auto":
        chosen = choose_transform(
            rng_key, table, resolution=resolution, whiten=settings.objective.whitens
        )
        settings = dataclasses.replace(settings, transform=chosen)
    # A reference of the user's own is in the units of the columns.
    rescale = not isinstance(settings.reference, Reference)
    values, supports = unconstrained_rows(rng_key, table, settings.transform, rescale)
    kept = ~table.incomplete if leaves_out else np.ones(len(values), bool)
    if not supports.real:
        # Columns that are independent in the user's units may depend on each other in unconstrained
        # space.
        check_dependence(values[~table.incomplete], table)
    weights = selected(table.weights, kept)
    return settings, PreparedRows(
        values[kept], table.names, supports, table.columns, weights=weights
    )
