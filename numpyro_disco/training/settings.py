"""`FitSettings`: the settings of a fit, chosen by the user or by default."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import optax
from numpyro.distributions import constraints

from numpyro_disco._checks import check_count, check_fraction
from numpyro_disco.references.base import Reference
from numpyro_disco.references.fitting import MixtureFit
from numpyro_disco.references.gaussian import GaussianReference
from numpyro_disco.references.mixed import MixedReference
from numpyro_disco.references.mixture import MixtureReference
from numpyro_disco.training.network import MLP, UNet
from numpyro_disco.training.objectives import OBJECTIVES, Disco, Objective
from numpyro_disco.training.optimizer import DECAY_ROWS, AdamW, check_optimizer
from numpyro_disco.training.rows.batches import STEPS_PER_ROUND
from numpyro_disco.training.rows.transforms import TRANSFORMS

BATCH_SIZE, SMALL_BATCH, SMALL_ROWS, LARGE_BATCH, LARGE_ROWS = 1024, 512, 2000, 2048, 10_000
"""Default batch size, and those of a contrastive objective on at most `SMALL_ROWS` and on more than
`LARGE_ROWS` rows."""
LIKELIHOOD_BATCH = 256
"""Default batch size of maximum likelihood, which does without draws."""
STRICT_STEPS, NUM_STEPS = 1500, 3000
"""Default number of steps of contrastive objectives, and of the others."""
PATIENCE, HELD_OUT_FRACTION = 500, 0.1
"""Defaults of the arguments of `fit` with these names."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refit:
    """Learn from rows with missing entries by imputing them from the learned density, repeatedly.

    The entries are first imputed from a mixture, as with `missing="mixture"`, and a density is
    learned from all rows. They are then imputed from that density, and everything is learned again
    (stochastic expectation-maximisation).

    Args:
        num_refits: number of times that everything is learned again.

    References:
        Celeux & Diebolt 1985.

    Example:
        >>> Refit(num_refits=2)
        Refit(num_refits=2)
    """

    num_refits: int = 1

    def __post_init__(self) -> None:
        check_count(self.num_refits, "num_refits")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Settings of a fit; those of a finished fit have every default resolved.

    Attributes:
        objective: the training objective.
        network: sizes of the network.
        reference: how the reference was made, or the reference that was given.
        optimizer: the optimiser.
        supports: constraints of columns, as given.
        transform: "sinh_arcsinh", "auto" or None; of a finished fit never "auto".
        missing: "complete", "mixture" or a `Refit`: what is done with missing entries.
        num_steps: most optimiser steps, rounded up to whole rounds of 50.
        batch_size: points in a step; None until the number of rows is known.
        held_out_fraction: share of the rows that is not trained on.
        patience: steps without a lower held-out loss after which a contrastive objective stops.
    """

    objective: Objective
    network: MLP | UNet
    reference: MixtureFit | Reference | str
    optimizer: AdamW | optax.GradientTransformation
    supports: Mapping[str, constraints.Constraint]
    transform: str | None
    missing: str | Refit
    num_steps: int
    batch_size: int | None
    held_out_fraction: float
    patience: int

    def __post_init__(self) -> None:
        if self.transform not in TRANSFORMS:
            raise ValueError(
                f"Expected one of {TRANSFORMS} for `transform`; got {self.transform!r}."
            )
        if not isinstance(self.missing, Refit) and self.missing not in ("complete", "mixture"):
            raise ValueError(
                "Expected 'mixture', 'complete' or `disco.Refit(num_refits=...)` for `missing`; "
                f"got {self.missing!r}."
            )
        check = {
            "num_steps": check_count(self.num_steps, "num_steps"),
            "patience": check_count(self.patience, "patience"),
            "held_out_fraction": check_fraction(self.held_out_fraction, "held_out_fraction"),
        }
        if self.batch_size is not None:
            check["batch_size"] = check_count(self.batch_size, "batch_size")
        for name, value in check.items():
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        """One setting a line."""
        width = max(len(field.name) for field in dataclasses.fields(self))
        return "\n".join(
            f"{field.name:{width}}  {_description(getattr(self, field.name))}"
            for field in dataclasses.fields(self)
        )

    @property
    def total_steps(self) -> int:
        """`num_steps`, rounded up to whole rounds."""
        return -(-self.num_steps // STEPS_PER_ROUND) * STEPS_PER_ROUND

    def resolved(self, reference: Reference, num_rows: int) -> FitSettings:
        """Replace every default that depends on the data.

        Args:
            reference: the reference over standardised coordinates.
            num_rows: number of training rows.
        """
        contrastive = self.objective.is_contrastive
        optimizer, batch_size = self.optimizer, self.batch_size
        if isinstance(optimizer, AdamW) and optimizer.weight_decay is None:
            mixture = not isinstance(reference, GaussianReference)
            decays = contrastive and mixture and num_rows <= DECAY_ROWS
            optimizer = dataclasses.replace(optimizer, weight_decay=1.0 if decays else 0.0)
        if batch_size is None:
            batch_size = _contrastive_batch(num_rows) if contrastive else BATCH_SIZE
            if self.objective.normalizes:
                batch_size = LIKELIHOOD_BATCH
        objective = self.objective.resolved(reference, num_rows)
        made_by = self.reference
        return dataclasses.replace(
            self,
            reference=made_by.resolved(num_rows) if isinstance(made_by, MixtureFit) else made_by,
            objective=objective,
            network=self.network.resolved(objective, reference),
            optimizer=optimizer,
            batch_size=batch_size,
        )


def _contrastive_batch(num_rows: int) -> int:
    """Batch size of a contrastive objective; a small table needs no large batch."""
    if num_rows <= SMALL_ROWS:
        return SMALL_BATCH
    return LARGE_BATCH if num_rows > LARGE_ROWS else BATCH_SIZE


def _description(value: Any) -> str:
    if isinstance(value, MixtureReference | MixedReference):
        return f"{type(value).__name__} with {value.means.shape[-2]} components"
    if isinstance(value, Reference):
        return type(value).__name__
    if isinstance(value, optax.GradientTransformation):
        return "an optax optimiser"
    return repr(value)


def requested_settings(
    previous: FitSettings | None, *, objective: Any, noise_scale: Any, reference: Any, **given: Any
) -> FitSettings:
    """Requested settings: explicit ones first, then those of the fit to resume, then defaults.

    Args:
        previous: settings of the fit that is resumed, or None.
        objective: as for `fit`.
        noise_scale: as for `fit`.
        reference: as for `fit`.
        **given: the other fields of `FitSettings`, None where nothing was given.
    """
    chosen = _objective(objective, noise_scale, reference, previous)
    defaults = previous or FitSettings(
        objective=chosen,
        network=MLP(),
        reference=chosen.default_reference,
        optimizer=AdamW(),
        supports={},
        transform=None,
        missing="mixture",
        num_steps=STRICT_STEPS if chosen.strict and not chosen.normalizes else NUM_STEPS,
        batch_size=None,
        held_out_fraction=HELD_OUT_FRACTION,
        patience=PATIENCE,
    )
    _check_transform(given.get("transform") or defaults.transform, reference, previous)
    if reference is None:
        reference = defaults.reference
    if given["network"] is not None and not isinstance(given["network"], MLP | UNet):
        raise ValueError(
            "Expected `disco.MLP(...)` or `disco.UNet(...)` for `network`; got "
            f"{given['network']!r}. For example: `network=disco.MLP(width=256)`."
        )
    if given["optimizer"] is not None:
        given["optimizer"] = check_optimizer(given["optimizer"])
    explicit = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(
        defaults, objective=chosen, reference=_reference(reference), **explicit
    )


def _check_transform(transform: str | None, reference: Any, previous: FitSettings | None) -> None:
    """Refuse a reference of the user's own for columns that are mapped."""
    mapped = transform is not None and previous is None
    if mapped and isinstance(reference, Reference):
        raise ValueError(
            "Expected 'mixture' or 'gaussian' for `reference` with `transform`: yours cannot "
            "know the coordinates that columns are mapped to. Leave one of the two out."
        )


def _objective(
    objective: Any, noise_scale: Any, reference: Any, previous: FitSettings | None
) -> Objective:
    """The requested objective: an object, or chosen by name, noise scale or kind of reference."""
    if noise_scale is not None:
        if objective not in (None, "disco"):
            raise ValueError(
                "Expected `noise_scale` without `objective`, for which it is short: "
                f"`objective=disco.Disco(noise_scale={noise_scale!r})`; got {objective!r} as well. "
                "Give the noise scale to the objective itself, if it smooths."
            )
        return Disco(noise_scale=noise_scale)
    if isinstance(objective, Objective):
        return objective
    if objective is not None:
        if not isinstance(objective, str) or objective not in OBJECTIVES:
            raise ValueError(
                f"Expected an objective such as `disco.Disco(...)`, or one of {tuple(OBJECTIVES)}, "
                f"for `objective`; got {objective!r}."
            )
        return OBJECTIVES[objective]()
    if previous is not None:
        return previous.objective
    # A contrastive objective learns only as far as draws of the reference reach.
    near = reference is None or reference == "mixture" or isinstance(reference, MixtureFit)
    return OBJECTIVES["contrastive" if near else "disco"]()


def _reference(reference: Any) -> MixtureFit | Reference | str:
    if isinstance(reference, str) and reference == "mixture":
        return MixtureFit()
    if isinstance(reference, MixtureFit | Reference) or (
        isinstance(reference, str) and reference == "gaussian"
    ):
        return reference
    raise ValueError(
        f"Expected a reference, 'gaussian' or 'mixture' for `reference`; got {reference!r}. Make "
        "one with `disco.GaussianReference(mean, covariance)` or "
        "`disco.MixtureReference(weights, means, covariances)`."
    )
