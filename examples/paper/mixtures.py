"""Several mixtures at once: the networks that learn them, and the samplers that are compared.

Networks of all mixtures are trained side by side, and samplers draw for one mixture after the other
in one program. Parameters are pytrees with a leading axis S for mixtures.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from threading import Lock
from typing import Any, NamedTuple

import diffusion
import jax
import methods
import numpy as np
import published
from exact import Mixture
from flax import nnx
from processes import variance_exploding

PUBLISHED, NOT_COOLED = "DISCO, as published", "DISCO, not cooled"
MEANS = "DISCO by posterior means"
"""Targets without sampling noise; not cooled."""
GRID = "DISCO, on a grid"
"""What DISCO has learned from draws, drawn without a sampler's errors."""
EXACT_MASSES, EXACT_SHAPES = "the same, exact masses of modes", "the same, exact shapes of modes"
CAUSES = (GRID, EXACT_MASSES, EXACT_SHAPES)
"""What tells apart errors of the sampler, of masses and of shapes; not in the picture."""
COOLING = (methods.NOISE_SCALE / methods.COOLED) ** 2
"""Power of the density that sampling with a smaller sigma(0) amounts to."""


class Size(NamedTuple):
    """How large a run is."""

    num_seeds: int
    """Number of mixtures of each dimension."""
    num_rows: int
    """Rows to learn from."""
    num_steps: dict
    """Training steps by dimension."""
    batch_size: int
    """Rows in a step."""
    num_blocks: int
    """Residual blocks of the networks."""
    widths: dict
    """Width of the networks by dimension."""
    default: dict
    """Settings of `fit` in place of its defaults."""
    num_levels: int
    """Noise levels of the diffusion."""
    num_tests: int
    """Test points of each mixture."""
    num_draws: int
    """Draws for each test point."""
    at_once: int
    """Test points at which a sampler draws side by side."""


class Task(NamedTuple):
    """The mixtures of one dimension."""

    dimension: int
    seeds: tuple
    """Seeds of the S mixtures."""
    truths: list
    """The mixtures."""
    rows: np.ndarray
    """Rows to learn from, shape (S, N, D)."""
    points: np.ndarray
    """Test points, shape (S, num_tests, D)."""


class Models(NamedTuple):
    """What the samplers read. Parameters are pytrees with a leading axis S for mixtures."""

    energy: Any
    """Maps parameters of one mixture to an energy of a point."""
    denoiser: Any
    """Maps parameters of one mixture to a denoiser."""
    like: tuple
    """Parameters of energies and of denoisers before training, to compile with."""
    by_draws: Any
    """Returns parameters of energies: DISCO with draws of the posterior as targets."""
    by_means: Any
    """Returns those of DISCO with means of the posterior."""
    diffusion: Any
    """Returns parameters of denoisers."""


class Sampler(NamedTuple):
    """A sampler of all mixtures of a task."""

    make: Any
    """Maps parameters of one mixture to a sampler at one point."""
    like: tuple
    """Parameters to compile with."""
    parameters: Any
    """Returns the parameters, after training."""


def noise_process(dimension, size):
    """The paper's noise levels."""
    largest = 2.0 if dimension < 50 else 5.0
    return variance_exploding(size.num_levels, methods.NOISE_SCALE, largest)


def learned(task, size, path, seconds):
    """Networks that are trained when a sampler first asks for them, and kept."""
    sizes = {"width": size.widths[task.dimension], "num_blocks": size.num_blocks, "num_octaves": 4}
    settings = {"num_steps": size.num_steps[task.dimension], "batch_size": size.batch_size}
    process, sigma = noise_process(task.dimension, size), methods.NOISE_SCALE
    keys = jax.random.split(jax.random.key(0), 4)
    energy = published.network_of(keys[0], task.dimension, **sizes)
    score = diffusion.network_of(keys[1], task.dimension, energy=True, **sizes)
    place = path.with_name(f"{path.name}_{task.dimension}_{'-'.join(map(str, task.seeds))}")

    def trained(name, network, key, loss, **more):
        kept = place.with_name(f"{place.name}_{name}.npz")
        if not kept.exists():
            print(f"D = {task.dimension}: training {name}", flush=True)
            more |= settings | {"seconds": seconds}
            more["checkpoint"] = kept.with_suffix(".checkpoint.npz")
            diffusion.store(kept, diffusion.train(key, network, loss, task.rows, **more))
        return nnx.state(diffusion.restore(kept, network))

    @once
    def pairs():
        pair, batches = published.both_kinds(energy), published.noisy_batches(process)
        return trained("disco", pair, keys[2], published.disco_loss(sigma), batches=batches)

    @once
    def scores():
        loss = diffusion.denoising_loss(process)
        more = {"optimizer": diffusion.CLIPPED, "learning_rate": 5e-4}
        return trained("diffusion", score, keys[3], loss, **more)

    parts = [nnx.graphdef(network) for network in (energy, score)]
    return Models(
        lambda weights: published.energy_of(nnx.merge(parts[0], weights), sigma),
        lambda weights: diffusion.denoiser(process, nnx.merge(parts[1], weights)),
        tuple(stacked([nnx.state(one)] * len(task.seeds)) for one in (energy, score)),
        lambda: published.kind_of(pairs(), "draw"),
        lambda: published.kind_of(pairs(), "mean"),
        scores,
    )


def once(function):
    """A function without arguments that runs once; other threads wait for its result."""
    lock, kept = Lock(), cache(function)

    def call():
        with lock:
            return kept()

    return call


def exact_models(task, size):
    """Exact energies and scores, which leave the samplers' own errors."""
    process, truths = noise_process(task.dimension, size), stacked(task.truths)
    denoiser = partial(Mixture.denoiser, process=process)
    return Models(smoothed_energy, denoiser, (truths, truths), *[lambda: truths] * 3)


def stacked(trees):
    """Trees as one, with a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def smoothed_energy(truth):
    """The energy of a mixture smoothed by sigma(0): what DISCO should learn."""
    return lambda x: -truth.log_prob(x, 1.0, methods.NOISE_SCALE)


def samplers(models, task, size):
    """Samplers by name."""
    process, num_draws = noise_process(task.dimension, size), size.num_draws
    truths, ones = stacked(task.truths), np.ones(len(task.seeds), np.float32)
    energies, denoisers = models.like

    def tempered(weights, power):
        energy = models.energy(weights)
        return methods.disco_tempered(lambda x: power * energy(x), num_draws)

    def rival(name, weights):
        denoise = models.denoiser(weights)
        return methods.rival(name, process, denoise, num_draws, task.dimension)

    def on_grid(weights):
        return methods.disco_on_grid(models.energy(weights), num_draws)

    def swapped(exact_masses, weights, truth):
        own, exact = models.energy(weights), smoothed_energy(truth)
        shapes, masses = (own, exact) if exact_masses else (exact, own)
        return methods.disco_on_grid(shapes, num_draws, masses, exact)

    def with_truth():
        return models.by_draws(), truths

    found, like = {}, (energies, ones)
    found[PUBLISHED] = Sampler(tempered, like, lambda: (models.by_draws(), COOLING * ones))
    found[NOT_COOLED] = Sampler(tempered, like, lambda: (models.by_draws(), ones))
    found[MEANS] = Sampler(tempered, like, lambda: (models.by_means(), ones))
    for name in methods.RIVALS:
        found[name] = Sampler(partial(rival, name), (denoisers,), lambda: (models.diffusion(),))
    found[GRID] = Sampler(on_grid, (energies,), lambda: (models.by_draws(),))
    for label, exact_masses in {EXACT_MASSES: True, EXACT_SHAPES: False}.items():
        found[label] = Sampler(partial(swapped, exact_masses), (energies, truths), with_truth)
    return found


def runs_by_name(models, task, size, wanted):
    """Samplers by name. Each returns draws (S, num_tests, n), evaluations and seconds, (S,).

    Their programs compile in threads while networks train, DISCO beside the diffusion.

    Args:
        models: what to sample.
        task: the mixtures.
        size: numbers of noise levels, of draws, and of points at once.
        wanted: names of samplers.
    """
    compiling, compiled, runs = ThreadPoolExecutor(3), {}, {}
    for index, (label, sampler) in enumerate(samplers(models, task, size).items()):
        if label in wanted:
            if sampler.make not in compiled:
                given = sampler.make, sampler.like, task, size
                compiled[sampler.make] = compiling.submit(program, *given)
            key = jax.random.fold_in(jax.random.key(1), index)
            runs[label] = partial(at_points, compiled[sampler.make], sampler.parameters, key)
    if set(methods.RIVALS) & set(wanted):
        ThreadPoolExecutor(1).submit(models.diffusion)
    return runs


def program(make, like, task, size):
    """The compiled program of a sampler: from parameters, keys and points, all with an axis S."""

    def of_mixture(at):
        parameters, keys, points = at
        run = make(*parameters)
        return jax.lax.map(lambda each: run(*each), (keys, points), batch_size=size.at_once)

    keys = jax.random.split(jax.random.key(0), task.points.shape[:2])
    return jax.jit(lambda *at: jax.lax.map(of_mixture, at)).lower(like, keys, task.points).compile()


def at_points(compiled, parameters, rng_key, task):
    """Draws at all points, and their cost, by a program that may be compiling still."""
    given = parameters(), jax.random.split(rng_key, task.points.shape[:2]), task.points
    run = compiled.result()
    start = time.perf_counter()
    draws, evaluations = (np.asarray(array) for array in run(*given))
    seconds = time.perf_counter() - start
    return draws, evaluations.mean(1), np.full(len(draws), seconds / len(draws))
