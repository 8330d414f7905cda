"""Samplers that descend through the levels of a noise process: one loop, and a step for each.

A step maps (rng_key, state, t, s) to the state at level s < t. States are points (n, D). A denoiser
maps points (n, D) and a level to E[x_0 | x_t] (n, D). The samplers are exact for an exact denoiser
as the levels become dense; on a Gaussian every step is affine, so the law is known for any levels.
"""

import jax
import jax.numpy as jnp


def descend(rng_key, step, state, levels):
    """Run `step` from each level to the next, from the noisiest to the last."""
    keys = jax.random.split(rng_key, len(levels) - 1)

    def body(state, at):
        return step(at[0], state, at[1], at[2]), None

    return jax.lax.scan(body, state, (keys, levels[:-1], levels[1:]))[0]


def ancestral(process, denoise):
    """Draw x_s given x_t and the denoised point (Ho et al. 2020, equation 7)."""

    def step(rng_key, x, t, s):
        mean, deviation = process.backward(x, denoise(x, t), t, s)
        return mean + deviation * jax.random.normal(rng_key, x.shape)

    return step


def probability_flow(process, denoise, second_order=False):
    """Solve the deterministic flow with the same marginal laws (Song et al. 2021, section 4.3).

    The step is exact for a denoised point that does not change on the way (DDIM, Song, Meng &
    Ermon 2021); of second order, it takes the mean of the denoised points at both ends.
    """

    def moved(x, clean, t, s):
        ratio = process.sigma[s] / process.sigma[t]
        return ratio * x + (process.alpha[s] - ratio * process.alpha[t]) * clean

    def step(rng_key, x, t, s):
        clean = denoise(x, t)
        if second_order:
            clean = (clean + denoise(moved(x, clean, t, s), s)) / 2
        return moved(x, clean, t, s)

    return step


def annealed_langevin(process, denoise, num_moves=5, size=0.1):
    """Langevin moves at each level, of size * sigma^2 (NCSN, Song & Ermon 2019, algorithm 1)."""

    def step(rng_key, x, t, s):
        length = size * process.sigma[s] ** 2

        def move(x, rng_key):
            score = process.score(x, denoise(x, s), s)
            noise = jax.random.normal(rng_key, x.shape)
            return x + length * score + jnp.sqrt(2 * length) * noise, None

        return jax.lax.scan(move, x, jax.random.split(rng_key, num_moves))[0]

    return step


def predictor_corrector(process, denoise, num_moves=1, size=0.1):
    """An ancestral step, then Langevin moves at its level (Song et al. 2021, section 4.2).

    The size of the moves is a fixed share of sigma^2 and not adapted to the points.
    """
    predict = ancestral(process, denoise)
    correct = annealed_langevin(process, denoise, num_moves, size)

    def step(rng_key, x, t, s):
        predict_key, correct_key = jax.random.split(rng_key)
        return correct(correct_key, predict(predict_key, x, t, s), t, s)

    return step


def consistency(process, jump):
    """Jump to level 0 and add the noise of level s again (Song et al. 2023, algorithm 1).

    Args:
        process: the noise process.
        jump: maps points (n, D) and a level to where the flow from there ends, (n, D).
    """

    def step(rng_key, x, t, s):
        factor, deviation = process.added(s, 0)
        return factor * jump(x, t) + deviation * jax.random.normal(rng_key, x.shape)

    return step
