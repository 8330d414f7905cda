"""Tempered SMC as in the paper: from a box to the conditional of a learned energy.

The library's own tempering starts from a density that is near, tunes its moves, and reports whether
it has converged; this one is for comparison.
"""

import jax
import jax.numpy as jnp
from inpainting import select

TARGET_ESS = 0.5
"""Effective share of the particles after each step."""
MAX_TEMPERATURES = 100
"""Most steps from the box to the target."""


def tempered(rng_key, energy, box, num_particles, num_moves=2, num_leapfrog=2, step_size=0.5):
    """Draw from exp(-energy) of one number, starting from a uniform density on a box.

    Args:
        rng_key: random key.
        energy: maps a number to its energy.
        box: least and greatest number, between which the particles start.
        num_particles: number of particles.
        num_moves: moves of Hamiltonian Monte Carlo at each inverse temperature.
        num_leapfrog: leapfrog steps of a move.
        step_size: of a leapfrog step, in standard deviations of the particles.

    Returns:
        Draws, shape (num_particles,), and the number of inverse temperatures. At each of them every
        particle evaluates the energy 1 + num_moves * (1 + num_leapfrog) times.

    References:
        Wedenig & Peharz 2025, sections A and D.1.
    """
    start_key, loop_key = jax.random.split(rng_key)
    at = jax.vmap(jax.value_and_grad(energy))

    def move(state, rng_key):
        x, inverse_temperature = state
        velocity_key, accept_key = jax.random.split(rng_key)
        start = jax.random.normal(velocity_key, x.shape)
        length = step_size * x.std()
        first, slope = at(x)
        y, velocity = x, start - 0.5 * length * inverse_temperature * slope
        for leap in range(num_leapfrog):
            y = y + length * velocity
            last, slope = at(y)
            share = 0.5 if leap == num_leapfrog - 1 else 1.0
            velocity = velocity - share * length * inverse_temperature * slope
        log_ratio = inverse_temperature * (first - last) + 0.5 * (start**2 - velocity**2)
        accepted = jnp.log(jax.random.uniform(accept_key, x.shape)) < log_ratio
        return (jnp.where(accepted, y, x), inverse_temperature), None

    def step(state):
        x, inverse_temperature, count = state
        select_key, move_key = jax.random.split(jax.random.fold_in(loop_key, count))
        values = jax.vmap(energy)(x)
        increment = next_increment(values, 1 - inverse_temperature)
        x = select(select_key, -increment * values, x)
        inverse_temperature = inverse_temperature + increment
        keys = jax.random.split(move_key, num_moves)
        x, _ = jax.lax.scan(move, (x, inverse_temperature), keys)[0]
        return x, inverse_temperature, count + 1

    def unfinished(state):
        return (state[1] < 1 - 1e-6) & (state[2] < MAX_TEMPERATURES)

    first = jax.random.uniform(start_key, (num_particles,), minval=box[0], maxval=box[1])
    x, _, count = jax.lax.while_loop(unfinished, step, (first, jnp.zeros(()), jnp.zeros((), int)))
    return x, count


def next_increment(values, most):
    """The largest increase of the inverse temperature that keeps the weights' effective share."""

    def share(increment):
        weights = jax.nn.softmax(-increment * values)
        return 1 / (weights**2).sum() / len(values)

    def halve(ends, _):
        low, high = ends
        middle = (low + high) / 2
        enough = share(middle) >= TARGET_ESS
        return (jnp.where(enough, middle, low), jnp.where(enough, high, middle)), None

    (low, _), _ = jax.lax.scan(halve, (jnp.zeros(()), most), None, length=30)
    return jnp.where(share(most) >= TARGET_ESS, most, low)
