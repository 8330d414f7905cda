"""The network that `fit` trains: sizes, initial weights, and the Gaussian it starts from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from numpyro_disco._checks import check_count
from numpyro_disco._compiling import compiler_options
from numpyro_disco._typing import Array
from numpyro_disco.energy.autoregressive import AutoregressiveNetwork
from numpyro_disco.energy.learned import Learned, LearnedEnergy, LearnedScore
from numpyro_disco.energy.networks import EnergyNetwork, ScoreNetwork
from numpyro_disco.references.base import Reference
from numpyro_disco.references.gaussian import GaussianReference
from numpyro_disco.training.batches import TrainingRows
from numpyro_disco.training.column_order import column_order
from numpyro_disco.training.objectives import Objective
from numpyro_disco.training.units import Units

REFERENCE_WIDTH = 2.0
"""Standard deviations of the default Gaussian reference, relative to those of the data."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLP:
    """Sizes of the residual multilayer perceptron over a standardised point.

    Args:
        width: units of each hidden layer.
        num_blocks: residual blocks of two layers each.
        num_octaves: frequencies pi/4 times 1, 2, 4, ... at which each coordinate is also seen
            through sines and cosines. By default they reach half a wave for two `noise_scale`. One
            is enough for a contrastive objective with a mixture, which describes the fine
            structure; higher ones would memorise single rows.

    Raises:
        ValueError: sizes that are not whole numbers, or too small.

    Example:
        >>> MLP(width=256)
        MLP(width=256, num_blocks=2, num_octaves=None)
    """

    width: int = 128
    num_blocks: int = 2
    num_octaves: int | None = None

    def __post_init__(self) -> None:
        for name in ("width", "num_blocks"):
            object.__setattr__(self, name, check_count(getattr(self, name), name))
        if self.num_octaves is not None:
            octaves = check_count(self.num_octaves, "num_octaves", minimum=0)
            object.__setattr__(self, "num_octaves", octaves)

    def resolved(self, objective: Objective, reference: Reference) -> MLP:
        """Choose the number of octaves by objective and reference."""
        if self.num_octaves is not None:
            return self
        if objective.is_contrastive and not isinstance(reference, GaussianReference):
            octaves = 1
        else:
            octaves = max(1, 1 + round(np.log2(2 / (np.pi * objective.resolution))))
        return dataclasses.replace(self, num_octaves=octaves)


def gaussian_start(rows: TrainingRows, resolution: float) -> tuple[GaussianReference, Array]:
    """The default Gaussian reference, and the matrix A with which the network starts.

    Let C be the covariance of the smoothed rows and w^2 C that of the reference, w its width. With
    A^T A = (1 - 1/w^2) C^-1 the correction |A z|^2 / 2 turns the reference into the Gaussian of the
    smoothed rows.

    Args:
        rows: standardised rows, D columns.
        resolution: the smoothing, in standardised units.

    Returns:
        The reference over standardised coordinates, and A, shape (D, D).
    """
    dimension = rows.values.shape[1]
    values = np.asarray(rows.values, np.float64)
    covariance = np.atleast_2d(np.cov(values, rowvar=False, aweights=rows.weights))
    covariance = covariance + resolution**2 * np.eye(dimension)
    precision_factor = np.linalg.cholesky(np.linalg.inv(covariance)).T
    linear = np.sqrt(1 - REFERENCE_WIDTH**-2) * precision_factor
    reference = GaussianReference(np.zeros(dimension), REFERENCE_WIDTH**2 * covariance)
    return reference, jnp.asarray(linear)


def untrained_model(
    rng_key: Array,
    network: MLP,
    objective: Objective,
    reference: Reference,
    linear: Array | None,
    units: Units,
) -> Learned:
    """The network with its initial weights, together with its reference and units.

    Args:
        rng_key: random key for the weights.
        network: sizes, all of them resolved.
        objective: decides between an energy and a score network.
        reference: q over standardised coordinates.
        linear: the matrix A of `gaussian_start`, shape (D, D), or None.
        units: standardised units.
    """
    dimension = len(units.loc)
    if objective.normalizes:
        order = column_order(units.standardize(units.rows))
        conditionals = partial(
            AutoregressiveNetwork,
            order=order,
            width=max(1, network.width // 2),
            num_blocks=network.num_blocks,
            defensive_share=objective.share,
        )
        return _untrained(rng_key, LearnedEnergy, conditionals, reference, units)
    gaussian = isinstance(reference, GaussianReference)
    num_local = 0 if gaussian else dimension + len(reference.components().log_weights)
    if linear is not None and not objective.learns_energy:
        # The score of the energy |A z|^2 / 2.
        linear = -linear.T @ linear
    network_kind: Callable[..., nnx.Module] = (
        partial(EnergyNetwork, defensive_share=objective.share)
        if objective.learns_energy
        else ScoreNetwork
    )
    make = partial(
        network_kind,
        width=network.width,
        num_blocks=network.num_blocks,
        num_octaves=network.num_octaves,
        num_local=num_local,
        num_levels=reference.num_levels,
        linear=linear,
    )
    kind = LearnedEnergy if objective.learns_energy else LearnedScore
    smoothed = reference.smoothed(objective.resolution) if objective.undoes_smoothing else None
    return _untrained(rng_key, kind, make, reference, units, smoothed)


def _untrained(
    rng_key: Array,
    kind: type[Learned],
    make: Callable[..., nnx.Module],
    reference: Reference,
    units: Units,
    smoothed: Reference | None = None,
) -> Learned:
    """The model of a network that `make` makes from the number of columns and random keys."""

    def made(rng_key: Array) -> nnx.Module:
        return make(len(units.loc), rngs=nnx.Rngs(rng_key))

    graph = nnx.graphdef(nnx.eval_shape(made, rng_key))
    initial = jax.jit(lambda rng_key: nnx.state(made(rng_key)), compiler_options=compiler_options())
    dtype = jnp.result_type(float)
    return kind(
        initial(rng_key),
        reference,
        jnp.asarray(units.loc, dtype),
        jnp.asarray(units.whitener, dtype),
        jnp.asarray(np.linalg.slogdet(units.whitener)[1], dtype),
        graph,
        smoothed,
    )
