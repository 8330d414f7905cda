"""`fit`: from rows of data to an `EnergyDistribution`."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpyro.distributions import constraints

from numpyro_disco._checks import check_columns, check_count, check_key, rows_of
from numpyro_disco._typing import Array, ArrayLike
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.energy.imputation import impute
from numpyro_disco.energy.learned import Learned, LearnedEnergy, LearnedScore
from numpyro_disco.energy.networks import EnergyNetwork, ScoreNetwork
from numpyro_disco.references.base import Reference
from numpyro_disco.references.fitting import fit_reference
from numpyro_disco.references.gaussian import GaussianReference
from numpyro_disco.references.mixture import MixtureReference
from numpyro_disco.supports.coordinates import CoordinateSupports, check_supports
from numpyro_disco.supports.sinh_arcsinh import SinhArcsinhReal
from numpyro_disco.training.loop import History, Run, train
from numpyro_disco.training.objectives import OBJECTIVES
from numpyro_disco.training.preparation import (
    Units,
    check_rounding,
    check_ties,
    choose_transform,
    standard_units,
    unconstrained_rows,
)
from numpyro_disco.training.row_posterior import choose_noise_scale, reads_near_rows
from numpyro_disco.training.settings import (
    BATCH_SIZE,
    CONTRASTS,
    DECAY_ROWS,
    DEFENSIVE_SHARE,
    LARGE_BATCH,
    LARGE_ROWS,
    NUM_REDRAWS,
    UNDONE,
    TrainingSettings,
)

if TYPE_CHECKING:
    from numpyro_disco.training.report import Report

TRANSFORMS = (None, "sinh_arcsinh", "auto")
"""What `fit` may do to columns without a support."""
REFERENCE_WIDTH = 2.0
"""Standard deviations of the default reference, relative to those of the data."""


@dataclasses.dataclass(frozen=True)
class FitResult:
    """A learned prior and how it was learned.

    Attributes:
        history: what training saw; `plot_history` draws it.
        settings: with which it was trained.
        best_step: the step whose weights the distribution holds: of a contrast the one whose
            held-out loss was lowest, of the other objectives the last one within a standard error
            of that. Zero means that the network did not improve on its start.
        components: mean held-out log density (of standardised rows) by number of components, for
            a reference that `fit` made a mixture; else empty.
        noise_scales: mean held-out log density of the rows smoothed by each scale tried, if `fit`
            was to choose `noise_scale`; else empty.
        interrupted: whether training stopped before `settings.num_steps`; `fit(..., resume=)` goes
            on from there.
    """

    history: History
    settings: TrainingSettings
    best_step: int
    components: dict[int, float]
    noise_scales: dict[float, float]
    interrupted: bool
    _prior: EnergyDistribution | None = dataclasses.field(repr=False)
    _model: Learned = dataclasses.field(repr=False)
    _supports: CoordinateSupports = dataclasses.field(repr=False)
    _rows: np.ndarray = dataclasses.field(repr=False)
    _held_out: np.ndarray = dataclasses.field(repr=False)
    _run: Run = dataclasses.field(repr=False)
    _fingerprint: tuple = dataclasses.field(repr=False)

    @property
    def distribution(self) -> EnergyDistribution:
        """The `EnergyDistribution`, in the user's units."""
        if self._prior is None:
            raise ValueError(
                "A score network is no energy, so there is no density to clamp or to sample: "
                "`score` is all that was learned. Train with another `objective`."
            )
        return self._prior

    @property
    def transform(self) -> str | None:
        """What columns without a support were mapped by: "sinh_arcsinh" or None."""
        mapped = any(isinstance(s, SinhArcsinhReal) for s in self._supports.supports)
        return "sinh_arcsinh" if mapped else None

    def score(self, x: ArrayLike) -> Array:
        """The learned score at points in the user's units, shape (..., D) to (..., D)."""
        model, supports = self._model, self._supports

        def unconstrained(y: Array) -> Array:
            return model.score(model.standardize(y)) @ model.whitener

        def one(x: Array) -> Array:
            if supports.real:
                return unconstrained(x)
            # log p(x) = log p(y) - log |dx / dy|, y the unconstrained coordinates.
            y, pull_back = jax.vjp(supports.unconstrain, x)
            log_det = jax.grad(lambda x: supports.log_dets(supports.unconstrain(x), x).sum())(x)
            return pull_back(unconstrained(y))[0] - log_det

        return jnp.vectorize(one, signature="(d)->(d)")(jnp.asarray(x))

    def _standardize(self, x: ArrayLike) -> Array:
        """Points in the user's units in those of `_rows`, shape (..., D)."""
        y = self._supports.unconstrain(jnp.asarray(x))
        return (y - self._model.loc) @ self._model.whitener.T

    def _unstandardize(self, z: ArrayLike) -> Array:
        """The inverse."""
        model = self._model
        basis = np.linalg.inv(np.asarray(model.whitener, np.float64))
        y = np.asarray(z, np.float64) @ basis.T + np.asarray(model.loc)
        return self._supports.constrain(jnp.asarray(y, model.loc.dtype))

    @property
    def _energy(self) -> LearnedEnergy:
        """The learned energy, with the error of `distribution` if there is none."""
        energy = self.distribution.energy_fn
        assert isinstance(energy, LearnedEnergy)
        return energy

    def report(self, rng_key: Array | None = None) -> Report:
        """Judge the fit by rows it was not trained on: print the result.

        Every line says good, look or bad, and why:

        - network: what training added to its start, by the held-out loss;
        - draws, only if none can be had, since particles do not reach the learned density; then
          nothing is said of log density, memory, constant and masses;
        - log density: of held-out rows, after normalisation by tempered SMC, against the Gaussian
          of the rows;
        - memory: how much more likely rows are that were trained on;
        - constant, of a contrast: log Z, which is zero if what was learned is a density;
        - smoothing: in the user's units, what it does to a column given the others, and what less
          of it would say more of held-out rows;
        - score: its error at five noise levels against the exact score of the smoothed rows, and
          the share of the posterior over rows that is on the row itself;
        - masses: shares of held-out rows and of draws in clusters of the rows;
        - tails: whether the energy grows beyond the farthest row.

        The score is there only if what was learned is smoothed. Nothing is good of which held-out
        rows are too few to say that it is not bad. They are those that chose the step that is kept
        (and the number of components), which flatters their log density a little; rows that `fit`
        never saw are the stricter judge.

        Args:
            rng_key: random key; a fixed one by default.

        Returns:
            A `Report`: `report["masses"].value`, `str(report)`.

        Raises:
            ValueError: a score network, of which there is no density.
        """
        from numpyro_disco.training.report import make_report

        return make_report(jax.random.key(0) if rng_key is None else check_key(rng_key), self)

    def plot_report(self, report: Report | None = None) -> Any:
        """Draw rows and draws in pairs, the history, and the score's error by noise level.

        Needs matplotlib, the `plots` extra.

        Args:
            report: of this fit; made by default.

        Returns:
            The matplotlib figure.
        """
        from numpyro_disco.diagnostics.plots import plot_report

        return plot_report(self, self.report() if report is None else report)

    def plot_history(self, axes: Any = None) -> Any:
        """Draw the losses by step. Needs matplotlib, the `plots` extra.

        Args:
            axes: matplotlib axes to draw in; new ones by default.

        Returns:
            The matplotlib axes.
        """
        from numpyro_disco.diagnostics.plots import plot_history

        return plot_history(self, axes)


def fit(
    rng_key: Array,
    data: Any,
    *,
    names: Any = None,
    supports: Mapping[str, constraints.Constraint] | None = None,
    transform: str | None = None,
    reference: Reference | str | None = None,
    max_components: int = 128,
    num_refits: int = 0,
    resume: FitResult | None = None,
    progress_bar: bool = True,
    **settings: Any,
) -> FitResult:
    """Learn the joint density of the columns of `data` as one energy.

    Rows are mapped to unconstrained space if `supports` say so, and standardised; a network is
    trained on nine rows in ten, and the weights that do best on the others are kept. There are two
    ways, and which is taken depends on whether a `noise_scale` is given:

    - Without it, a Gaussian mixture is fitted as the reference, and the network learns to tell rows
      from draws of it (`objective="contrastive"`). **What is learned is the density of the data**,
      masses of modes included, as far as draws of the reference reach; and its constant, as far as
      there are rows enough (`FitResult.report` tells, `EnergyDistribution.normalize` mends it).
      Weights are kept only if they lower the same loss on held-out rows, so that the density of
      whole rows is usually no worse than the mixture's.
    - With it, the network is trained with the DISCO loss against the posterior over all training
      rows (`objective="disco"`), exact but where there are very many rows of few columns (see
      `posterior_rows`), from the Gaussian that fits the data. **What is learned is the density of
      the data smoothed** by Gaussian noise of standard deviation `noise_scale`, in units of each
      column's own: conditionals drawn later are asymptotically exact for that density, up to what
      the network has not learned. Score matching sees the shape of modes well and their relative
      masses hardly; the log density beside it (`density_weight`) sees these where noisy rows come
      near to each other, in few columns. With many, compare draws with the data.

    With `noise_scale=None` held-out rows choose the scale of the second. `objective` and
    `reference` may be chosen by themselves; with a `reference` other than "mixture" and nothing
    else given, the second way is taken, at a `noise_scale` of 0.05. `FitResult.report` says what
    came of it.

    Args:
        rng_key: random key; the same key gives the same result on the same machine.
        data: array (N, D), a DataFrame, or a dict of columns; finite numbers, or NaN where one is
            missing; at least max(10, D + 2) complete rows, no constant columns and no copies.
        names: D distinct names; by default those that `data` carries, or "0", "1", ...
        supports: from names to NumPyro constraints on one number: `constraints.positive`,
            `unit_interval`, `interval(a, b)`, .... The column is learned in unconstrained space,
            draws stay inside, and densities are those of the user's units. A discrete constraint
            (`boolean`, `integer_interval(a, b)`, `nonnegative_integer`) says that the column holds
            whole numbers: each is spread evenly over the unit interval around it, so that there is
            a density, and the prior's support is the interval of all of these. Round draws to get
            whole numbers back.
        transform: "sinh_arcsinh" maps each column that `supports` do not name by itself, four
            numbers fitted to its rows, held-out ones among them, so that its tails and its skew are
            those of a normal one: learned are columns that are easier to learn, densities are those
            of the user's units. Helps where columns have heavy tails or are skewed; hurts where
            they depend on each other almost linearly, which the map bends. "auto" fits a small
            mixture with the maps and one without, and takes the one that held-out rows prefer.
        reference: "mixture", a Gaussian mixture fitted to the rows with as many components as
            held-out rows ask for, the default of a contrast; "gaussian", the default otherwise,
            with the data's mean and twice its deviations, where training starts
            from the Gaussian that fits the data; or a reference of your own, in the user's units
            (of unconstrained coordinates, with `supports`; not with `transform`).
        max_components: most components of such a mixture.
        num_refits: what to do with rows that have holes. 0: learn from complete rows alone, which
            is right if holes are made completely at random, and wastes what the other rows say.
            Otherwise, so many times, draw the holes from what was learned and learn again from all
            rows: stochastic EM, which is right also where holes depend on what is observed. Rows
            that are held out are complete ones: the step that is kept, the number of components
            and the report are judged by those alone.
        resume: a result of `fit` with the same key, data and settings, to go on from. Going on from
            an interrupted run ends where the uninterrupted one would have. A larger `num_steps`
            goes on for longer, at the learning rate of the longer schedule; a contrast that has
            run out of `patience` needs more of that as well.
        progress_bar: show progress with tqdm.
        **settings: fields of `TrainingSettings`, by name: `noise_scale`, `num_steps`, `width`, ...

    Returns:
        A `FitResult`. Interrupted from the keyboard, it holds the best weights so far.

    Raises:
        ValueError: data that cannot be learned from, or settings that make no sense.
        FloatingPointError: the loss is not finite.

    Warns:
        UserWarning: rows have holes and are left out, or one value of a column is far more common
            than any other.

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
    check_count(max_components, "max_components")
    check_count(num_refits, "num_refits", minimum=0)
    unknown = set(settings) - {field.name for field in dataclasses.fields(TrainingSettings)}
    if unknown:
        known = sorted(field.name for field in dataclasses.fields(TrainingSettings))
        raise ValueError(f"Unknown settings {sorted(unknown)}; `fit` takes {known}.")
    given = {"objective", "noise_scale"} & set(settings)
    if resume is not None:
        settings = {**dataclasses.asdict(resume.settings), **settings}
    elif not (given or isinstance(reference, Reference) or reference == "gaussian"):
        settings["objective"] = "contrastive"
    options = TrainingSettings(**settings)
    for name in ("num_redraws", "defensive_share"):
        if getattr(options, name) and options.objective not in CONTRASTS:
            raise ValueError(
                f"Expected one of {CONTRASTS} for `objective` with `{name}`, which contrasts alone "
                f"know; got {options.objective!r} and {getattr(options, name)}. Say "
                f"objective='contrastive', or leave `{name}` out."
            )
    if options.undo_smoothing and options.objective not in UNDONE:
        raise ValueError(
            f"Expected one of {UNDONE} for `objective` with `undo_smoothing`; got "
            f"{options.objective!r}, which learns no energy of smoothed rows. Leave it out."
        )
    if options.objective != "contrastive":
        reads_near_rows(options.posterior_rows, *table.shape)  # refuses what has too many columns
    if reference is None:
        # A contrast sees no further than the reference's draws reach.
        reference = "mixture" if options.objective in CONTRASTS else "gaussian"
    _check_reference(reference, len(names))
    if transform not in TRANSFORMS:
        raise ValueError(f"Expected one of {TRANSFORMS} for `transform`; got {transform!r}.")
    if transform is not None and isinstance(reference, Reference):
        raise ValueError(
            "Expected 'mixture' or 'gaussian' for `reference` with `transform`: yours cannot know "
            "the coordinates that columns are mapped to. Leave one of the two out."
        )
    constraints_given = check_supports(supports, names)
    if options.objective in CONTRASTS:
        check_ties(table, names, constraints_given)
    # (`_fit` splits the same key, in three.)
    spread_key, impute_key = jax.random.split(jax.random.fold_in(rng_key, 3))
    if transform is not None:
        # Maps would hide it: their unconstrained coordinates are near zero whatever the column.
        check_rounding(table, names, options)
    if transform == "auto":
        transform = choose_transform(spread_key, table, names, constraints_given, options)
    table, found = unconstrained_rows(spread_key, table, names, constraints_given, transform)
    holed = np.isnan(table).any(axis=1)
    complete, holed_rows = table[~holed], table[holed]
    if not found.real:
        # Rows that say different things need not do so in unconstrained space.
        check_columns(complete, names)
    learn = partial(
        _fit, rng_key, complete, names, found, reference, max_components, progress_bar, options
    )
    if not num_refits:
        if holed.any():
            warnings.warn(
                f"{int(holed.sum())} of {len(table)} rows of `data` have holes and are left out. "
                "To learn from them as well, give `num_refits`, say 3.",
                stacklevel=2,
            )
        return learn(complete[:0], resume)
    if resume is not None or not holed.any():
        raise ValueError(
            "Expected `num_refits` with rows of `data` that have holes, and without `resume`; "
            + ("got `resume`." if holed.any() else "no row has holes: leave it out.")
        )
    result = learn(complete[:0])
    for refit in range(num_refits):
        if result.interrupted:
            break
        unconstrained = result.distribution.replace(
            coordinate_supports=CoordinateSupports((constraints.real,) * len(names))
        )
        key = jax.random.fold_in(impute_key, refit)
        filled = impute(key, unconstrained, holed_rows, num_imputations=1)[0]
        result = learn(np.where(np.isnan(holed_rows), np.asarray(filled, np.float64), holed_rows))
    return result


def _check_reference(reference: Any, dimension: int) -> None:
    """Refuse what is no reference over so many columns; a number, or a NumPyro distribution."""
    if isinstance(reference, str) and reference in ("gaussian", "mixture"):
        return
    if not isinstance(reference, Reference):
        raise ValueError(
            f"Expected a reference, 'gaussian' or 'mixture' for `reference`; got {reference!r}. "
            "Make one with `disco.GaussianReference(mean, covariance)` or "
            "`disco.MixtureReference(weights, means, covariances)`."
        )
    if tuple(reference.event_shape) != (dimension,):
        raise ValueError(
            f"Expected a `reference` over {dimension} coordinates, as `data` has columns; got "
            f"event shape {reference.event_shape}."
        )
    if reference.observed is not None or reference.batch_shape:
        raise ValueError(
            "Expected one unconditioned `reference`; got one with batch shape "
            f"{reference.batch_shape}. Condition what is learned instead, with `clamp`."
        )


def _fit(
    rng_key: Array,
    table: np.ndarray,
    names: tuple[str, ...],
    supports: CoordinateSupports,
    reference: Reference | str,
    max_components: int,
    progress_bar: bool,
    options: TrainingSettings,
    filled: np.ndarray,
    resume: FitResult | None = None,
) -> FitResult:
    """Learn from complete rows, some of them held out, and from rows that were filled."""
    split_key, network_key, train_key = jax.random.split(rng_key, 3)
    units = standard_units(split_key, table, filled, names, options)
    held_out, rows = (units.standardize(part) for part in (units.held_out, units.rows))
    noise_scales: dict[float, float] = {}
    if options.noise_scale is None:
        chosen, noise_scales = choose_noise_scale(rows, held_out)
        options = dataclasses.replace(options, noise_scale=chosen)
    elif resume is not None:
        noise_scales = resume.noise_scales
    linear: Array | None = None
    components: dict[int, float] = {}
    if isinstance(reference, Reference):
        standard = reference.affine(units.whitener, -units.whitener @ units.loc)
    elif reference == "mixture" and resume is not None:
        standard, components = resume._model.reference, resume.components
        reference = standard if resume._prior is None else resume._prior.joint_reference
    elif reference == "mixture":
        mixture, components = fit_reference(
            rows,
            held_out,
            max_components=max_components,
            basis=units.basis,
            progress_bar=progress_bar,
        )
        standard = MixtureReference(*mixture)
        reference = MixtureReference(*mixture.moved(units.basis, units.loc))
    else:
        standard, linear = _gaussian_and_start(rows, options)
        reference = standard.affine(units.basis, units.loc)
    options = _completed(options, standard, len(rows))
    model = _untrained(network_key, standard, linear, units, options)
    # Made before training, so that what is wrong with it is said before time is spent.
    prior = None
    if isinstance(model, LearnedEnergy):
        smoothed = OBJECTIVES[options.objective].smooths and not options.undo_smoothing
        prior = EnergyDistribution(
            model,
            reference,
            names=names,
            supports=dict(zip(names, supports.supports, strict=True)),
            loc=units.loc.astype(rows.dtype),
            scale=units.scale.astype(rows.dtype),
            noise_scale=options.noise_scale if smoothed else None,
        )
    # What must be the same for a run to be gone on with: all but when it ends.
    arrays = [table, filled, jax.random.key_data(rng_key), *jax.tree.leaves(standard)]
    digest = hashlib.sha256(b"".join(np.asarray(array).tobytes() for array in arrays)).hexdigest()
    same_run = dataclasses.replace(options, num_steps=1, patience=1)
    fingerprint = (names, supports, digest, type(reference).__name__, model.graph, same_run)
    if resume is not None and resume._fingerprint != fingerprint:
        raise ValueError(
            "Expected `resume` to come from the same key, data, reference and settings (all but "
            "`num_steps` and `patience`); they differ. Start anew without `resume`."
        )
    run, interrupted = train(
        train_key,
        model,
        rows,
        held_out,
        options,
        run=None if resume is None else resume._run,
        progress_bar=progress_bar,
        resumable=not len(filled),
    )
    if resume is not None and not interrupted and run.carry.step == resume._run.carry.step:
        warnings.warn(
            f"Nothing was trained: `resume` has taken {int(run.carry.step)} steps, of which "
            f"{run.best_step} were best. Give a larger `num_steps`"
            + (" and `patience`." if options.objective in CONTRASTS else "."),
            stacklevel=3,
        )
    model = dataclasses.replace(model, weights=run.best, smoothed=None)
    return FitResult(
        history=History(*(np.asarray(column) for column in zip(*run.history, strict=True))),
        settings=options,
        best_step=run.best_step,
        components=components,
        noise_scales=noise_scales,
        interrupted=interrupted,
        _prior=None if prior is None else prior.replace(energy_fn=model),
        _model=model,
        _supports=supports,
        _rows=rows,
        _held_out=held_out,
        _run=run,
        _fingerprint=fingerprint,
    )


def _completed(options: TrainingSettings, reference: Reference, num_rows: int) -> TrainingSettings:
    """With what depends on rows and reference: a mixture is near them, a single Gaussian is not."""
    contrast = options.objective in CONTRASTS
    is_mixture = isinstance(reference, MixtureReference)
    chosen: dict[str, Any] = {}
    if options.weight_decay is None:
        decays = contrast and is_mixture and num_rows <= DECAY_ROWS
        chosen["weight_decay"] = 1.0 if decays else 0.0
    if options.num_redraws is None:
        # Of one column a redraw is another draw.
        helps = contrast and not is_mixture and reference.event_shape[0] > 1
        chosen["num_redraws"] = NUM_REDRAWS if helps else 0
    if options.batch_size is None:
        large = contrast and num_rows > LARGE_ROWS
        chosen["batch_size"] = LARGE_BATCH if large else BATCH_SIZE
    if options.defensive_share is None:
        chosen["defensive_share"] = DEFENSIVE_SHARE if contrast and is_mixture else 0.0
    return dataclasses.replace(options, **chosen)


def _untrained(
    rng_key: Array,
    reference: Reference,
    linear: Array | None,
    units: Units,
    options: TrainingSettings,
) -> Learned:
    """The network with its first weights, and all that stands beside it."""
    num_local, num_octaves = 0, options.octaves
    if isinstance(reference, MixtureReference):
        num_local = len(units.loc) + reference.means.shape[0]
        if options.num_octaves is None and options.objective in CONTRASTS:
            num_octaves = 1
    scored = options.objective == "disco_score"
    if scored and linear is not None:
        # The score of the energy |A z|^2 / 2.
        linear = -linear.T @ linear
    share = options.defensive_share or 0.0
    network_of = ScoreNetwork if scored else partial(EnergyNetwork, defensive_share=share)
    network = network_of(
        len(units.loc),
        width=options.width,
        num_blocks=options.num_blocks,
        num_octaves=num_octaves,
        num_local=num_local,
        linear=linear,
        rngs=nnx.Rngs(rng_key),
    )
    graph, weights = nnx.split(network)
    undo = options.undo_smoothing or options.objective == "joint"
    dtype = jnp.result_type(float)
    return (LearnedScore if scored else LearnedEnergy)(
        weights,
        reference,
        jnp.asarray(units.loc, dtype),
        jnp.asarray(units.whitener, dtype),
        jnp.asarray(np.linalg.slogdet(units.whitener)[1], dtype),
        graph,
        reference.smoothed(options.smallest_noise) if undo else None,
    )


def _gaussian_and_start(
    rows: np.ndarray, options: TrainingSettings
) -> tuple[GaussianReference, Array]:
    """The default reference, and the matrix A with which the network starts.

    The Gaussian of the smoothed rows has precision C^-1 and the reference w^2 C, w its width, so
    |A z|^2 / 2 with A^T A = (1 - 1/w^2) C^-1 turns the reference into that Gaussian.
    """
    dimension = rows.shape[1]
    covariance = np.cov(np.asarray(rows, np.float64), rowvar=False).reshape(dimension, dimension)
    covariance = covariance + options.smallest_noise**2 * np.eye(dimension)
    precision_factor = np.linalg.cholesky(np.linalg.inv(covariance)).T
    linear = np.sqrt(1 - REFERENCE_WIDTH**-2) * precision_factor
    reference = GaussianReference(np.zeros(dimension), REFERENCE_WIDTH**2 * covariance)
    return reference, jnp.asarray(linear)
