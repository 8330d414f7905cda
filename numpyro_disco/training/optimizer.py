"""The default optimiser, and optax transformations of the user's own."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import optax

from numpyro_disco._checks import check_non_negative, check_positive
from numpyro_disco._typing import Pytree

DECAY_ROWS = 30_000
"""Most training rows for which weights decay by default."""
WARMUP_STEPS = 100
"""Most steps over which the learning rate rises from zero."""
LARGEST_NORM = 10.0
"""Gradients are clipped to this norm."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with weight decay, gradient clipping, a warm-up and a cosine decay of the learning rate.

    Args:
        learning_rate: the rate after the warm-up; it decays to zero at the last step.
        weight_decay: decay of the kernels of the layers, relative to the learning rate. Kernels of
            zero leave the reference as it is, so decay pulls towards the reference. By default 1
            for the contrastive objectives with a mixture on up to 30,000 rows, otherwise 0.

    Raises:
        ValueError: a rate that is not positive, or a negative decay.

    References:
        Loshchilov & Hutter 2019.

    Example:
        >>> AdamW(learning_rate=1e-3)
        AdamW(learning_rate=0.001, weight_decay=None)
    """

    learning_rate: float = 2e-3
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "learning_rate", check_positive(self.learning_rate, "learning_rate")
        )
        if self.weight_decay is not None:
            decay = check_non_negative(self.weight_decay, "weight_decay")
            object.__setattr__(self, "weight_decay", decay)

    def transformation(self, num_steps: int) -> optax.GradientTransformation:
        """The optax transformation for a run of `num_steps` steps."""
        warmup = min(WARMUP_STEPS, max(1, num_steps // 10))
        schedule = optax.warmup_cosine_decay_schedule(0.0, self.learning_rate, warmup, num_steps)
        adam = optax.adamw(schedule, weight_decay=self.weight_decay or 0.0, mask=_is_kernel)
        return optax.chain(optax.clip_by_global_norm(LARGEST_NORM), adam)


def _is_kernel(weights: Pytree) -> Pytree:
    """Mask of the weights: True for kernels of layers."""
    tree = jax.tree_util
    return tree.tree_map_with_path(lambda path, _: "kernel" in tree.keystr(path), weights)


def check_optimizer(optimizer: Any) -> AdamW | optax.GradientTransformation:
    """Return an optimiser that `fit` can use."""
    if not isinstance(optimizer, AdamW | optax.GradientTransformation):
        raise ValueError(
            "Expected an optax optimiser or `disco.AdamW(...)` for `optimizer`; got "
            f"{optimizer!r}. For example: `optimizer=optax.adam(1e-3)`."
        )
    return optimizer


def transformation(
    optimizer: AdamW | optax.GradientTransformation, num_steps: int
) -> optax.GradientTransformation:
    """The optax transformation of an optimiser, for a run of `num_steps` steps."""
    return optimizer.transformation(num_steps) if isinstance(optimizer, AdamW) else optimizer
