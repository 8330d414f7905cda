r"""A normalised density of standardised columns: one network for each column given those before it.

The density is a product of one-dimensional conditionals in some order of the columns,

.. math:: a(z) = \prod_d \sum_k w_{dk} \, N(z_d; \mu_{dk}, s_{dk}^2),

where the weights, means and scales of column d are outputs of a small residual network of the
columns before it. It follows columns that are almost functions of others, however curved, where a
mixture of joint Gaussians would need a component for every small piece. It can be drawn from, and
so can the last columns of its order given the first ones; other conditionals have no closed form.

References:
    Larochelle & Murray 2011, Uria, Murray & Larochelle 2013 (neural autoregressive densities);
    Bishop 1994 (mixture density networks).
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
from numpyro_disco._gaussians import LOG_2_PI
from numpyro_disco._typing import Array

LOG_SCALES = (-9.0, 1.5)
"""Smallest and largest log scale of a component, in standardised units. Without a bound, scales
would grow exponentially far from the rows."""
SPREAD = 1.5
"""Means of the components of a new network lie between -SPREAD and SPREAD."""
SMALL = 0.1
"""Size of the last layer of a new network, relative to one that keeps variances."""


class AutoregressiveNetwork(nnx.Module):
    """The normalised density a(z) over D standardised columns.

    Args:
        dimension: D, the number of columns.
        order: the columns in the order in which they are drawn, a permutation of 0, ..., D - 1; by
            default as they are.
        width: hidden units of the network of each column.
        num_blocks: residual blocks of the network of each column.
        num_components: Gaussians in each conditional.
        defensive_share: share of the reference in the learned density, at least 0 and less than
            1/2. Far from all rows the learned density is then that of the reference.
        rngs: flax random keys for the initial weights.

    Example:
        >>> network = AutoregressiveNetwork(2, width=16, rngs=nnx.Rngs(0))
        >>> network.log_prob(jnp.zeros(2)).shape
        ()
    """

    def __init__(
        self,
        dimension: int,
        *,
        order: Sequence[int] | None = None,
        width: int = 64,
        num_blocks: int = 2,
        num_components: int = 8,
        defensive_share: float = 0.0,
        rngs: nnx.Rngs,
    ) -> None:
        self.dimension = check_count(dimension, "dimension")
        self.order = tuple(range(dimension)) if order is None else tuple(map(int, order))
        if sorted(self.order) != list(range(dimension)):
            raise ValueError(f"Expected a permutation of {dimension} for `order`; got {order}.")
        self.width = check_count(width, "width")
        self.num_blocks = check_count(num_blocks, "num_blocks")
        self.num_components = check_count(num_components, "num_components")
        self.defensive_share = check_share(defensive_share, "defensive_share")
        normal = nnx.initializers.normal(1.0)

        def kernel(*shape: int, scale: float) -> nnx.Param:
            return nnx.Param(scale * normal(rngs.params(), (dimension, *shape)))

        # A column sees only those before it, so its first layer has few inputs that are not zero.
        seen = np.sqrt(np.maximum(np.arange(dimension), 1))[:, None, None]
        self.inlet_kernel = nnx.Param(normal(rngs.params(), (dimension, width, dimension)) / seen)
        self.inlet_bias = kernel(width, scale=0.5)
        self.block_kernels = nnx.List(
            [kernel(width, width, scale=width**-0.5) for _ in range(num_blocks)]
        )
        self.block_biases = nnx.List(
            [nnx.Param(jnp.zeros((dimension, width))) for _ in range(num_blocks)]
        )
        outputs = 3 * num_components
        self.outlet_kernel = kernel(outputs, width, scale=SMALL * width**-0.5)
        means = jnp.linspace(-SPREAD, SPREAD, num_components)
        start = jnp.concatenate([jnp.zeros_like(means), means, jnp.full_like(means, -1.0)])
        self.outlet_bias = nnx.Param(jnp.tile(start, (dimension, 1)))

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that make a network of the same structure."""
        return {
            "kind": "AutoregressiveNetwork",
            "dimension": self.dimension,
            "order": list(self.order),
            "width": self.width,
            "num_blocks": self.num_blocks,
            "num_components": self.num_components,
            "defensive_share": self.defensive_share,
        }

    def log_prob(self, z: Array, num_first: Array | int | None = None) -> Array:
        """Log of a(z) at one standardised point, shape (D,) to ().

        Args:
            z: the point.
            num_first: number of columns, the first of the order, whose density is wanted; all by
                default. It may be traced.
        """
        ordered = z[np.array(self.order)]
        mask = jnp.tri(self.dimension, k=-1)
        log_weights, means, log_scales = self._conditionals(
            slice(None), mask[:, None] * self.inlet_kernel[...], ordered
        )
        white = (ordered[:, None] - means) * jnp.exp(-log_scales)
        log_densities = log_weights - 0.5 * white**2 - log_scales - 0.5 * LOG_2_PI
        of_columns = jax.nn.logsumexp(log_densities, axis=-1)
        if num_first is not None:
            of_columns = jnp.where(jnp.arange(self.dimension) < num_first, of_columns, 0.0)
        return of_columns.sum()

    def sample(
        self,
        rng_key: Array,
        num_draws: int,
        given: Array | None = None,
        num_given: Array | int = 0,
    ) -> Array:
        """Independent draws, column by column, shape (num_draws, D).

        Args:
            rng_key: random key.
            num_draws: number of draws.
            given: a standardised point, shape (D,), whose first columns in the order are kept, so
                that draws are those of the conditional.
            num_given: number of these columns. It may be traced.
        """
        ordered = jnp.zeros(self.dimension) if given is None else given[np.array(self.order)]

        def draw_column(drawn: Array, place_and_key: tuple[Array, Array]) -> tuple[Array, None]:
            place, key = place_and_key
            component_key, noise_key = jax.random.split(key)
            one = place[None]
            # Columns that are not drawn yet are zero, so no mask is needed.
            kernel = self.inlet_kernel[...][one]
            outputs = jax.vmap(lambda row: self._conditionals(one, kernel, row))(drawn)
            log_weights, means, log_scales = (part[:, 0] for part in outputs)
            component = jax.random.categorical(component_key, log_weights)[:, None]
            mean, log_scale = (
                jnp.take_along_axis(part, component, axis=1)[:, 0] for part in (means, log_scales)
            )
            noise = jax.random.normal(noise_key, mean.shape, mean.dtype)
            column = jnp.where(place < num_given, ordered[place], mean + jnp.exp(log_scale) * noise)
            return drawn.at[:, place].set(column), None

        drawn = jnp.zeros((num_draws, self.dimension), self.inlet_bias[...].dtype)
        keys = jax.random.split(rng_key, self.dimension)
        drawn, _ = jax.lax.scan(draw_column, drawn, (jnp.arange(self.dimension), keys))
        return drawn[:, np.argsort(self.order)]

    def mixed_with(self, log_reference: Array, log_prob: Array) -> Array:
        """Log density of a mixture with the defensive share of the reference."""
        if not self.defensive_share:
            return log_prob
        own, other = math.log1p(-self.defensive_share), math.log(self.defensive_share)
        return jnp.logaddexp(own + log_prob, other + log_reference)

    def _conditionals(
        self, places: Any, inlet_kernel: Array, ordered: Array
    ) -> tuple[Array, Array, Array]:
        """Log weights, means and log scales of the conditionals at some places, (P, K) each.

        Args:
            places: indices of P places in the order.
            inlet_kernel: kernels of the first layers there, shape (P, width, D).
            ordered: the columns in order, shape (D,); what a kernel does not mask has to be zero.
        """
        # Activations come first: a batch of rows then needs no transposition between layers.
        h = jax.nn.silu(jnp.einsum("i,phi->ph", ordered, inlet_kernel) + self.inlet_bias[places])
        for kernel, bias in zip(self.block_kernels, self.block_biases, strict=True):
            h = h + jax.nn.silu(jnp.einsum("pi,phi->ph", h, kernel[places]) + bias[places])
        out = jnp.einsum("pi,phi->ph", h, self.outlet_kernel[places]) + self.outlet_bias[places]
        logits, means, log_scales = jnp.split(out, 3, axis=-1)
        return (
            jax.nn.log_softmax(logits),
            means,
            jnp.clip(log_scales, *LOG_SCALES),
        )
