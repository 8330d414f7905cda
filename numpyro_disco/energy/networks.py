"""Networks: what the data add to the reference.

An energy network is the correction f in E = -log q + f. It is bounded below whatever its weights,
so that exp(-E) <= exp(-min f) q is integrable: every energy is a density by construction.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from numpyro_disco._checks import check_count, check_share
from numpyro_disco._typing import Array

FLOOR = 10.0
"""How far, in nats, a fresh network's correction may fall below its value of zero."""

WINDOW = 3.0
"""Standard deviations from the mean at which the sine and cosine features have faded by half."""


class _ResidualNetwork(nnx.Module):
    """A residual network over a standardised point and its sines and cosines."""

    def __init__(
        self,
        dimension: int,
        num_outputs: int,
        *,
        width: int = 128,
        num_blocks: int = 4,
        num_octaves: int = 5,
        num_local: int = 0,
        linear: Array | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.dimension = check_count(dimension, "dimension")
        self.width = check_count(width, "width")
        self.num_blocks = check_count(num_blocks, "num_blocks")
        self.num_octaves = check_count(num_octaves, "num_octaves", minimum=0)
        self.num_local = check_count(num_local, "num_local", minimum=0)
        num_features = dimension * (1 + 2 * num_octaves) + num_local
        self.inlet = nnx.Linear(num_features, width, rngs=rngs)
        self.blocks = nnx.List(
            [
                nnx.List([nnx.Linear(width, width, rngs=rngs), nnx.Linear(width, width, rngs=rngs)])
                for _ in range(num_blocks)
            ]
        )
        zeros = nnx.initializers.zeros_init()
        self.outlet = nnx.Linear(width, num_outputs, kernel_init=zeros, rngs=rngs)
        self.linear = nnx.Param(jnp.zeros((dimension, dimension)) if linear is None else linear)

    @property
    def settings(self) -> dict[str, Any]:
        """The sizes with which an equal network can be made."""
        return {
            "dimension": self.dimension,
            "width": self.width,
            "num_blocks": self.num_blocks,
            "num_octaves": self.num_octaves,
            "num_local": self.num_local,
        }

    def _outputs(self, z: Array, local: Array | None) -> Array:
        frequencies = jnp.pi / 4 * 2.0 ** jnp.arange(self.num_octaves, dtype=z.dtype)
        angles = z[:, None] * frequencies
        # Fine structure is where rows are: a few deviations out the waves fade and leave z, on
        # which the layers are nearly linear and the energy nearly quadratic.
        window = 1 / (1 + (z[:, None] / WINDOW) ** 4)
        waves = jnp.concatenate([window * jnp.sin(angles), window * jnp.cos(angles)]).ravel()
        features = [z, waves] if local is None else [z, waves, local]
        h = self.inlet(jnp.concatenate(features))
        for first, second in self.blocks:
            h = h + second(jax.nn.silu(first(jax.nn.silu(h))))
        return self.outlet(jax.nn.silu(h))


class EnergyNetwork(_ResidualNetwork):
    r"""A residual network whose squared norm is the correction to a reference energy.

    With z the standardised point, h(z) the features of a residual network, and g, k linear in h,

    .. math:: f(z) = \tfrac12 |A z + g(z)|^2 + \tfrac12 |c + k(z)|^2 - \tfrac12 |c|^2
                     \ge -\tfrac12 |c|^2 .

    g and k start at zero, so training starts from ``f = |A z|^2 / 2``: the energy of a Gaussian
    when A says so, nothing when A = 0. The constant c gives the squared norm a gradient there, and
    room to fall: a plain squared norm that starts at zero could only grow.

    With a defensive share e, each of p = q exp(-f) and q is taken with that much of the other in
    it, and what is said is

    .. math:: -\log \frac{(1 - e) \, p + e \, q}{(1 - e) \, q + e \, p} ,

    which is between -log((1 - e) / e) and the opposite, near zero hardly other than f, and
    zero where f is: no point is more than (1 - e) / e times likelier or less likely than in the
    reference. So neither can a row far out be taken for impossible, nor can mass gather where
    neither rows nor draws of the reference have been (defensive mixtures, Hesterberg 1995).

    Each coordinate is also seen through sines and cosines of doubling frequency, without which a
    network is slow to learn structure on the scale of the smoothing (Tancik et al. 2020). They fade
    far from the data.

    Args:
        dimension: D, the number of coordinates.
        width: units of each hidden layer.
        num_blocks: residual blocks of two layers each.
        num_octaves: how many frequencies, pi/4 times 1, 2, 4, ... per standard deviation.
        num_local: how many more numbers it is given of each point, see `Reference.describe`.
        defensive_share: e, at least 0 and less than 1/2.
        linear: the matrix A, shape (D, D); zero by default.
        rngs: flax random keys, for the first weights.

    Example:
        >>> network = EnergyNetwork(2, width=16, num_blocks=1, rngs=nnx.Rngs(0))
        >>> network(jnp.zeros(2)).shape
        ()
    """

    def __init__(
        self, dimension: int, *, width: int = 128, defensive_share: float = 0.0, **settings: Any
    ) -> None:
        check_count(width, "width")
        self.defensive_share = check_share(defensive_share, "defensive_share")
        super().__init__(dimension, dimension + width, width=width, **settings)
        self.offset = nnx.Param(jnp.full(width, np.sqrt(2 * FLOOR / width)))

    @property
    def settings(self) -> dict[str, Any]:
        """The sizes, and the share, with which an equal network can be made."""
        return {**super().settings, "defensive_share": self.defensive_share}

    def __call__(self, z: Array, local: Array | None = None) -> Array:
        """The correction to the reference's energy at one point, shape ().

        Args:
            z: the standardised point, shape (D,).
            local: more about it, shape (num_local,).
        """
        out = self._outputs(z, local)
        g, k = out[: self.dimension], out[self.dimension :]
        offset = self.offset[...]
        # |c + k|^2 - |c|^2 without the difference of two large numbers.
        f = 0.5 * ((self.linear[...] @ z + g) ** 2).sum() + (k * (offset + 0.5 * k)).sum()
        if not self.defensive_share:
            return f
        own, other = math.log1p(-self.defensive_share), math.log(self.defensive_share)
        return jnp.logaddexp(own, other - f) - jnp.logaddexp(own - f, other)


class ScoreNetwork(_ResidualNetwork):
    """A residual network that is a score itself: A z + g(z), shape (D,), with g zero at first.

    Nothing makes it the gradient of an energy. The arguments are those of `EnergyNetwork`.
    """

    def __init__(self, dimension: int, **settings: Any) -> None:
        super().__init__(dimension, dimension, **settings)

    def __call__(self, z: Array, local: Array | None = None) -> Array:
        """What is added to the reference's score at one point, shape (D,)."""
        return self.linear[...] @ z + self._outputs(z, local)
