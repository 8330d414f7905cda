"""DISCO as published, on the training loop and the networks of its rivals.

`disco.fit` with `disco.Disco` minimises the same loss. This one trains the networks of several
mixtures, and two kinds of targets, side by side, which takes a GPU little longer than one.
"""

import jax
import jax.numpy as jnp
import numpy as np
from diffusion import random_rows
from exact import PRECISE
from flax import nnx

from numpyro_disco.energy.networks import EnergyNetwork

POOL = 4
"""Batches of noisy points whose posterior over rows is computed for one program of steps."""
AT_ONCE = 256
"""Noisy points that are compared with all rows at a time."""
KINDS = ("draw", "mean")
"""Targets: of each network one kind."""


def network_of(rng_key, dimension, **sizes):
    """A network of the library."""
    return EnergyNetwork(dimension, rngs=nnx.Rngs(rng_key), **sizes)


def row_posterior(rng_key, points, rows, noise_scale, num_draws):
    """The posterior over rows (N, D) given points (n, D) with noise.

    Returns:
        Draws, shape (num_draws, n, D), and the mean, shape (n, D).
    """
    block_key, row_key = jax.random.split(rng_key)
    # Rows in blocks, so that a draw is one of a block and then one of a row in it.
    size = next(size for size in range(int(len(rows) ** 0.5), 0, -1) if len(rows) % size == 0)
    # Distances are the same from any origin; the expanded square is accurate near it.
    center = rows.mean(0)
    inner = jnp.matmul(points - center, (rows - center).T, precision=PRECISE)
    logits = (inner - 0.5 * ((rows - center) ** 2).sum(-1)) / noise_scale**2
    weights = jnp.exp(logits - logits.max(1, keepdims=True))
    weights = weights.reshape(len(points), -1, size)
    totals = weights.sum(-1)
    block = jax.random.categorical(block_key, jnp.log(totals), shape=(num_draws, len(points)))
    within = jnp.log(weights[jnp.arange(len(points)), block])
    row = block * size + jax.random.categorical(row_key, within)
    flat = weights.reshape(len(points), -1)
    mean = jnp.matmul(flat, rows, precision=PRECISE) / totals.sum(-1)[:, None]
    return rows[row], mean


def noisy_batches(process):
    """Batches of noisy points, their noise levels and their targets of each kind.

    A pool of points is passed over several times, each time in another order and with new draws
    from the posterior.
    """

    def batches(rng_key, rows, shape):
        row_key, level_key, noise_key, posterior_key, order_key = jax.random.split(rng_key, 5)
        num_steps, batch_size = shape
        passes = -(-num_steps // POOL)
        chosen = random_rows(row_key, rows, (POOL * batch_size,))
        t = jax.random.randint(level_key, (len(chosen),), 0, len(process.sigma))
        points, _ = process.noisy(noise_key, chosen, t)
        groups = points.reshape(-1, min(AT_ONCE, batch_size), points.shape[1])
        draws, mean = jax.lax.map(
            lambda at: row_posterior(*at, rows, process.sigma[0], passes),
            (jax.random.split(posterior_key, len(groups)), groups),
        )
        draws = jnp.moveaxis(draws, 1, 0).reshape(passes, *points.shape)
        mean = mean.reshape(points.shape)

        def one_pass(rng_key, draws):
            order = jax.random.permutation(rng_key, len(points))
            made = points, process.sigma[t], draws, mean
            return [leaf[order].reshape(POOL, batch_size, *leaf.shape[1:]) for leaf in made]

        made = jax.vmap(one_pass)(jax.random.split(order_key, passes), draws)
        return [leaf.reshape(-1, *leaf.shape[2:])[:num_steps] for leaf in made]

    return batches


def both_kinds(network):
    """A network as a pair that starts from the same weights, one for each of `KINDS`."""
    graph, weights = nnx.split(network)
    return nnx.merge(graph, jax.tree.map(lambda leaf: np.stack([leaf] * len(KINDS)), weights))


def kind_of(pairs, kind):
    """Weights of one kind, from those of pairs with a leading axis for mixtures."""
    return jax.tree.map(lambda leaf: leaf[:, KINDS.index(kind)], pairs)


def energy_of(network, noise_scale):
    """The energy that a network stands for: a correction to that of standardised rows, smoothed."""
    return lambda x: 0.5 * (x @ x) / (1 + noise_scale**2) + network(x)


def disco_loss(noise_scale):
    """Error of the denoised points relative to their noise (Wedenig & Peharz 2025, equation 8).

    The denoised point is x - sigma(0)^2 grad E(x). Both kinds of targets have the same minimiser.
    """

    def loss(pair, _, rng_key, batch):
        points, levels, draws, mean = batch
        graph, weights = nnx.split(pair)

        def of_kind(weights, targets):
            slope = jax.vmap(jax.grad(energy_of(nnx.merge(graph, weights), noise_scale)))(points)
            error = points - noise_scale**2 * slope - targets
            return ((error / levels[:, None]) ** 2).mean()

        return jax.vmap(of_kind)(weights, jnp.stack([draws, mean])).sum()

    return loss
