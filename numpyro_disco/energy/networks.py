"""Residual networks: the corrections that training adds to a reference.

An energy network is the correction f in E = -log q + f. It is bounded below for all weights, so
exp(-E) <= exp(-min f) q is integrable: every energy is that of a density by construction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from numpyro_disco._checks import check_count, check_share
from numpyro_disco._levels import real_columns
from numpyro_disco._typing import Array
from numpyro_disco.references.categorical import level_indicators

FLOOR = 10.0
"""Depth below zero, in nats, to which the correction of a new network can fall."""

WINDOW = 3.0
"""Distance from the mean, in standard deviations, at which the sine features have faded by half."""


def embedding_size(num_levels: Sequence[int]) -> int:
    """E, the number of real coordinates plus that of all levels of the discrete ones."""
    return sum(count or 1 for count in num_levels)


class ResidualNetwork(nnx.Module):
    """A residual network whose inputs are a standardised point and its sines and cosines.

    A discrete coordinate enters through the indicators of its levels instead (one-hot). The last
    layer starts at zero. Subclasses say what the outputs mean.

    Args:
        dimension: D, the number of coordinates.
        num_outputs: units of the last layer.
        width: units of each hidden layer.
        num_blocks: residual blocks of two layers each.
        num_octaves: number of frequencies: pi/4 times 1, 2, 4, ... per standard deviation.
        num_local: number of further inputs that describe the point, see `Reference.describe`.
        num_levels: number of levels of each coordinate, whose codes are 0, 1, ..., and 0 for real
            coordinates, D numbers; all real by default. E is the number of real coordinates plus
            that of all levels.
        linear: the matrix A, shape (E, E); zero by default.
        rngs: flax random keys for the initial weights.
    """

    def __init__(
        self,
        dimension: int,
        num_outputs: int,
        *,
        width: int = 128,
        num_blocks: int = 4,
        num_octaves: int = 5,
        num_local: int = 0,
        num_levels: Sequence[int] | None = None,
        linear: Array | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.dimension = check_count(dimension, "dimension")
        self.width = check_count(width, "width")
        self.num_blocks = check_count(num_blocks, "num_blocks")
        self.num_octaves = check_count(num_octaves, "num_octaves", minimum=0)
        self.num_local = check_count(num_local, "num_local", minimum=0)
        self.num_levels = (0,) * dimension if num_levels is None else tuple(map(int, num_levels))
        size = embedding_size(self.num_levels)
        num_features = size + 2 * num_octaves * self.num_levels.count(0) + num_local
        self.inlet = nnx.Linear(num_features, width, rngs=rngs)
        self.blocks = nnx.List(
            [
                nnx.List([nnx.Linear(width, width, rngs=rngs), nnx.Linear(width, width, rngs=rngs)])
                for _ in range(num_blocks)
            ]
        )
        zeros = nnx.initializers.zeros_init()
        self.outlet = nnx.Linear(width, num_outputs, kernel_init=zeros, rngs=rngs)
        self.linear = nnx.Param(jnp.zeros((size, size)) if linear is None else linear)

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that make a network of the same structure."""
        return {
            "dimension": self.dimension,
            "width": self.width,
            "num_blocks": self.num_blocks,
            "num_octaves": self.num_octaves,
            "num_local": self.num_local,
            "num_levels": list(self.num_levels),
        }

    def _embedded(self, z: Array) -> tuple[Array, Array]:
        """The real coordinates of a point (D,), and these followed by indicators, shape (E,)."""
        if not any(self.num_levels):
            return z, z
        real = z[real_columns(self.num_levels)]
        return real, jnp.concatenate([real, level_indicators(z, self.num_levels)])

    def _outputs(self, z: Array, embedded: Array, local: Array | None) -> Array:
        frequencies = jnp.pi / 4 * 2.0 ** jnp.arange(self.num_octaves, dtype=z.dtype)
        angles = z[:, None] * frequencies
        # Fine structure is where the rows are. A few standard deviations out the waves fade and
        # leave z, in which the layers are nearly linear and the energy is nearly quadratic.
        window = 1 / (1 + (z[:, None] / WINDOW) ** 4)
        waves = jnp.concatenate([window * jnp.sin(angles), window * jnp.cos(angles)]).ravel()
        features = [embedded, waves] if local is None else [embedded, waves, local]
        h = self.inlet(jnp.concatenate(features))
        for first, second in self.blocks:
            h = h + second(jax.nn.silu(first(jax.nn.silu(h))))
        return self.outlet(jax.nn.silu(h))


class EnergyNetwork(ResidualNetwork):
    r"""A residual network whose squared norm is the correction to a reference energy.

    With z the standardised point, indicators in place of its discrete coordinates, and g, k two
    linear functions of the network's last layer,

    .. math:: f(z) = \tfrac12 |A z + g(z)|^2 + \tfrac12 |c + k(z)|^2 - \tfrac12 |c|^2
                     \ge -\tfrac12 |c|^2 .

    g and k start at zero, so training starts from ``f = |A z|^2 / 2``: the energy of a Gaussian
    for a suitable A, and no correction for A = 0. The constant c gives the squared norm a gradient
    at the start, and room to fall; a plain squared norm that starts at zero could only grow.

    With a defensive share e, the learned density p = q exp(-f) and the reference q are each mixed
    with a share e of the other, and the correction is

    .. math:: -\log \frac{(1 - e) \, p + e \, q}{(1 - e) \, q + e \, p} .

    It lies between -log((1 - e) / e) and log((1 - e) / e), is close to f where f is small, and is
    zero where f is zero. No point is more than (1 - e) / e times likelier or less likely than under
    the reference. A row far out therefore never becomes impossible, and mass cannot gather where
    neither rows nor draws of the reference have been (defensive mixtures, Hesterberg 1995).

    Each coordinate also enters through sines and cosines of doubling frequency, without which a
    network is slow to learn structure on the scale of the smoothing (Tancik et al. 2020). They fade
    far from the data.

    Args:
        dimension: D, the number of coordinates.
        width: units of each hidden layer.
        defensive_share: e, at least 0 and less than 1/2.
        num_levels: number of levels of each coordinate, as for `ResidualNetwork`.
        **settings: further arguments of `ResidualNetwork`.

    References:
        Hesterberg 1995, Weighted average importance sampling and defensive mixture distributions.
        Tancik et al. 2020, Fourier features let networks learn high frequency functions.

    Example:
        >>> network = EnergyNetwork(2, width=16, num_blocks=1, rngs=nnx.Rngs(0))
        >>> network(jnp.zeros(2)).shape
        ()
    """

    def __init__(
        self,
        dimension: int,
        *,
        width: int = 128,
        defensive_share: float = 0.0,
        num_levels: Sequence[int] | None = None,
        **settings: Any,
    ) -> None:
        check_count(width, "width")
        dimension = check_count(dimension, "dimension")
        self.defensive_share = check_share(defensive_share, "defensive_share")
        size = embedding_size(num_levels or (0,) * dimension)
        super().__init__(dimension, size + width, width=width, num_levels=num_levels, **settings)
        self.offset = nnx.Param(jnp.full(width, np.sqrt(2 * FLOOR / width)))

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that make a network of the same structure."""
        return {**super().settings, "defensive_share": self.defensive_share}

    def __call__(self, z: Array, local: Array | None = None) -> Array:
        """The correction to the reference's energy at one point, shape ().

        Args:
            z: the standardised point, shape (D,).
            local: further inputs that describe the point, shape (num_local,).
        """
        real, embedded = self._embedded(z)
        out = self._outputs(real, embedded, local)
        g, k = out[: len(embedded)], out[len(embedded) :]
        offset = self.offset[...]
        # k (c + k / 2) is (|c + k|^2 - |c|^2) / 2 without a difference of two large numbers.
        f = 0.5 * ((self.linear[...] @ embedded + g) ** 2).sum() + (k * (offset + 0.5 * k)).sum()
        if not self.defensive_share:
            return f
        own, other = math.log1p(-self.defensive_share), math.log(self.defensive_share)
        return jnp.logaddexp(own, other - f) - jnp.logaddexp(own - f, other)


class ScoreNetwork(ResidualNetwork):
    """A residual network that is added to the reference's score: A z + g(z), with g zero at first.

    It need not be the gradient of an energy.

    Args:
        dimension: D, the number of coordinates.
        **settings: further arguments of `ResidualNetwork`.
    """

    def __init__(self, dimension: int, **settings: Any) -> None:
        super().__init__(dimension, dimension, **settings)

    def __call__(self, z: Array, local: Array | None = None) -> Array:
        """The correction to the reference's score at one point, shape (D,).

        Args:
            z: the standardised point, shape (D,).
            local: further inputs that describe the point, shape (num_local,).
        """
        return self.linear[...] @ z + self._outputs(z, z, local)
