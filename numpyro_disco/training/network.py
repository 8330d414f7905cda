"""The network that `fit` trains: sizes, initial weights, and the Gaussian it starts from."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from numpyro_disco._checks import check_count
from numpyro_disco._compiling import compiler_options
from numpyro_disco._statistics import effective_number
from numpyro_disco._typing import Array
from numpyro_disco.energy.autoregressive import AutoregressiveNetwork
from numpyro_disco.energy.convolutions import EnergyUNet, ScoreUNet
from numpyro_disco.energy.learned import Learned, LearnedEnergy, LearnedScore
from numpyro_disco.energy.networks import EnergyNetwork, ScoreNetwork
from numpyro_disco.references.base import Reference
from numpyro_disco.references.gaussian import GaussianReference
from numpyro_disco.training.objectives import Objective
from numpyro_disco.training.rows.batches import TrainingRows
from numpyro_disco.training.rows.units import Units

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
        _check_sizes(self, "width", "num_blocks")

    def resolved(self, objective: Objective, reference: Reference) -> MLP:
        """Choose the number of octaves by objective and reference."""
        if self.num_octaves is not None:
            return self
        if objective.is_contrastive and not isinstance(reference, GaussianReference):
            octaves = 1
        else:
            octaves = _octaves(objective)
        return dataclasses.replace(self, num_octaves=octaves)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNet:
    """Sizes of the convolutional network over arrays such as images, a small U-Net.

    Args:
        width: channels of each hidden layer.
        num_scales: resolutions, each half of the one before; fewer where an axis has no more
            factors of two. 1 is a plain convolutional network.
        num_blocks: residual blocks of two convolutions at each scale, on the way down and up.
        num_octaves: frequencies pi/4 times 1, 2, 4, ... at which each element is also seen through
            sines and cosines; by default they reach half a wave for two `noise_scale`.
        num_spatial_axes: leading axes of an array that are convolved over; the others are channels.
            Two by default; give 1 for series with channels, of shape (length, channels).

    Raises:
        ValueError: sizes that are not whole numbers, or too small.

    Example:
        >>> UNet(width=64).num_scales
        3
    """

    width: int = 32
    num_scales: int = 3
    num_blocks: int = 1
    num_octaves: int | None = None
    num_spatial_axes: int = 2

    def __post_init__(self) -> None:
        _check_sizes(self, "width", "num_scales", "num_blocks", "num_spatial_axes")

    def resolved(self, objective: Objective, reference: Reference) -> UNet:
        """Choose the number of octaves by the objective."""
        if self.num_octaves is not None:
            return self
        return dataclasses.replace(self, num_octaves=_octaves(objective))

    def make(self, objective: Objective, shape: tuple[int, ...], rngs: nnx.Rngs) -> nnx.Module:
        """The network over arrays of a shape, for an energy or a score."""
        sizes = dataclasses.asdict(self)
        if objective.learns_energy:
            return EnergyUNet(shape, **sizes, rngs=rngs)
        return ScoreUNet(shape, noise_scale=objective.resolution, **sizes, rngs=rngs)


def check_network(network: MLP | UNet, array_shape: tuple[int, ...] | None) -> None:
    """Refuse a convolutional network for rows that it cannot be moved over.

    Args:
        network: sizes of the network.
        array_shape: shape of each array; None if rows are those of a table.

    Raises:
        ValueError: a `UNet` for a table, or with more spatial axes than an array has.
    """
    if not isinstance(network, UNet):
        return
    if array_shape is None:
        raise ValueError(
            "Expected `disco.MLP(...)` for `network`, as the rows of `data` are not arrays; got "
            f"{network}. Leave `network` out, or give `data` as an array with three axes or more."
        )
    if network.num_spatial_axes > len(array_shape):
        raise ValueError(
            f"Expected `num_spatial_axes` of at most {len(array_shape)} for arrays of shape "
            f"{array_shape} in `data`; got {network.num_spatial_axes}. Give a smaller number in "
            "`network=disco.UNet(num_spatial_axes=...)`."
        )


def _check_sizes(network: MLP | UNet, *names: str) -> None:
    """Check the positive counts of these names, and the number of octaves."""
    for name in names:
        object.__setattr__(network, name, check_count(getattr(network, name), name))
    if network.num_octaves is not None:
        octaves = check_count(network.num_octaves, "num_octaves", minimum=0)
        object.__setattr__(network, "num_octaves", octaves)


def _octaves(objective: Objective) -> int:
    """Octaves whose shortest wave is about as long as the smoothing."""
    return max(1, 1 + round(np.log2(2 / (np.pi * objective.resolution))))


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


def shrunk_gaussian(rows: TrainingRows, resolution: float) -> GaussianReference:
    """The Gaussian of the smoothed rows, whose covariance is shrunk towards a multiple of I.

    The shrinkage is the oracle approximating one, which is small if rows are many more than
    columns. With few rows it limits the noise in the many estimated covariances of an array.

    Args:
        rows: standardised rows, D columns.
        resolution: the smoothing, in standardised units.

    References:
        Chen, Wiesel, Eldar & Hero 2010, equation 23.
    """
    values, dimension = np.asarray(rows.values, np.float64), rows.values.shape[1]
    mean = np.average(values, axis=0, weights=rows.weights)
    covariance = np.atleast_2d(np.cov(values, rowvar=False, aweights=rows.weights))
    size = (covariance**2).sum()
    square, count = np.trace(covariance) ** 2, effective_number(rows.weights, len(values))
    share = ((1 - 2 / dimension) * size + square) / (
        (count + 1 - 2 / dimension) * (size - square / dimension)
    )
    share = min(1.0, share) if dimension > 1 else 0.0
    identity = np.eye(dimension)
    shrunk = (1 - share) * covariance + share * np.trace(covariance) / dimension * identity
    return GaussianReference(mean, shrunk + resolution**2 * identity)


def untrained_model(
    rng_key: Array,
    network: MLP | UNet,
    objective: Objective,
    reference: Reference,
    units: Units,
    *,
    linear: Array | None,
    shape: tuple[int, ...] | None,
    order: tuple[int, ...] | None,
) -> Learned:
    """The network with its initial weights, together with its reference and units.

    Args:
        rng_key: random key for the weights.
        network: sizes, all of them resolved.
        objective: decides between an energy and a score network.
        reference: q over standardised coordinates.
        units: standardised units.
        linear: the matrix A of `gaussian_start`, shape (D, D), or None.
        shape: shape of an array, for a `UNet`; None for a table.
        order: the columns in the order in which a normalised density draws them; None for other
            objectives.
    """
    dimension = len(units.loc)
    gaussian = isinstance(reference, GaussianReference)
    num_local = 0 if gaussian else dimension + len(reference.components().log_weights)
    if linear is not None and not objective.learns_energy:
        # The score of the energy |A z|^2 / 2.
        linear = -linear.T @ linear
    make = (
        partial(EnergyNetwork, defensive_share=objective.share)
        if objective.learns_energy
        else ScoreNetwork
    )

    def made(rng_key: Array) -> nnx.Module:
        if isinstance(network, UNet):
            assert shape is not None
            return network.make(objective, shape, nnx.Rngs(rng_key))
        if objective.normalizes:
            return AutoregressiveNetwork(
                dimension,
                order=order,
                width=max(1, network.width // 2),
                num_blocks=network.num_blocks,
                defensive_share=objective.share,
                rngs=nnx.Rngs(rng_key),
            )
        return make(
            dimension,
            width=network.width,
            num_blocks=network.num_blocks,
            num_octaves=network.num_octaves,
            num_local=num_local,
            num_levels=reference.num_levels,
            linear=linear,
            rngs=nnx.Rngs(rng_key),
        )

    graph = nnx.graphdef(nnx.eval_shape(made, rng_key))
    initial = jax.jit(lambda rng_key: nnx.state(made(rng_key)), compiler_options=compiler_options())
    dtype = jnp.result_type(float)
    return (LearnedEnergy if objective.learns_energy else LearnedScore)(
        initial(rng_key),
        reference,
        jnp.asarray(units.loc, dtype),
        jnp.asarray(units.whitener, dtype),
        jnp.asarray(np.linalg.slogdet(units.whitener)[1], dtype),
        graph,
        reference.smoothed(objective.resolution) if objective.undoes_smoothing else None,
    )
