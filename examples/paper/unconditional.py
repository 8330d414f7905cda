"""Draws of whole points: DISCO beside diffusions, a flow and a distilled consistency model.

All learn the paper's mixture in the plane from the same rows, with the same network. Draws are
compared with the exact law of the level that they end at, the mixture smoothed by sigma_0: W1 in
the mean over many directions.

    python examples/paper/unconditional.py            about five minutes on one core
    python examples/paper/unconditional.py --quick    a quick run of most samplers
"""

import argparse

import diffusion
import jax
import jax.numpy as jnp
import methods
import numpy as np
import processes
import samplers
from exact import paper_mixture, wasserstein

import numpyro_disco as disco

PROCESSES = {
    "variance exploding": processes.variance_exploding,
    "variance preserving": processes.variance_preserving,
    "sub-variance preserving": processes.sub_variance_preserving,
    "DDPM": processes.ddpm,
    "straight paths": processes.straight,
}
QUICK = ("variance exploding", "straight paths")
"""The processes of a quick run."""
FLOOR = "exact draws"


def trained(rng_key, rows, loss, path, start, *, num_steps, batch_size, **sizes):
    """A network trained by a loss from the weights of another one, or the one that is kept."""
    network = diffusion.network_of(rng_key, rows.shape[1], False, num_octaves=4, **sizes)
    if not path.exists():
        settings = {"num_steps": num_steps, "batch_size": batch_size}
        first = network if start is None else start
        diffusion.store(path, diffusion.train(rng_key, first, loss, rows, **settings))
    return diffusion.restore(path, network)


def steps_of(rng_key, rows, name, process, path, size):
    """Steps of each sampler of a process by name, and the levels that they visit."""

    def learned(loss, what, start=None):
        place = path.with_name(f"{path.name}_{what}_{name.replace(' ', '_')}.npz")
        return trained(rng_key, rows, loss, place, start, **size)

    straight = name == "straight paths"
    loss = diffusion.flow_matching_loss if straight else diffusion.denoising_loss
    network = learned(loss(process), "score")
    denoise = diffusion.denoiser(process, network)
    flow = samplers.probability_flow(process, denoise)
    if straight:
        return {"flow": (flow, process.levels)}
    found = {"ancestral": (samplers.ancestral(process, denoise), process.levels)}
    if name != "variance exploding":
        return found
    second = samplers.probability_flow(process, denoise, second_order=True)
    jump = learned(diffusion.consistency_loss(process, flow), "consistency", network)
    few = process.levels[jnp.linspace(0, len(process.levels) - 1, 4).astype(int)]
    jumps = samplers.consistency(process, diffusion.jump(process, jump))
    return found | {
        "probability flow": (flow, process.levels),
        "probability flow, second order": (second, process.levels),
        "predictor-corrector": (samplers.predictor_corrector(process, denoise), process.levels),
        "annealed Langevin": (samplers.annealed_langevin(process, denoise), process.levels),
        "consistency, three jumps": (jumps, few),
    }


def error(draws, others):
    """W1 between equally many points (n, 2), in the mean over 50 directions."""
    angles = np.arange(50) * np.pi / 50
    directions = np.stack([np.cos(angles), np.sin(angles)])
    return np.mean([wasserstein(draws @ way, others @ way) for way in directions.T])


def errors(truth, rows, size, path, num_draws, num_levels, names):
    """Errors of all samplers, by name."""
    rng, keys = np.random.default_rng(1), iter(jax.random.split(jax.random.key(0), 40))

    def exact(alpha, sigma):
        return alpha * truth.draw(rng, num_draws) + sigma * rng.standard_normal((num_draws, 2))

    found = {FLOOR: error(exact(1.0, methods.NOISE_SCALE), exact(1.0, methods.NOISE_SCALE))}
    prior = methods.learn_disco(next(keys), rows, path=path, **size)
    draws = disco.sample_conditional(next(keys), prior, np.full(2, np.nan), num_draws)
    found["DISCO"] = error(np.asarray(draws), exact(1.0, methods.NOISE_SCALE))
    for name in names:
        process = PROCESSES[name](num_levels)
        steps = steps_of(next(keys), rows, name, process, path, size)
        smoothed = exact(float(process.alpha[0]), float(process.sigma[0]))
        for sampler, (step, levels) in steps.items():
            x = process.start(next(keys), num_draws, 2)
            draws = jax.jit(samplers.descend, static_argnums=1)(next(keys), step, x, levels)
            found[f"{name}, {sampler}"] = error(np.asarray(draws), smoothed)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rows, steps and draws")
    quick = parser.parse_args().quick
    size = methods.sizes(quick, width=64)
    path = methods.prepare(quick) / "unconditional"
    truth = paper_mixture(2)
    rows = truth.draw(np.random.default_rng(0), 1000 if quick else 20_000).astype(np.float32)
    numbers = (64, 5) if quick else (4096, 100)
    found = errors(truth, rows, size, path, *numbers, QUICK if quick else PROCESSES)
    lines = ["| method | W1 |", "|---|---|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in found.items()]
    print("\n".join(lines))
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
