"""Diffusion, flow matching and consistency models on the networks of the library.

The networks are those that `numpyro_disco.fit` trains, with features of the noise level as further
inputs. Rows are standardised. With a = alpha_t, s = sigma_t and r^2 = a^2 + s^2, which is the
variance of x_t, the score head predicts (Karras et al. 2022, with data of variance 1)

    E[x_0 | x_t = x] = a x / r^2 + (s / r) network(x / r),

and the energy head has E(x) = x^2 / (2 r^2) + network(x / r), whose score is -grad E.
"""

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from numpyro_disco.energy.networks import EnergyNetwork, ScoreNetwork

NUM_WAVES = 4
"""Frequencies at which the network sees the log of the noise level."""
DECAY = 0.999
"""Decay of the average of the weights."""
ADAM = optax.scale_by_adam()
CLIPPED = optax.chain(optax.clip_by_global_norm(1.0), ADAM)
"""Optimisers without a learning rate, which each round of steps is given. Over many steps the
energy head of a diffusion needs the second, and a lower learning rate."""
ROUND = 100
"""Steps in one program."""


def network_of(rng_key, dimension, energy, **sizes):
    """A network of the library that also reads features of a noise level."""
    make = EnergyNetwork if energy else ScoreNetwork
    return make(dimension, num_local=1 + 2 * NUM_WAVES, rngs=nnx.Rngs(rng_key), **sizes)


def level_features(sigma):
    """The log of a noise level, with its sines and cosines, shape (1 + 2 NUM_WAVES,)."""
    angles = jnp.log(sigma) * 2.0 ** jnp.arange(NUM_WAVES)
    return jnp.concatenate([jnp.log(sigma)[None], jnp.sin(angles), jnp.cos(angles)])


def denoiser(process, network):
    """The denoiser that a network stands for."""

    def one(x, alpha, sigma):
        local, spread = level_features(sigma), jnp.hypot(alpha, sigma)
        if isinstance(network, ScoreNetwork):
            return alpha / spread**2 * x + sigma / spread * network(x / spread, local)

        def energy(x):
            return 0.5 * (x @ x) / spread**2 + network(x / spread, local)

        return (x - sigma**2 * jax.grad(energy)(x)) / alpha

    def denoise(x, t):
        alpha, sigma = (jnp.broadcast_to(a[t], len(x)) for a in process)
        return jax.vmap(one)(x, alpha, sigma)

    return denoise


def denoising_loss(process):
    """Error of the denoised rows relative to the noise: |clean - x_0|^2 / sigma_t^2.

    With alpha = 1 this is sigma_t^2 times the squared error of the score.
    """

    def loss(network, _, rng_key, rows):
        level_key, noise_key = jax.random.split(rng_key)
        t = jax.random.randint(level_key, (len(rows),), 0, len(process.sigma))
        x, _ = process.noisy(noise_key, rows, t)
        error = denoiser(process, network)(x, t) - rows
        return ((error / process.sigma[t][:, None]) ** 2).mean()

    return loss


def flow_matching_loss(process):
    """Error of the velocity eps - x_0 = (x_t - x_0) / sigma_t on straight paths."""

    def loss(network, _, rng_key, rows):
        level_key, noise_key = jax.random.split(rng_key)
        t = jax.random.randint(level_key, (len(rows),), 0, len(process.sigma))
        x, noise = process.noisy(noise_key, rows, t)
        velocity = (x - denoiser(process, network)(x, t)) / process.sigma[t][:, None]
        return ((velocity - (noise - rows)) ** 2).mean()

    return loss


def jump(process, network):
    """A consistency function: a jump along the flow to level 0, where it is the identity.

    It is the flow's step for a denoised point that does not change, with one that is learned.
    """
    denoise = denoiser(process, network)

    def jumped(x, t):
        clean = denoise(x, t)
        ratio = jnp.broadcast_to(process.sigma[0] / process.sigma[t], len(x))[:, None]
        alpha = jnp.broadcast_to(process.alpha[t], len(x))[:, None]
        return ratio * x + (process.alpha[0] - ratio * alpha) * clean

    return jumped


def consistency_loss(process, flow):
    """Jumps from both ends of one step of the flow should meet (Song et al. 2023, algorithm 2).

    Args:
        process: the noise process.
        flow: a step (key, x, t, s) of the teacher's probability flow.
    """

    def loss(network, average, rng_key, rows):
        level_key, noise_key = jax.random.split(rng_key)
        t = jax.random.randint(level_key, (len(rows),), 1, len(process.sigma))
        x, _ = process.noisy(noise_key, rows, t)
        moved = jax.vmap(lambda x, t: flow(None, x[None], t, t - 1)[0])(x, t)
        target = jax.lax.stop_gradient(jump(process, average)(moved, t - 1))
        error = jump(process, network)(x, t) - target
        return ((error / process.sigma[t][:, None]) ** 2).mean()

    return loss


def random_rows(rng_key, rows, shape):
    """Rows drawn at random with replacement, shape (*shape, D)."""
    return rows[jax.random.randint(rng_key, shape, 0, len(rows))]


def train(
    rng_key,
    network,
    loss,
    rows,
    *,
    num_steps,
    batch_size=512,
    learning_rate=1e-3,
    optimizer=ADAM,
    batches=random_rows,
    seconds=np.inf,
    checkpoint=None,
):
    """Train by Adam and return the network with averaged weights.

    Args:
        rng_key: random key.
        network: the network.
        loss: maps (network, network with averaged weights, key, batch) to a number.
        rows: standardised rows, shape (N, D); or those of several tables, shape (S, N, D), for each
            of which a copy of the network is trained, all side by side. Weights then have a leading
            axis S.
        num_steps: most optimiser steps. The learning rate falls to zero along a cosine.
        batch_size: rows in a step.
        learning_rate: the first learning rate.
        optimizer: `ADAM` or `CLIPPED`.
        batches: maps (key, rows, (steps, batch_size)) to the batches of so many steps.
        seconds: most seconds, without compilation. If they run out before the steps, the learning
            rate has fallen with them.
        checkpoint: path of an .npz file that keeps the state; if it exists, training continues
            from it. None keeps nothing.
    """
    weights, rows = nnx.state(network), jnp.asarray(rows, jnp.float32)
    state = (weights, weights, optimizer.init(weights))
    steps = partial(take_steps, nnx.graphdef(network), loss, optimizer, batches, batch_size)
    if rows.ndim == 3:
        state = jax.tree.map(lambda leaf: np.stack([leaf] * len(rows)), state)
        steps = jax.vmap(steps, in_axes=(0, 0, 0, None, None))
    many, first, spent, warm, saved = jax.jit(steps), 0, 0.0, False, time.perf_counter()
    if checkpoint is not None and checkpoint.exists():
        first, spent, *leaves = read_leaves(checkpoint)
        first, spent = int(first), float(spent)
        state = jax.tree.unflatten(jax.tree.structure(state), leaves)
    while (progress := max(first / num_steps, spent / seconds)) < 1:
        start, last = time.perf_counter(), min(first + ROUND, num_steps)
        rate = learning_rate * (1 + np.cos(np.pi * progress)) / 2
        key = jax.random.fold_in(rng_key, first)
        key = key if rows.ndim == 2 else jax.random.split(key, len(rows))
        state, values = many(state, key, rows, np.arange(first, last), rate)
        mean, first = float(values.mean()), last
        # The first round of a run compiles.
        spent += (time.perf_counter() - start) * warm
        warm = True
        if last % 1000 == 0:
            print(f"  step {last} of {num_steps}, loss {mean:.4f}, {spent:.0f} s", flush=True)
        if checkpoint is not None and (start - saved > 60 or last == num_steps):
            np.savez(checkpoint, last, spent, *jax.tree.leaves(state))
            saved = start
    print(f"  {first} steps in {spent:.0f} s", flush=True)
    return nnx.merge(nnx.graphdef(network), state[1])


def take_steps(graph, loss, optimizer, batches, batch_size, state, rng_key, rows, counts, rate):
    """Steps at one learning rate: the new state, and the losses.

    The state is that of the weights, of their average, and of the optimiser.
    """

    def step(state, at):
        (weights, average, memory), (count, loss_key, batch) = state, at

        def total(weights):
            return loss(nnx.merge(graph, weights), nnx.merge(graph, average), loss_key, batch)

        value, gradient = jax.value_and_grad(total)(weights)
        change, memory = optimizer.update(gradient, memory)
        weights = jax.tree.map(lambda w, c: w - rate * c, weights, change)
        # The average forgets the start sooner, so that short runs have one as well.
        decay = jnp.minimum(DECAY, (1 + count) / (10 + count))
        average = jax.tree.map(lambda a, w: decay * a + (1 - decay) * w, average, weights)
        return (weights, average, memory), value

    batch_key, loss_key = jax.random.split(rng_key)
    made = batches(batch_key, rows, (len(counts), batch_size))
    return jax.lax.scan(step, state, (counts, jax.random.split(loss_key, len(counts)), made))


def store(path, network):
    """Write the weights of a network."""
    leaves = jax.tree.leaves(nnx.state(network))
    np.savez(path, *(np.asarray(leaf) for leaf in leaves))


def restore(path, network):
    """Read weights into a network of the same sizes."""
    graph, weights = nnx.split(network)
    return nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(weights), read_leaves(path)))


def read_leaves(path):
    """The arrays of a file, in their order."""
    with np.load(path) as found:
        return [found[name] for name in found.files]
