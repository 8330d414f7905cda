"""Convolutional networks over arrays such as images: the corrections added to a reference.

As for the networks over rows (`networks.py`), the energy is bounded below for all weights, so that
together with a reference it is that of a density.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from numpyro_disco._checks import check_count
from numpyro_disco._typing import Array
from numpyro_disco.energy.networks import WINDOW

FLOOR_PER_ELEMENT = 0.5
"""Depth below zero, in nats for each element, to which the correction of a new network can fall."""
KERNEL = 3
"""Elements along each axis that a convolution reads."""


def halvings(shape: Sequence[int], most: int) -> int:
    """Number of times that all spatial axes can be halved, at most `most`."""
    count = 0
    while count < most and all(size % 2 ** (count + 1) == 0 for size in shape):
        count += 1
    return count


class Convolution(nnx.Module):
    """A convolution with zeros beyond the edges, as one product of matrices.

    Gradients with respect to single points, and theirs with respect to the weights, are products of
    matrices again. A convolution of XLA would become one with a group for each point there, which
    is slow on CPUs.

    Args:
        num_inputs: channels of the input.
        num_outputs: channels of the output.
        num_axes: spatial axes, before the channels.
        **settings: further arguments of `nnx.Linear`.
    """

    def __init__(self, num_inputs: int, num_outputs: int, num_axes: int, **settings: Any) -> None:
        self.num_axes = num_axes
        self.linear = nnx.Linear(num_inputs * KERNEL**num_axes, num_outputs, **settings)

    def __call__(self, h: Array) -> Array:
        """Map an array spatial + (num_inputs,) to spatial + (num_outputs,)."""
        margin = KERNEL // 2
        padded = jnp.pad(h, [(margin, margin)] * self.num_axes + [(0, 0)])
        shifts = itertools.product(range(KERNEL), repeat=self.num_axes)
        spatial = h.shape[: self.num_axes]
        patches = [
            padded[tuple(slice(s, s + size) for s, size in zip(shift, spatial, strict=True))]
            for shift in shifts
        ]
        return self.linear(jnp.concatenate(patches, axis=-1))


class UNetwork(nnx.Module):
    """A U-Net over arrays, with as many outputs for each element as asked for.

    At each scale, residual blocks of two convolutions; the next scale averages pairs of neighbours
    along each spatial axis, and its result is added after it has been spread over them again. An
    element enters by its value and by sines and cosines of it, which fade far from the data. The
    last layer starts at zero.

    Args:
        shape: shape of the array, spatial axes first.
        num_outputs: outputs for each place.
        num_spatial_axes: leading axes that are convolved over; the others are channels.
        width: channels of each hidden layer.
        num_scales: scales, of which each has half the resolution of the one before; fewer where an
            axis cannot be halved.
        num_blocks: residual blocks at each scale, before and after the coarser ones.
        num_octaves: frequencies of the sines: pi/4 times 1, 2, 4, ... per standard deviation.
        rngs: flax random keys for the initial weights.
    """

    num_local = 0
    """Further inputs that describe a point, see `Reference.describe`: none."""

    def __init__(
        self,
        shape: Sequence[int],
        num_outputs: int,
        *,
        num_spatial_axes: int,
        width: int,
        num_scales: int,
        num_blocks: int,
        num_octaves: int,
        rngs: nnx.Rngs,
    ) -> None:
        self.shape = tuple(check_count(size, "shape") for size in shape)
        self.num_spatial_axes = num_spatial_axes
        self.width, self.num_blocks, self.num_octaves = width, num_blocks, num_octaves
        self.spatial = self.shape[:num_spatial_axes]
        self.num_channels = math.prod(self.shape[num_spatial_axes:])
        self.num_scales = 1 + halvings(self.spatial, num_scales - 1)

        def convolution(num_inputs: int, num_outputs: int, **settings: Any) -> Convolution:
            return Convolution(num_inputs, num_outputs, num_spatial_axes, rngs=rngs, **settings)

        def blocks() -> nnx.List:
            pairs = [[convolution(width, width) for _ in range(2)] for _ in range(num_blocks)]
            return nnx.List([nnx.List(pair) for pair in pairs])

        # The constant one shows where the edges are, beyond which convolutions read zeros.
        self.inlet = convolution(self.num_channels * (1 + 2 * num_octaves) + 1, width)
        self.down = nnx.List([blocks() for _ in range(self.num_scales)])
        self.up = nnx.List([blocks() for _ in range(self.num_scales - 1)])
        zeros = nnx.initializers.zeros_init()
        self.outlet = convolution(width, num_outputs, kernel_init=zeros)

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that make a network of the same structure."""
        return {
            "kind": type(self).__name__,
            "shape": list(self.shape),
            "num_spatial_axes": self.num_spatial_axes,
            "width": self.width,
            "num_scales": self.num_scales,
            "num_blocks": self.num_blocks,
            "num_octaves": self.num_octaves,
        }

    def _outputs(self, z: Array) -> Array:
        """Outputs at a standardised point, shape (D,) to spatial + (num_outputs,)."""
        x = z.reshape(*self.spatial, self.num_channels)
        angles = x[..., None] * (jnp.pi / 4 * 2.0 ** jnp.arange(self.num_octaves, dtype=z.dtype))
        window = 1 / (1 + (x[..., None] / WINDOW) ** 4)
        waves = [(window * wave(angles)).reshape(*self.spatial, -1) for wave in (jnp.sin, jnp.cos)]
        h = self.inlet(jnp.concatenate([x, *waves, jnp.ones_like(x[..., :1])], axis=-1))
        finer = []
        for scale, blocks in enumerate(self.down):
            if scale:
                finer.append(h)
                h = _halved(h, self.num_spatial_axes)
            h = _residual(blocks, h)
        for blocks in reversed(self.up):
            h = _residual(blocks, finer.pop() + _doubled(h, self.num_spatial_axes))
        return self.outlet(jax.nn.silu(h))


class EnergyUNet(UNetwork):
    r"""A U-Net whose squared norm is the correction to a reference energy.

    .. math:: f(z) = \sum_i \tfrac12 |g_i(z)|^2 + \tfrac12 |c + k_i(z)|^2 - \tfrac12 |c|^2

    with i over the places of the array and g_i, k_i outputs of the network there: the squared norm
    of a residual that the network computes, as in the energy of a denoising autoencoder. It starts
    at zero, and is never below -|c|^2 / 2 for each place.

    Args:
        shape: as for `UNetwork`.
        width: channels of each hidden layer, and of k.
        num_spatial_axes: as for `UNetwork`.
        **settings: further arguments of `UNetwork`.

    References:
        Salimans & Ho 2021, Should EBMs model the energy or the score?
    """

    def __init__(
        self, shape: Sequence[int], *, width: int, num_spatial_axes: int, **settings: Any
    ) -> None:
        num_channels = math.prod(shape[num_spatial_axes:])
        super().__init__(
            shape,
            num_channels + width,
            width=width,
            num_spatial_axes=num_spatial_axes,
            **settings,
        )
        self.offset = nnx.Param(
            jnp.full(width, np.sqrt(2 * FLOOR_PER_ELEMENT * num_channels / width))
        )

    def __call__(self, z: Array) -> Array:
        """The correction to the reference's energy at one standardised point, (D,) to ()."""
        out = self._outputs(z)
        g, k = out[..., : self.num_channels], out[..., self.num_channels :]
        # k (c + k / 2) is (|c + k|^2 - |c|^2) / 2 without a difference of two large numbers.
        return 0.5 * (g**2).sum() + (k * (self.offset[...] + 0.5 * k)).sum()


class ScoreUNet(UNetwork):
    r"""A U-Net as a denoiser, D(z) = z / 2 + F(z), whose score is (D(z) - z) / sigma_0^2.

    It need not be the gradient of an energy, and takes the place of the reference's score.

    Args:
        shape: as for `UNetwork`.
        noise_scale: sigma_0, in standardised units.
        **settings: further arguments of `UNetwork`.

    References:
        Wedenig & Peharz 2025, equations 11 to 13.
    """

    is_whole_score = True

    def __init__(
        self, shape: Sequence[int], *, noise_scale: float, num_spatial_axes: int, **settings: Any
    ) -> None:
        num_channels = math.prod(shape[num_spatial_axes:])
        super().__init__(shape, num_channels, num_spatial_axes=num_spatial_axes, **settings)
        self.noise_scale = noise_scale

    def __call__(self, z: Array) -> Array:
        """The score at one standardised point, (D,) to (D,)."""
        return (self._outputs(z).reshape(z.shape) - 0.5 * z) / self.noise_scale**2


def _residual(blocks: Any, h: Array) -> Array:
    for first, second in blocks:
        h = h + second(jax.nn.silu(first(jax.nn.silu(h))))
    return h


def _halved(h: Array, num_axes: int) -> Array:
    """Means of pairs of neighbours along the first axes."""
    split = [part for size in h.shape[:num_axes] for part in (size // 2, 2)]
    return h.reshape(*split, h.shape[-1]).mean(tuple(range(1, 2 * num_axes, 2)))


def _doubled(h: Array, num_axes: int) -> Array:
    """Each entry twice along each of the first axes."""
    for axis in range(num_axes):
        h = jnp.repeat(h, 2, axis)
    return h
