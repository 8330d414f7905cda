"""The conditional samplers that the figures compare, under one signature, and what they learn.

Every sampler maps (rng_key, point) to draws (n,) of the last coordinate given the others of the
point (D,), and to the number of network evaluations for each draw.
"""

import tempfile
from functools import partial
from pathlib import Path

import diffusion
import inpainting
import jax
import jax.numpy as jnp
import numpy as np
import optax
from samplers import ancestral, descend
from tempered import tempered

import numpyro_disco as disco

OUTPUT = Path(__file__).parent / "output"
"""Where a run keeps what it has learned and drawn."""
NOISE_SCALE, COOLED = 0.1, 0.07
"""The smoothing sigma(0) of the paper, and the smaller one with which it samples."""
RIVALS = ("replacement", "guidance", "TDS", "SMC-Diff", "MCGDiff")
"""Conditional samplers of a diffusion."""
BOX = (-5.0, 5.0)
"""Where tempering starts, in standard deviations of the rows."""


def prepare(quick):
    """Make the folder of the output, which is returned.

    A quick run gets an empty one of its own, so that it learns anew, and programs that compile
    sooner and run more slowly.
    """
    if not quick:
        OUTPUT.mkdir(exist_ok=True)
        return OUTPUT
    jax.config.update("jax_disable_most_optimizations", True)
    folder = Path(tempfile.mkdtemp())
    print(f"writing to {folder}")
    return folder


def sizes(quick, width):
    """Length of training and size of a network that has `width` in a full run."""
    if quick:
        return {"num_steps": 50, "batch_size": 64, "width": 16, "num_blocks": 1}
    return {"num_steps": 2500, "batch_size": 512, "width": width, "num_blocks": 2}


def rival(name, process, denoise, num_draws, dimension):
    """A conditional sampler of a diffusion, by name."""
    observed = jnp.arange(dimension) < dimension - 1
    levels = process.levels

    def run(rng_key, point):
        start_key, first_key, key = jax.random.split(rng_key, 3)
        x = process.start(start_key, num_draws, dimension)
        given = process, denoise, observed, point
        if name == "replacement":
            step = inpainting.replacement(process, ancestral(process, denoise), observed, point)
        elif name == "guidance":
            step = ancestral(process, inpainting.guided(*given))
        elif name == "TDS":
            x = inpainting.twisted_start(first_key, *given, x)
            step = inpainting.twisted(*given)
        elif name == "SMC-Diff":
            path = inpainting.noisy_path(first_key, process, point)
            step = inpainting.smc_diff(process, denoise, observed, path)
        else:
            x = inpainting.mcg_start(first_key, process, observed, point, x)
            step = inpainting.mcg_diff(*given)
        x = descend(key, step, x, levels)
        x = x.x if name == "TDS" else x
        return x[:, -1], jnp.asarray(len(levels) - (name != "TDS"))

    return run


def disco_tempered(energy, num_draws, num_moves=2, num_leapfrog=2):
    """Tempered SMC from a box on an energy of points (D,), with the numbers of Figure 4."""

    def run(rng_key, point):
        def energy_of_last(last):
            return energy(point.at[-1].set(last))

        draws, count = tempered(rng_key, energy_of_last, BOX, num_draws, num_moves, num_leapfrog)
        return draws, count * (1 + num_moves * (1 + num_leapfrog))

    return run


def disco_on_grid(energy, num_draws, masses=None, modes=None):
    """Draws from an energy of points (D,) by inversion on a grid, without a sampler's errors.

    Args:
        energy: of a point (D,).
        num_draws: number of draws.
        masses: an energy that has the masses of modes instead; None keeps those of `energy`.
        modes: an energy whose conditional has the minima that separate modes.
    """
    grid = jnp.linspace(*BOX, 4001)

    def density(energy, point):
        energies = jax.lax.map(lambda last: energy(point.at[-1].set(last)), grid, batch_size=500)
        return jax.nn.softmax(-energies)

    def run(rng_key, point):
        mass = density(energy, point)
        if masses is not None:
            mode = modes_between_minima(density(modes, point))
            of_modes = partial(jax.ops.segment_sum, segment_ids=mode, num_segments=len(grid))
            own, wanted = of_modes(mass), of_modes(density(masses, point))
            mass = mass * (wanted / jnp.maximum(own, 1e-30))[mode]
        mass = jnp.cumsum(mass)
        uniform = jax.random.uniform(rng_key, (num_draws,), maxval=mass[-1])
        return jnp.interp(uniform, mass, grid), jnp.zeros(())

    return run


def modes_between_minima(density):
    """The number of the mode of each place of a grid, shape (n,)."""
    inner = density[1:-1]
    least = (inner < density[:-2]) & (inner <= density[2:])
    return jnp.cumsum(jnp.pad(least, 1).astype(int))


def smoothed_rows(rng, rows, point, num_draws):
    """Draws of the last coordinate of the rows smoothed by sigma(0), given the others of a point.

    This is what DISCO learns from these rows in the limit: the network fits them exactly.
    """
    squares = (((rows[:, :-1] - np.asarray(point)[:-1]) / NOISE_SCALE) ** 2).sum(1)
    weights = np.exp(-0.5 * (squares - squares.min()))
    chosen = rng.choice(len(rows), num_draws, p=weights / weights.sum())
    return rows[chosen, -1] + NOISE_SCALE * rng.standard_normal(num_draws)


def learn_disco(rng_key, rows, *, width, num_blocks, num_steps, batch_size, path, published=False):
    """DISCO by the library.

    As published, targets are draws from the posterior over rows, and there is no term for the log
    density. By default the library takes posterior means, and has the term.
    """
    how = {"target": "draw", "density_weight": 0.0} if published else {}
    path = path.with_name(f"disco_{path.name}.npz")
    if not path.exists():
        fit = disco.fit(
            rng_key,
            rows,
            objective=disco.Disco(
                noise_scale=NOISE_SCALE, posterior_rows="all", whiten=False, **how
            ),
            network=disco.MLP(width=width, num_blocks=num_blocks),
            optimizer=optax.adam(optax.cosine_decay_schedule(1e-3, num_steps)),
            num_steps=num_steps,
            batch_size=batch_size,
            checkpoint=path.with_suffix(".checkpoint"),
        )
        disco.save(path, fit.distribution)
    return disco.load(path)


def learn_default(rng_key, rows, *, path, **settings):
    """What `disco.fit` learns without any settings, or with those of a shorter run."""
    path = path.with_name(f"default_{path.name}.npz")
    if not path.exists():
        settings["checkpoint"] = path.with_suffix(".checkpoint")
        disco.save(path, disco.fit(rng_key, rows, **settings).distribution)
    return disco.load(path)


def learn_diffusion(rng_key, rows, process, *, energy, num_steps, batch_size, path, **sizes):
    """A diffusion with a score or an energy head."""
    path = path.with_name(f"{'energy' if energy else 'score'}_{path.name}.npz")
    network_key, train_key = jax.random.split(rng_key)
    # Frequencies as `fit` chooses them for this smoothing.
    network = diffusion.network_of(network_key, rows.shape[1], energy, num_octaves=4, **sizes)
    if not path.exists():
        network = diffusion.train(
            train_key,
            network,
            diffusion.denoising_loss(process),
            rows,
            num_steps=num_steps,
            batch_size=batch_size,
            checkpoint=path.with_suffix(".checkpoint.npz"),
        )
        diffusion.store(path, network)
    return diffusion.denoiser(process, diffusion.restore(path, network))
