"""Answers to compare learned priors over images with: a diffusion, a mixture, nearest neighbours.

The diffusion, its processes and samplers are those of `examples/paper`. Its network is the U-Net of
the library, to which the noise level is given as further channels.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

import numpyro_disco as disco
from numpyro_disco.energy.convolutions import ScoreUNet

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "paper"))
import diffusion
import inpainting
import processes
import samplers

LEAST_NOISE, MOST_NOISE, NUM_LEVELS = 0.05, 10.0, 100
"""Noise levels of the diffusion, in root mean square deviations of the pixels."""
STEPS_AT_ONCE = 50
"""Optimiser steps in one compiled program."""


class Way(NamedTuple):
    """A way to draw and to complete images."""

    name: str
    seconds: float
    """Seconds of training, compilation included."""
    draw: Callable[[jax.Array, int], np.ndarray] | None
    """From a key and a number to so many images, shape (number, height, width)."""
    complete: Callable[[jax.Array, np.ndarray, int], np.ndarray] | None
    """From a key, images (n, height, width) with NaN where hidden, and a number to so many
    completions of each, shape (number, n, height, width)."""
    most_images: int | None = None
    """Most images that it is asked to complete, if it is slow; None for all."""


def network_of(rng_key: jax.Array, shape: tuple[int, int], network: disco.UNet) -> ScoreUNet:
    """A U-Net of these sizes over an image and the channels of a noise level."""
    channels = 1 + len(diffusion.level_features(jnp.ones(())))
    return ScoreUNet(
        (*shape, channels),
        noise_scale=1.0,
        num_spatial_axes=2,
        width=network.width,
        num_scales=network.num_scales,
        num_blocks=network.num_blocks,
        num_octaves=0,
        rngs=nnx.Rngs(rng_key),
    )


def denoiser(process: Any, network: Any, shape: tuple[int, int]) -> Any:
    """The denoiser, from flat images (n, D) and a level, with data of variance 1."""

    def one(x: jax.Array, sigma: jax.Array) -> jax.Array:
        spread = jnp.hypot(1.0, sigma)
        image = (x / spread).reshape(*shape, 1)
        features = diffusion.level_features(sigma)
        level = jnp.broadcast_to(features, (*shape, len(features)))
        found = network(jnp.concatenate([image, level], axis=-1).ravel())
        found = found.reshape(*shape, -1)[..., 0].ravel()
        return x / spread**2 + sigma / spread * found

    def denoise(x: jax.Array, t: jax.Array) -> jax.Array:
        return jax.vmap(one)(x, jnp.broadcast_to(process.sigma[t], len(x)))

    return denoise


def train_diffusion(
    rng_key: jax.Array, network: Any, process: Any, rows: np.ndarray, seconds: float, batch: int
) -> tuple[Any, int]:
    """Train for so many seconds, compilation included, by Adam with averaged weights.

    Args:
        rng_key: random key.
        network: from `network_of`.
        process: the noise process.
        rows: standardised images, shape (N, height, width).
        seconds: how long; the learning rate falls to zero along a cosine of the time.
        batch: rows in a step.

    Returns:
        The network with averaged weights, and the number of steps.
    """
    start, shape = time.perf_counter(), rows.shape[1:]
    graph, weights = nnx.split(network)
    adam, flat = optax.scale_by_adam(), jnp.asarray(rows.reshape(len(rows), -1), jnp.float32)

    def loss(weights: Any, rng_key: jax.Array) -> jax.Array:
        row_key, level_key, noise_key = jax.random.split(rng_key, 3)
        chosen = flat[jax.random.randint(row_key, (batch,), 0, len(flat))]
        t = jax.random.randint(level_key, (batch,), 0, len(process.sigma))
        x, _ = process.noisy(noise_key, chosen, t)
        error = denoiser(process, nnx.merge(graph, weights), shape)(x, t) - chosen
        return ((error / process.sigma[t][:, None]) ** 2).mean()

    @jax.jit
    def steps(state: Any, rng_key: jax.Array, rate: float) -> Any:
        def step(state: Any, rng_key: jax.Array) -> Any:
            weights, average, memory, count = state
            change, memory = adam.update(jax.grad(loss)(weights, rng_key), memory)
            weights = jax.tree.map(lambda w, c: w - rate * c, weights, change)
            decay = jnp.minimum(diffusion.DECAY, (1 + count) / (10 + count))
            average = optax.incremental_update(weights, average, 1 - decay)
            return (weights, average, memory, count + 1), None

        return jax.lax.scan(step, state, jax.random.split(rng_key, STEPS_AT_ONCE))[0]

    state, index = (weights, weights, adam.init(weights), jnp.zeros(())), 0
    while (part := (time.perf_counter() - start) / seconds) < 1:
        rate = 2e-3 * (1 + np.cos(np.pi * part)) / 2
        state = jax.block_until_ready(steps(state, jax.random.fold_in(rng_key, index), rate))
        index += 1
    return nnx.merge(graph, state[1]), index * STEPS_AT_ONCE


def diffusion_way(
    rng_key: jax.Array,
    images: np.ndarray,
    network: disco.UNet,
    seconds: float,
    *,
    batch: int = 256,
    num_particles: int = 64,
) -> Way:
    """A diffusion trained for so many seconds; the twisted diffusion sampler completes images."""
    loc, scale = images.mean(0), np.sqrt((images - images.mean(0)).var())
    shape = images.shape[1:]
    process = processes.variance_exploding(NUM_LEVELS, LEAST_NOISE, MOST_NOISE)
    network_key, train_key = jax.random.split(rng_key)
    trained, count = train_diffusion(
        train_key,
        network_of(network_key, shape, network),
        process,
        (images - loc) / scale,
        seconds,
        batch,
    )
    graph, weights = nnx.split(trained)

    @partial(jax.jit, static_argnums=2)
    def draw(weights: Any, rng_key: jax.Array, num: int) -> jax.Array:
        denoise = denoiser(process, nnx.merge(graph, weights), shape)
        x = process.start(rng_key, num, loc.size)
        step = samplers.ancestral(process, denoise)
        x = samplers.descend(jax.random.fold_in(rng_key, 1), step, x, process.levels)
        return denoise(x, jnp.zeros((), int))

    @jax.jit
    def complete(weights: Any, rng_key: jax.Array, values: jax.Array, seen: jax.Array) -> jax.Array:
        problem = (process, denoiser(process, nnx.merge(graph, weights), shape), seen)

        def one(key_and_values: tuple[jax.Array, jax.Array]) -> jax.Array:
            key, values = key_and_values
            keys = jax.random.split(key, 3)
            x = process.start(keys[0], num_particles, loc.size)
            state = inpainting.twisted_start(keys[1], *problem, values, x)
            step = inpainting.twisted(*problem, values)
            return samplers.descend(keys[2], step, state, process.levels).clean

        keys = jax.random.split(rng_key, len(values))
        return jax.lax.map(one, (keys, values), batch_size=32)

    def completions(rng_key: jax.Array, given: np.ndarray, num: int) -> np.ndarray:
        z = ((given - loc) / scale).reshape(len(given), -1)
        found = complete(weights, rng_key, jnp.nan_to_num(z), ~np.isnan(z[0]))
        # Neighbours among the particles have common ancestors.
        chosen = np.asarray(found)[:, :: max(1, num_particles // num)][:, :num]
        whole = loc + scale * chosen.swapaxes(0, 1).reshape(-1, *given.shape)
        return np.where(np.isnan(given), whole, given)

    def draws(rng_key: jax.Array, num: int) -> np.ndarray:
        return loc + scale * np.asarray(draw(weights, rng_key, num)).reshape(num, *shape)

    return Way(f"diffusion, twisted sampler ({count} steps)", seconds, draws, completions)


def nearest_way(images: np.ndarray, num_neighbours: int = 5) -> Way:
    """Hidden pixels are those of one of the training images whose seen pixels are nearest."""

    def complete(rng_key: jax.Array, given: np.ndarray, num: int) -> np.ndarray:
        seen = ~np.isnan(given[0])
        distance = ((images[:, seen][:, None] - given[:, seen]) ** 2).sum(-1)
        near = np.argsort(distance, axis=0)[:num_neighbours]
        return np.where(np.isnan(given), images[near[np.arange(num) % num_neighbours]], given)

    return Way(f"{num_neighbours} nearest neighbours", 0.0, None, complete)


def mixture_way(images: np.ndarray, num_components: int = 64) -> Way:
    """A mixture of Gaussians over the principal components that hold 95 % of the variance."""
    start, flat = time.perf_counter(), images.reshape(len(images), -1)
    components = PCA(0.95).fit(flat)
    z = components.transform(flat)
    width = 0.01 * z.var(axis=0).mean()
    mixture = GaussianMixture(num_components, reg_covar=width, random_state=0).fit(z)

    def draw(rng_key: jax.Array, num: int) -> np.ndarray:
        drawn = components.inverse_transform(mixture.sample(num)[0])
        return drawn.reshape(num, *images.shape[1:])

    seconds = time.perf_counter() - start
    return Way(f"mixture of {num_components} components", seconds, draw, None)


def reference_way(prior: disco.EnergyDistribution) -> Way:
    """The reference of a prior alone, a mixture or a Gaussian of smoothed images."""
    reference, shape = prior.joint_reference, prior.event_shape
    assert prior.noise_scale is not None
    variance = (float(prior.noise_scale) * float(prior.scale[0])) ** 2

    @partial(jax.jit, static_argnums=2)
    def drawn(rng_key: jax.Array, values: jax.Array, num: int) -> jax.Array:
        given = reference.condition(jnp.nan_to_num(values), ~jnp.isnan(values))
        x = given.sample(rng_key, (num,))
        slope = jax.grad(lambda x: reference.log_prob(x).sum())(x)
        return (x + variance * slope).reshape(*x.shape[:-1], *shape)

    def draw(rng_key: jax.Array, num: int) -> np.ndarray:
        return np.asarray(drawn(rng_key, jnp.full((int(np.prod(shape)),), jnp.nan), num))

    def complete(rng_key: jax.Array, given: np.ndarray, num: int) -> np.ndarray:
        found = drawn(rng_key, jnp.asarray(given.reshape(len(given), -1), jnp.float32), num)
        return np.where(np.isnan(given), np.asarray(found), given)

    count = len(reference.components().log_weights)
    return Way(f"reference alone, of {count} components", 0.0, draw, complete)
