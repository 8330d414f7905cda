"""One fit of prepared rows: the reference, the network, training, and the result."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._devices import local, same_everywhere, spread_over
from numpyro_disco._statistics import effective_number
from numpyro_disco._typing import Array
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.energy.learned import Learned, LearnedEnergy
from numpyro_disco.references.base import Reference
from numpyro_disco.references.em import MixtureParameters
from numpyro_disco.references.fitting import MixtureFit, fit_reference
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.tables.columns import Column
from numpyro_disco.tables.variables import Variables
from numpyro_disco.training.checkpoints import Checkpoint
from numpyro_disco.training.loop import Run, make_plan, train
from numpyro_disco.training.network import untrained_model
from numpyro_disco.training.references import References, make_references, noisy_samples
from numpyro_disco.training.report.evidence import FitEvidence
from numpyro_disco.training.report.training import (
    warn_if_untrained,
    warn_of_distant_reference,
)
from numpyro_disco.training.result import FitResult, Resumable, history_arrays
from numpyro_disco.training.rows.batches import TrainingRows, training_rows
from numpyro_disco.training.rows.column_order import column_order
from numpyro_disco.training.rows.units import Units, split_rows, standard_units
from numpyro_disco.training.rows.windows import Stream, WindowedRows
from numpyro_disco.training.settings import FitSettings, Refit


class FitKeys(NamedTuple):
    """The random keys of a fit."""

    split: Array
    """The split into held-out and training rows."""
    network: Array
    """Initial weights."""
    train: Array
    """Batches."""
    table: Array
    """Spreading of whole numbers, choice of a transform, and imputation."""


class PreparedRows(NamedTuple):
    """Rows in unconstrained space, ready to be learned from."""

    rows: np.ndarray
    """Shape (N, D); NaN where an entry is missing, but not where rows are learned from."""
    names: tuple[str, ...]
    """Names of the D columns."""
    supports: CoordinateSupports
    """Maps between unconstrained space and the user's units."""
    columns: tuple[Column, ...]
    """Meaning of the numbers of each column."""
    stream: Stream | None = None
    """All rows, if these are a sample of rows on disk."""
    variables: Variables | None = None
    """The variables that the columns form, if the rows are draws of variables."""
    weights: np.ndarray | None = None
    """Positive weights of the rows, shape (N,); None if all are equal."""
    judging_weights: np.ndarray | None = None
    """Weights of the rows if they are held out, shape (N,), zero for rows that judge nothing; None
    if they are `weights`."""

    @property
    def array_shape(self) -> tuple[int, ...] | None:
        """Shape of the arrays, if rows are arrays such as images."""
        array = None if self.variables is None else self.variables.array
        return None if array is None else array.shape


class Task(NamedTuple):
    """One training: rows, settings, and where it runs and is saved."""

    keys: FitKeys
    """The random keys."""
    prepared: PreparedRows
    """Rows in unconstrained space."""
    settings: FitSettings
    """Settings of the fit, perhaps with open defaults."""
    checkpoint: Checkpoint
    """The checkpoint of the fit."""
    devices: Sequence[jax.Device] | None
    """JAX devices that share the batches; None leaves that to JAX."""
    progress_bar: bool
    """Show progress with tqdm."""


def learn(task: Task, name: str, resume: FitResult | None) -> FitResult:
    """Learn from complete rows, some of which are held out.

    Args:
        task: what to learn from, and how.
        name: the part of the checkpoint that this training owns.
        resume: an earlier result to continue, or None.

    Raises:
        ValueError: `resume` comes from other rows or settings.
        FloatingPointError: the loss is not finite.
    """
    checkpoint = task.checkpoint.subfolder(name)
    setup = _set_up(task, resume, checkpoint)
    if resume is not None and resume.resumable.fingerprint != setup.fingerprint:
        raise ValueError(
            "Expected `resume` to come from the same key, data, reference and settings (all but "
            "`num_steps` and `patience`); they differ. Start anew without `resume`."
        )
    plan = make_plan(setup.settings)
    before = None if resume is None else resume.resumable.run
    saved = checkpoint.read_run(setup.model.weights, plan)
    if saved is not None and saved.finished:
        return _result(setup, task.prepared, saved.run, interrupted=False)
    with spread_over(task.devices):
        run, interrupted = train(
            task.keys.train,
            setup.model,
            setup.windows or setup.rows,
            setup.held_out,
            plan,
            patience=setup.settings.patience,
            run=before if saved is None else saved.run,
            after_round=checkpoint.after_round,
            progress_bar=task.progress_bar,
            resumable=not isinstance(setup.settings.missing, Refit),
        )
    run = run if task.devices is None else local(run)
    checkpoint.write_run(run, finished=not interrupted)
    if resume is not None and not interrupted:
        _warn_if_nothing_was_trained(resume, run)
    result = _result(setup, task.prepared, run, interrupted)
    warn_of_distant_reference(result.evidence)
    warn_if_untrained(result.evidence)
    return result


class _Setup(NamedTuple):
    """Everything that is decided before the first step of training."""

    settings: FitSettings
    """Every default resolved."""
    references: References
    """The reference in both units."""
    model: Learned
    """The untrained network."""
    distribution: EnergyDistribution | None
    """The distribution around it; None for a score network."""
    rows: TrainingRows
    """Standardised rows to train on; with `windows`, those of the sample."""
    windows: WindowedRows | None
    """Training rows that are read from disk, if they do not fit into memory."""
    held_out: TrainingRows
    """Standardised held-out rows."""
    noise_scales: dict[float, float]
    """Mean held-out log density by noise scale tried."""
    fingerprint: tuple
    """Everything that must be the same for a run to be continued."""


def _set_up(task: Task, resume: FitResult | None, checkpoint: Checkpoint) -> _Setup:
    """Standardise the rows, make the reference, resolve the settings, and build the network."""
    keys, prepared, settings = task.keys, task.prepared, task.settings
    objective = settings.objective
    units = standard_units(
        keys.split,
        prepared.rows,
        prepared.names,
        row_weights=prepared.weights,
        judging_weights=prepared.judging_weights,
        held_out_fraction=settings.held_out_fraction,
        resolution=objective.smallest_resolution,
        whiten=objective.whitens,
        num_levels=prepared.supports.num_levels,
        pooled=prepared.array_shape is not None,
    )
    held_out = training_rows(units.standardize(units.held_out), units.held_out_weights)
    rows = training_rows(units.standardize(units.rows), units.row_weights)
    objective, noise_scales = objective.with_noise_scale(rows, held_out)
    if resume is not None:
        noise_scales = resume.noise_scales
    settings = dataclasses.replace(settings, objective=objective)
    is_array, samples = prepared.array_shape is not None, (rows, held_out)
    if is_array:
        samples = noisy_samples(keys.split, *samples, objective.resolution)
    fitted = partial(_fitted_mixture, task, units, *samples, checkpoint)
    num_levels = prepared.supports.num_levels
    references = make_references(
        settings, units, rows, num_levels, resume, fitted, is_array=is_array
    )
    num_rows = effective_number(rows.weights, len(rows.values))
    settings = settings.resolved(references.standard, round(num_rows))
    _check_devices(task.devices, settings)
    model = untrained_model(
        keys.network,
        settings.network,
        settings.objective,
        references.standard,
        units,
        linear=references.linear,
        shape=prepared.array_shape,
        order=_column_order(task, rows, checkpoint),
    )
    # Made before training, so that errors come before the time is spent.
    distribution = _distribution(model, references.unconstrained, prepared, units, settings)
    fingerprint = _fingerprint(keys, prepared, references, model, settings)
    return _Setup(
        settings,
        references,
        model,
        distribution,
        rows,
        _windows(task, units, settings),
        held_out,
        noise_scales,
        fingerprint,
    )


def _check_devices(devices: Sequence[jax.Device] | None, settings: FitSettings) -> None:
    """Refuse batches that the devices cannot share equally."""
    assert settings.batch_size is not None
    if devices is not None and settings.batch_size % len(devices):
        raise ValueError(
            f"Expected a `batch_size` that {len(devices)} `devices` can share equally; got "
            f"{settings.batch_size}. Give a multiple of {len(devices)}."
        )


def _windows(task: Task, units: Units, settings: FitSettings) -> WindowedRows | None:
    """The reader of training rows, if they are on disk."""
    stream = task.prepared.stream
    if stream is None:
        return None
    held_out, _ = split_rows(task.keys.split, len(stream.places), settings.held_out_fraction)
    assert settings.batch_size is not None
    return WindowedRows(
        stream,
        np.sort(stream.places[held_out]),
        task.prepared.supports,
        units,
        settings.batch_size,
    )


def _result(setup: _Setup, prepared: PreparedRows, run: Run, interrupted: bool) -> FitResult:
    """The result of a run, with the weights of its best step."""
    model = dataclasses.replace(setup.model, weights=run.best, smoothed=None)
    prior, history = setup.distribution, history_arrays(run)
    evidence = FitEvidence(
        distribution=None if prior is None else prior.replace(energy_fn=model),
        model=model,
        coordinate_supports=prepared.supports,
        names=prepared.names,
        columns=prepared.columns,
        rows=np.asarray(setup.rows.values),
        held_out=np.asarray(setup.held_out.values),
        row_weights=setup.rows.weights,
        held_out_weights=setup.held_out.weights,
        array_shape=prepared.array_shape,
        history=history,
        best_step=run.best_step,
        settings=setup.settings,
        noise_scales=setup.noise_scales,
        components=setup.references.components,
        interrupted=interrupted,
    )
    return FitResult(
        settings=setup.settings,
        history=history,
        best_step=run.best_step,
        components=setup.references.components,
        noise_scales=setup.noise_scales,
        interrupted=interrupted,
        evidence=evidence,
        resumable=Resumable(run, setup.fingerprint),
    )


def _column_order(task: Task, rows: TrainingRows, checkpoint: Checkpoint) -> tuple[int, ...] | None:
    """The order of the columns for a normalised density, unless the checkpoint has it.

    It is kept because the weights of the network belong to it.
    """
    objective = task.settings.objective
    if not objective.normalizes:
        return None
    last = objective.drawn_last
    arrays = checkpoint.kept(
        "order", lambda: {"order": np.asarray(column_order(rows.values, last))}
    )
    if task.devices is not None:
        arrays = same_everywhere(arrays)
    return tuple(map(int, arrays["order"]))


def _fitted_mixture(
    task: Task,
    units: Units,
    rows: TrainingRows,
    held_out: TrainingRows,
    checkpoint: Checkpoint,
    settings: MixtureFit,
) -> tuple[MixtureParameters, dict[int, float]]:
    """Fit a mixture over standardised rows, unless the checkpoint has it."""

    def fitted() -> dict[str, np.ndarray]:
        with spread_over(task.devices):
            mixture, components = fit_reference(
                rows.values,
                held_out.values,
                settings=settings,
                basis=units.basis,
                row_weights=rows.weights,
                held_out_weights=held_out.weights,
                num_levels=task.prepared.supports.num_levels,
                progress_bar=task.progress_bar,
            )
        return {**mixture._asdict(), "components": np.asarray(list(components.items()))}

    arrays = checkpoint.kept("reference", fitted)
    if task.devices is not None:
        arrays = same_everywhere(arrays)
    components = {int(count): float(value) for count, value in arrays["components"]}
    return MixtureParameters(*(arrays[name] for name in MixtureParameters._fields)), components


def _distribution(
    model: Learned,
    reference: Reference,
    prepared: PreparedRows,
    units: Units,
    settings: FitSettings,
) -> EnergyDistribution | None:
    """The distribution around the untrained energy; None for a score network."""
    if not isinstance(model, LearnedEnergy):
        return None
    objective, dtype = settings.objective, jnp.result_type(float)
    smoothed = objective.smooths and not objective.undoes_smoothing
    prior = EnergyDistribution(
        model,
        reference,
        names=prepared.names,
        supports=dict(zip(prepared.names, prepared.supports.supports, strict=True)),
        columns=dict(zip(prepared.names, prepared.columns, strict=True)),
        loc=units.loc.astype(dtype),
        scale=units.scale.astype(dtype),
        noise_scale=objective.resolution if smoothed else None,
    )
    return prior.over(prepared.variables)


def _fingerprint(
    keys: FitKeys,
    prepared: PreparedRows,
    references: References,
    model: Learned,
    settings: FitSettings,
) -> tuple:
    """Everything that must be the same for a run to be continued, that is all but its length."""
    arrays = [
        prepared.rows,
        jax.random.key_data(keys.split),
        *jax.tree.leaves(references.standard),
        *([] if prepared.weights is None else [prepared.weights]),
    ]
    digest = hashlib.sha256(b"".join(np.asarray(array).tobytes() for array in arrays)).hexdigest()
    plan = make_plan(settings)._replace(num_steps=0)
    kind = type(references.unconstrained).__name__
    return (
        prepared.names,
        prepared.supports,
        digest,
        kind,
        model.graph,
        plan,
        settings.held_out_fraction,
    )


def _warn_if_nothing_was_trained(resume: FitResult, run: Run) -> None:
    if run.carry.step != resume.resumable.run.carry.step:
        return
    more = " and `patience`." if resume.settings.objective.strict else "."
    warnings.warn(
        f"Nothing was trained: `resume` has taken {int(run.carry.step)} steps, and step "
        f"{run.best_step} was the best. Give a larger `num_steps`" + more,
        stacklevel=4,
    )
