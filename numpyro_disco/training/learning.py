"""One fit of prepared rows: the reference, the network, training, and the result."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._typing import Array
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.energy.learned import Learned, LearnedEnergy
from numpyro_disco.references.base import Reference
from numpyro_disco.references.fitting import MixtureFit, fit_reference
from numpyro_disco.references.mixture import MixtureReference
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.training.evidence import FitEvidence
from numpyro_disco.training.loop import Run, make_plan, train
from numpyro_disco.training.network import gaussian_start, untrained_model
from numpyro_disco.training.result import FitResult, Resumable, history_arrays
from numpyro_disco.training.settings import FitSettings
from numpyro_disco.training.units import Units, standard_units


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

    complete: np.ndarray
    """Complete rows, shape (N, D)."""
    incomplete: np.ndarray
    """Rows with missing entries, NaN, shape (M, D)."""
    names: tuple[str, ...]
    """Names of the D columns."""
    supports: CoordinateSupports
    """Maps between unconstrained space and the user's units."""


class _References(NamedTuple):
    """The reference in two kinds of units, and the start of the network."""

    standard: Reference
    """Over standardised coordinates."""
    unconstrained: Reference
    """Over unconstrained coordinates."""
    linear: Array | None
    """The matrix A of `gaussian_start`, for the default Gaussian reference."""
    components: dict[int, float]
    """Mean held-out log density by number of components tried."""


def learn(
    keys: FitKeys,
    prepared: PreparedRows,
    filled: np.ndarray,
    settings: FitSettings,
    resume: FitResult | None,
    progress_bar: bool,
) -> FitResult:
    """Learn from complete rows, some of them held out, and from imputed rows.

    Args:
        keys: the random keys of the fit.
        prepared: rows in unconstrained space.
        filled: rows whose missing entries were imputed, shape (n, D); all are trained on.
        settings: settings of the fit, perhaps with open defaults.
        resume: an earlier result to continue, or None.
        progress_bar: show progress with tqdm.

    Raises:
        ValueError: `resume` comes from other rows or settings.
        FloatingPointError: the loss is not finite.
    """
    setup = _set_up(keys, prepared, filled, settings, resume, progress_bar)
    if resume is not None and resume.resumable.fingerprint != setup.fingerprint:
        raise ValueError(
            "Expected `resume` to come from the same key, data, reference and settings (all but "
            "`num_steps` and `patience`); they differ. Start anew without `resume`."
        )
    run, interrupted = train(
        keys.train,
        setup.model,
        setup.rows,
        setup.held_out,
        make_plan(setup.settings),
        patience=setup.settings.patience,
        run=None if resume is None else resume.resumable.run,
        progress_bar=progress_bar,
        resumable=not len(filled),
    )
    if resume is not None and not interrupted:
        _warn_if_nothing_was_trained(resume, run)
    return _result(setup, prepared, run, interrupted)


class _Setup(NamedTuple):
    """Everything that is decided before the first step of training."""

    settings: FitSettings
    """Every default resolved."""
    references: _References
    """The reference in both units."""
    model: Learned
    """The untrained network."""
    distribution: EnergyDistribution | None
    """The distribution around it; None for a score network."""
    rows: np.ndarray
    """Standardised rows to train on, shape (N, D)."""
    held_out: np.ndarray
    """Standardised held-out rows, shape (M, D)."""
    noise_scales: dict[float, float]
    """Mean held-out log density by noise scale tried."""
    fingerprint: tuple
    """Everything that must be the same for a run to be continued."""


def _set_up(
    keys: FitKeys,
    prepared: PreparedRows,
    filled: np.ndarray,
    settings: FitSettings,
    resume: FitResult | None,
    progress_bar: bool,
) -> _Setup:
    """Standardise the rows, make the reference, resolve the settings, and build the network."""
    objective = settings.objective
    units = standard_units(
        keys.split,
        prepared.complete,
        filled,
        prepared.names,
        held_out_fraction=settings.held_out_fraction,
        resolution=objective.smallest_resolution,
        whiten=objective.whitens,
    )
    held_out, rows = (units.standardize(part) for part in (units.held_out, units.rows))
    objective, noise_scales = objective.with_noise_scale(rows, held_out)
    if resume is not None:
        noise_scales = resume.noise_scales
    settings = dataclasses.replace(settings, objective=objective)
    references = _make_references(settings, units, rows, held_out, resume, progress_bar)
    settings = settings.resolved(references.standard, len(rows))
    model = untrained_model(
        keys.network,
        settings.network,
        settings.objective,
        references.standard,
        references.linear,
        units,
    )
    # Made before training, so that errors come before the time is spent.
    distribution = _distribution(model, references.unconstrained, prepared, units, settings)
    fingerprint = _fingerprint(keys, prepared, filled, references, model, settings)
    return _Setup(
        settings, references, model, distribution, rows, held_out, noise_scales, fingerprint
    )


def _result(setup: _Setup, prepared: PreparedRows, run: Run, interrupted: bool) -> FitResult:
    """The result of a run, with the weights of its best step."""
    model = dataclasses.replace(setup.model, weights=run.best, smoothed=None)
    prior, history = setup.distribution, history_arrays(run)
    evidence = FitEvidence(
        distribution=None if prior is None else prior.replace(energy_fn=model),
        model=model,
        coordinate_supports=prepared.supports,
        rows=setup.rows,
        held_out=setup.held_out,
        history=history,
        best_step=run.best_step,
        objective=setup.settings.objective,
        noise_scales=setup.noise_scales,
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


def _make_references(
    settings: FitSettings,
    units: Units,
    rows: np.ndarray,
    held_out: np.ndarray,
    resume: FitResult | None,
    progress_bar: bool,
) -> _References:
    """Fit, take or derive the reference."""
    given = settings.reference
    if isinstance(given, Reference):
        standard = given.affine(units.whitener, -units.whitener @ units.loc)
        return _References(standard, given, None, {})
    if isinstance(given, MixtureFit):
        if resume is not None:
            standard, before = resume.evidence.model.reference, resume.evidence.distribution
            unconstrained = standard if before is None else before.joint_reference
            return _References(standard, unconstrained, None, resume.components)
        mixture, components = fit_reference(
            rows, held_out, settings=given, basis=units.basis, progress_bar=progress_bar
        )
        moved = mixture.affine(units.basis, units.loc)
        return _References(MixtureReference(*mixture), MixtureReference(*moved), None, components)
    gaussian, linear = gaussian_start(rows, settings.objective.resolution)
    return _References(gaussian, gaussian.affine(units.basis, units.loc), linear, {})


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
    return EnergyDistribution(
        model,
        reference,
        names=prepared.names,
        supports=dict(zip(prepared.names, prepared.supports.supports, strict=True)),
        loc=units.loc.astype(dtype),
        scale=units.scale.astype(dtype),
        noise_scale=objective.resolution if smoothed else None,
    )


def _fingerprint(
    keys: FitKeys,
    prepared: PreparedRows,
    filled: np.ndarray,
    references: _References,
    model: Learned,
    settings: FitSettings,
) -> tuple:
    """Everything that must be the same for a run to be continued, that is all but its length."""
    arrays = [
        prepared.complete,
        filled,
        jax.random.key_data(keys.split),
        *jax.tree.leaves(references.standard),
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
