"""`fit`: from rows of data to an `EnergyDistribution`."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from numpyro_disco._checks import check_count, check_key, rows_of
from numpyro_disco._typing import Array
from numpyro_disco.distributions import EnergyDistribution
from numpyro_disco.energies import LearnedEnergy
from numpyro_disco.mixtures import fit_reference
from numpyro_disco.networks import EnergyNetwork
from numpyro_disco.reference import GaussianReference, MixtureReference, Reference
from numpyro_disco.training import History, Run, TrainingSettings, train

REFERENCE_WIDTH = 2.0
"""Standard deviations of the default reference, relative to those of the data."""


@dataclasses.dataclass(frozen=True)
class FitResult:
    """A learned prior and how it was learned.

    Attributes:
        distribution: the `EnergyDistribution`, in the user's units.
        history: what training saw; `plot_history` draws it.
        settings: with which it was trained.
        best_step: the step whose weights the distribution holds: the last one whose held-out loss
            was the lowest, give or take one standard error of the difference. Zero means that the
            network did not improve on its start.
        components: mean held-out log density (of standardised rows) by number of components, for
            a reference that `fit` made a mixture; else empty.
        interrupted: whether training stopped before `settings.num_steps`; `fit(..., resume=)` goes
            on from there.
    """

    distribution: EnergyDistribution
    history: History
    settings: TrainingSettings
    best_step: int
    components: dict[int, float]
    interrupted: bool
    _run: Run = dataclasses.field(repr=False)
    _fingerprint: tuple = dataclasses.field(repr=False)

    def plot_history(self, axes: Any = None) -> Any:
        """Draw the losses by step. Needs matplotlib, the `plots` extra.

        Args:
            axes: matplotlib axes to draw in; new ones by default.

        Returns:
            The matplotlib axes.
        """
        from numpyro_disco.plots import plot_history

        return plot_history(self, axes)


def fit(
    rng_key: Array,
    data: Any,
    *,
    names: Any = None,
    reference: Reference | str | None = None,
    max_components: int = 64,
    resume: FitResult | None = None,
    progress_bar: bool = True,
    **settings: Any,
) -> FitResult:
    """Learn the joint density of the columns of `data` as one energy.

    Rows are standardised; a network is trained with the DISCO loss against the exact posterior
    over all training rows; the weights that do best on held-out rows are kept. **What is learned
    is the density of the data smoothed** by Gaussian noise of standard deviation `noise_scale`, in
    units of each column's own: conditionals drawn later are asymptotically exact for that density,
    up to what the network has not learned. Score matching sees the shape of modes well and their
    relative masses hardly; compare draws with the data.

    With `objective="contrastive"` it is the density of the rows themselves, as far as draws of the
    reference reach: rows are told from these draws, which also sees the masses of modes. It does
    best with `reference="mixture"`, which the network starts from and then only corrects.

    The default reference is a Gaussian with the data's mean and `REFERENCE_WIDTH` times its
    deviations, and training starts from the Gaussian that fits the data: with no step taken, that
    is what is returned.

    Args:
        rng_key: random key; the same key gives the same result on the same machine.
        data: array (N, D), a DataFrame, or a dict of columns; finite numbers, N at least
            max(10, D + 2), no constant columns and no copies.
        names: D distinct names; by default those that `data` carries, or "0", "1", ...
        reference: "mixture", a Gaussian mixture fitted to the rows with as many components as
            held-out rows ask for; or a reference of your own, in the user's units. Training then
            starts from it. By default, or "gaussian", the Gaussian above.
        max_components: most components of such a mixture.
        resume: a result of `fit` with the same key, data and settings, to go on from. Going on from
            an interrupted run ends where the uninterrupted one would have. A larger `num_steps`
            goes on for longer, at the learning rate of the longer schedule.
        progress_bar: show progress with tqdm.
        **settings: fields of `TrainingSettings`, by name: `noise_scale`, `num_steps`, `width`, ...

    Returns:
        A `FitResult`. Interrupted from the keyboard, it holds the best weights so far.

    Raises:
        ValueError: data that cannot be learned from, or settings that make no sense.
        FloatingPointError: the loss is not finite.

    References:
        Wedenig & Peharz 2025.

    Example:
        >>> import jax, numpy as np, numpyro_disco as disco
        >>> rows = np.random.default_rng(0).normal(size=(200, 2))
        >>> fit = disco.fit(jax.random.key(0), {"a": rows[:, 0], "b": rows[:, 1]}, width=16,
        ...                 num_blocks=1, num_steps=50, batch_size=64, progress_bar=False)
        >>> fit.distribution.names
        ('a', 'b')
    """
    rng_key = check_key(rng_key)
    table, names = rows_of(data, names)
    unknown = set(settings) - {field.name for field in dataclasses.fields(TrainingSettings)}
    if unknown:
        known = sorted(field.name for field in dataclasses.fields(TrainingSettings))
        raise ValueError(f"Unknown settings {sorted(unknown)}; `fit` takes {known}.")
    if resume is not None:
        settings = {**dataclasses.asdict(resume.settings), **settings}
    options = TrainingSettings(**settings)
    dimension = table.shape[1]
    if isinstance(reference, str) and reference not in ("gaussian", "mixture"):
        raise ValueError(
            f"Expected a reference, 'gaussian' or 'mixture' for `reference`; got {reference!r}."
        )
    if isinstance(reference, Reference) and tuple(reference.event_shape) != (dimension,):
        raise ValueError(
            f"Expected a `reference` over {dimension} coordinates, as `data` has columns; got "
            f"event shape {reference.event_shape}."
        )
    split_key, network_key, train_key = jax.random.split(rng_key, 3)
    held_out, rows, loc, scale = _split_and_standardize(split_key, table, names, options)
    check_count(max_components, "max_components")
    linear: Array | None = None
    components: dict[int, float] = {}
    if reference == "mixture":
        if resume is None:
            reference, components = _mixture(rows, held_out, loc, scale, max_components)
        else:
            reference, components = _reference_of(resume), resume.components
    elif not isinstance(reference, Reference):
        reference, linear = _gaussian_and_start(rows, loc, scale, options.noise_scale)
    num_local = 0
    if isinstance(reference, MixtureReference):
        num_local = dimension + reference.means.shape[0]
    network = EnergyNetwork(
        dimension,
        width=options.width,
        num_blocks=options.num_blocks,
        num_octaves=options.octaves,
        num_local=num_local,
        linear=linear,
        rngs=nnx.Rngs(network_key),
    )
    graph, weights = nnx.split(network)
    energy = LearnedEnergy(weights, reference, jnp.asarray(loc), jnp.asarray(scale), graph)
    # Made before training, so that what is wrong with it is said before time is spent.
    prior = EnergyDistribution(
        energy,
        reference,
        names=names,
        loc=energy.loc,
        scale=energy.scale,
        # What is learned from draws of the reference is smoothed by nothing.
        noise_scale=None if options.objective == "contrastive" else options.noise_scale,
    )
    # What must be the same for a run to be gone on with: all but the number of steps.
    arrays = [table, jax.random.key_data(rng_key), *jax.tree.leaves(reference)]
    digest = hashlib.sha256(b"".join(np.asarray(array).tobytes() for array in arrays)).hexdigest()
    same_run = dataclasses.replace(options, num_steps=1)
    fingerprint = (names, digest, type(reference).__name__, graph, same_run)
    if resume is not None and resume._fingerprint != fingerprint:
        raise ValueError(
            "Expected `resume` to come from the same key, data, reference and settings (all but "
            "`num_steps`); they differ. Start anew without `resume`."
        )
    run, interrupted = train(
        train_key,
        energy,
        rows,
        held_out,
        options,
        run=None if resume is None else resume._run,
        progress_bar=progress_bar,
    )
    return FitResult(
        distribution=prior._replace(energy_fn=dataclasses.replace(energy, weights=run.best)),
        history=History(*(np.asarray(column) for column in zip(*run.history, strict=True))),
        settings=options,
        best_step=run.best_step,
        components=components,
        interrupted=interrupted,
        _run=run,
        _fingerprint=fingerprint,
    )


def _split_and_standardize(
    rng_key: Array, table: np.ndarray, names: tuple[str, ...], options: TrainingSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Held-out rows and rows to train on, standardised by the latter's mean and deviation."""
    order = np.asarray(jax.random.permutation(rng_key, len(table)))
    num_held_out = max(1, round(options.held_out_fraction * len(table)))
    held_out, train = table[order[:num_held_out]], table[order[num_held_out:]]
    loc, scale = train.mean(axis=0), train.std(axis=0)
    constant = ~(scale > 1e-12 * np.abs(train).max(axis=0))
    if constant.any():
        raise ValueError(
            f"Expected columns of `data` that vary among the {len(train)} rows trained on; "
            f"{[names[i] for i in np.flatnonzero(constant)]} do not. Drop them, or make "
            "`held_out_fraction` smaller."
        )
    dtype = jnp.result_type(float)
    # The energy takes points in the user's units: they must tell apart what the smoothing does.
    spacing = float(jnp.finfo(dtype).eps) * np.abs(train).max(axis=0) / scale
    coarse = spacing > 0.1 * options.noise_scale
    if coarse.any():
        raise ValueError(
            f"Expected columns of `data` that {dtype} can tell apart; "
            f"{[names[i] for i in np.flatnonzero(coarse)]} lie so far from zero that rounding is "
            f"{spacing.max():.2g} of their standard deviation. Subtract an origin from them, or "
            "use double precision: `numpyro.enable_x64()`."
        )
    held_out, train = (((part - loc) / scale).astype(dtype) for part in (held_out, train))
    return held_out, train, loc, scale


def _reference_of(result: FitResult) -> Reference:
    energy = result.distribution.energy_fn
    assert isinstance(energy, LearnedEnergy)
    return energy.reference


def _mixture(
    train: np.ndarray,
    held_out: np.ndarray,
    loc: np.ndarray,
    scale: np.ndarray,
    max_components: int,
) -> tuple[MixtureReference, dict[int, float]]:
    """A mixture reference for standardised rows, in the user's units."""
    mixture, tried = fit_reference(train, held_out, max_components=max_components)
    reference = MixtureReference(
        mixture.weights,
        loc + scale * np.asarray(mixture.means),
        np.multiply.outer(scale, scale) * np.asarray(mixture.covariances),
    )
    return reference, tried


def _gaussian_and_start(
    train: np.ndarray,
    loc: np.ndarray,
    scale: np.ndarray,
    noise_scale: float,
) -> tuple[GaussianReference, Array]:
    """The default reference, and the matrix A with which the network starts.

    The Gaussian of the smoothed rows has precision C^-1 and the reference w^2 C, w its width, so
    |A z|^2 / 2 with A^T A = (1 - 1/w^2) C^-1 turns the reference into that Gaussian.
    """
    dimension = train.shape[1]
    train = np.asarray(train, np.float64)
    covariance = np.cov(train, rowvar=False).reshape(dimension, dimension)
    covariance = covariance + noise_scale**2 * np.eye(dimension)
    wide = REFERENCE_WIDTH**2 * covariance * scale[:, None] * scale
    precision_factor = np.linalg.cholesky(np.linalg.inv(covariance)).T
    linear = np.sqrt(1 - REFERENCE_WIDTH**-2) * precision_factor
    return GaussianReference(jnp.asarray(loc), jnp.asarray(wide)), jnp.asarray(linear)
