"""BlackJAX's samplers and NumPyro's own, run on the same densities as TemperedSMC.

BlackJAX is used as a careful user would: one compiled program for the whole loop and all runs, a
mass matrix from the posterior or the current particles, and settings from a grid search whose cost
is not counted. Its particles still have weights at inverse temperature 1, so they are resampled; it
makes no moves after that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import MCMC, NUTS
from tuning import Settings

MAX_TEMPERATURES = 100
PERSISTENT_TEMPERATURES = 64
"""Length of the arrays of persistent sampling, which keeps the particles of all temperatures."""

Key = jax.Array


class Outcome(NamedTuple):
    """Results of independent runs; the log normaliser of a failed run is NaN."""

    log_normalizer: Any
    """Log evidence of each run, shape (runs,); None for a method without evidence."""
    draws: Any
    """Equally weighted draws in the form of the method, runs along the first axis."""
    gradients: Any
    """Gradient evaluations of all particles, shape (runs,)."""
    reached: Any
    """Final inverse temperature of each run, shape (runs,)."""


class Problem(NamedTuple):
    """A target in the form that BlackJAX takes, over a flat unconstrained vector u of size d."""

    draw_base: Callable[[Key], jax.Array]
    log_base: Callable[[jax.Array], jax.Array]
    log_likelihood: Callable[[jax.Array], jax.Array]
    covariance: np.ndarray | None
    """Posterior covariance of u, shape (d, d); None if no settings need it."""
    dense: bool
    """True if mass matrices are dense."""


def _algorithm(
    constructor: Any, problem: Problem, settings: Settings, position: jax.Array, **options: Any
) -> tuple[Any, Callable]:
    """A BlackJAX algorithm with HMC moves, and a function from its state to that of the sampler."""
    import blackjax
    from blackjax.smc.base import extend_params
    from blackjax.smc.tuning.from_particles import particles_covariance_matrix, particles_stds

    def parameters(mass: jax.Array) -> dict:
        return extend_params({"step_size": settings.step_size, "inverse_mass_matrix": mass})

    def spread(particles: jax.Array) -> jax.Array:
        if problem.dense:
            return particles_covariance_matrix(particles)
        return particles_stds(particles) ** 2

    options |= {
        "logprior_fn": problem.log_base,
        "loglikelihood_fn": problem.log_likelihood,
        # A number, not one of the shared arrays, so that XLA knows the length of the loop.
        "mcmc_step_fn": partial(
            blackjax.hmc.build_kernel(), num_integration_steps=settings.num_leapfrog
        ),
        "mcmc_init_fn": blackjax.hmc.init,
        "resampling_fn": blackjax.smc.resampling.systematic,
    }
    if settings.mass == "posterior":
        covariance = jnp.asarray(problem.covariance, jnp.float32)
        mass = covariance if problem.dense else jnp.diag(covariance)
        algorithm = constructor(**options, mcmc_parameters=parameters(mass))
        return algorithm, lambda state: state
    algorithm = blackjax.inner_kernel_tuning(
        smc_algorithm=constructor,
        **options,
        mcmc_parameter_update_fn=lambda _, state, info: parameters(spread(state.particles)),
        initial_parameter_value=parameters(spread(position)),
    )
    return algorithm, lambda state: state.sampler_state


def tempered_run(
    problem: Problem, num_particles: int, settings: Settings, rng_key: Key, *, waste_free: bool
) -> Outcome:
    """One run of `blackjax.adaptive_tempered_smc`, waste-free or not."""
    import blackjax
    from blackjax.smc.waste_free import waste_free_smc

    start_key, loop_key, last_key = jax.random.split(rng_key, 3)
    position = jax.vmap(problem.draw_base)(jax.random.split(start_key, num_particles))
    options: dict[str, Any] = {"num_mcmc_steps": settings.num_moves}
    chains, moves = num_particles, settings.num_moves
    if waste_free:
        update = waste_free_smc(num_particles, settings.num_moves)
        options = {"num_mcmc_steps": None, "update_strategy": update}
        chains, moves = num_particles // settings.num_moves, settings.num_moves - 1
    algorithm, tempered = _algorithm(
        blackjax.adaptive_tempered_smc,
        problem,
        settings,
        position,
        target_ess=settings.target_ess,
        **options,
    )

    def step(carry: tuple) -> tuple:
        state, log_normalizer, num_steps = carry
        state, info = algorithm.step(jax.random.fold_in(loop_key, num_steps), state)
        return state, log_normalizer + info.log_likelihood_increment, num_steps + 1

    def unfinished(carry: tuple) -> jax.Array:
        state, _, num_steps = carry
        return (tempered(state).tempering_param < 1) & (num_steps < MAX_TEMPERATURES)

    # `init` returns Python numbers, but the state of a loop has to keep its types.
    start = jax.tree.map(jnp.asarray, algorithm.init(position))
    state, log_normalizer, num_steps = jax.lax.while_loop(
        unfinished, step, (start, jnp.zeros(()), jnp.zeros((), jnp.int32))
    )
    state = tempered(state)
    chosen = blackjax.smc.resampling.systematic(last_key, state.weights, num_particles)
    reached = state.tempering_param
    return Outcome(
        jnp.where(reached == 1, log_normalizer, jnp.nan),
        state.particles[chosen],
        num_steps * _gradients_per_step(chains, moves, settings),
        reached,
    )


def _gradients_per_step(chains: int, moves: int, settings: Settings) -> Any:
    """Gradients of one temperature: one to start each chain, then one for each leapfrog step."""
    return 1.0 * chains * (1 + moves * settings.num_leapfrog)


def persistent_run(
    problem: Problem, num_particles: int, settings: Settings, rng_key: Key
) -> Outcome:
    """One run of `blackjax.adaptive_persistent_sampling_smc`."""
    import blackjax
    from blackjax.smc.persistent_sampling import resample_from_persistent

    start_key, loop_key, last_key = jax.random.split(rng_key, 3)
    position = jax.vmap(problem.draw_base)(jax.random.split(start_key, num_particles))
    algorithm, persistent = _algorithm(
        blackjax.adaptive_persistent_sampling_smc,
        problem,
        settings,
        position,
        max_iterations=PERSISTENT_TEMPERATURES,
        target_ess=settings.target_ess,
        num_mcmc_steps=settings.num_moves,
    )

    def step(state: Any) -> Any:
        key = jax.random.fold_in(loop_key, persistent(state).iteration)
        return algorithm.step(key, state)[0]

    def unfinished(state: Any) -> jax.Array:
        state = persistent(state)
        return (state.tempering_param < 1) & (state.iteration < PERSISTENT_TEMPERATURES)

    start = jax.tree.map(jnp.asarray, algorithm.init(position))
    state = persistent(jax.lax.while_loop(unfinished, step, start))
    weights = state.persistent_weights
    draws, _ = resample_from_persistent(
        last_key,
        state.persistent_particles,
        weights / weights.sum(),
        blackjax.smc.resampling.systematic,
    )
    reached = state.tempering_param
    return Outcome(
        jnp.where(reached == 1, state.log_Z, jnp.nan),
        draws,
        state.iteration * _gradients_per_step(num_particles, settings.num_moves, settings),
        reached,
    )


def nuts(
    model: Callable, *, num_warmup: int, num_samples: int, num_chains: int, dense_mass: bool
) -> Callable[[Key], Outcome]:
    """NUTS with one vectorised chain for each run; it gives no evidence."""
    mcmc = MCMC(
        NUTS(model, dense_mass=dense_mass),
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=num_chains,
        chain_method="vectorized",
        progress_bar=False,
    )

    # Compiled as a whole: `run` alone would compile again at each call.
    @jax.jit
    def run(rng_key: Key) -> Outcome:
        mcmc.warmup(rng_key, collect_warmup=True, extra_fields=("num_steps",))
        warmup = mcmc.get_extra_fields(group_by_chain=True)["num_steps"].sum(axis=1)
        mcmc.run(mcmc.post_warmup_state.rng_key, extra_fields=("num_steps",))
        steps = mcmc.get_extra_fields(group_by_chain=True)["num_steps"].sum(axis=1)
        samples = mcmc.get_samples(group_by_chain=True)
        return Outcome(None, samples, warmup + steps, jnp.ones(num_chains))

    return run


def nested(model: Callable, num_samples: int) -> Callable[[Key], Outcome]:
    """NumPyro's NestedSampler, two runs; raises ImportError without a compatible jaxns."""
    from numpyro.contrib.nested_sampling import NestedSampler

    def run(rng_key: Key) -> Outcome:
        estimates, draws = [], []
        for key in jax.random.split(rng_key, 2):
            run_key, draw_key = jax.random.split(key)
            sampler = NestedSampler(model)
            sampler.run(run_key)
            # NumPyro has no public name for the evidence.
            estimates.append(float(sampler._results.log_Z_mean))  # noqa: SLF001
            draws.append(sampler.get_samples(draw_key, num_samples))
        samples = jax.tree.map(lambda *leaves: jnp.stack(leaves), *draws)
        return Outcome(jnp.array(estimates), samples, np.full(2, np.nan), np.ones(2))

    return run
