"""Sections B and E of the paper: what two other objectives learn instead of one score.

Multiscale denoising score matching (MDSM) and denoising without the noise level as an input look
like DISCO. Their minimisers are averages over noise levels of the scores of the smoothed rows, p_t:
with the weights of the library's losses,

    DISCO                        grad log p_0
    MDSM                         mean of (sigma / sigma_0)^2 grad log p_t,  weights p_t / sigma^2
    time-independent diffusion   mean of grad log p_t,                      weights p_t sigma^2

Each objective is trained on draws of a mixture of two Gaussians on the line.

    python examples/paper/sections_b_e.py            about two minutes on one core
    python examples/paper/sections_b_e.py --quick    a quick run of every step
"""

import argparse

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import methods
import numpy as np
import optax
from exact import Mixture

import numpyro_disco as disco

SMALLEST, LARGEST = 0.2, 2.0
OBJECTIVES = {
    "DISCO": disco.Disco(noise_scale=SMALLEST, max_noise_scale=LARGEST, density_weight=0.0),
    "MDSM": disco.Multiscale(noise_scale=SMALLEST, max_noise_scale=LARGEST),
    "time-independent diffusion": disco.Diffusion(noise_scale=SMALLEST, max_noise_scale=LARGEST),
}


def two_modes():
    """A mixture of two Gaussians with mean 0 and variance 1."""
    weights, means, variance = np.array([0.3, 0.7]), np.array([-1.4, 0.6]), 0.16
    return Mixture.of(weights, means[:, None], np.full((2, 1, 1), variance))


def minimisers(rows, points):
    """The closed-form minimiser of each objective for these rows at points (n, 1), by name."""
    sigmas = jnp.geomspace(SMALLEST, LARGEST, 100)
    rows = jnp.asarray(rows, jnp.float32)

    def one(x):
        def level(sigma):
            logits = -0.5 * ((x - rows[:, 0]) / sigma) ** 2
            score = (jax.nn.softmax(logits) @ rows - x) / sigma**2
            return jax.nn.logsumexp(logits) - jnp.log(sigma), score

        log_probs, scores = jax.vmap(level)(sigmas)
        logs = 2 * jnp.log(sigmas)
        ratios = (sigmas / SMALLEST)[:, None] ** 2
        multiscale = jax.nn.softmax(log_probs - logs) @ (ratios * scores)
        diffusion = jax.nn.softmax(log_probs + logs) @ scores
        return scores[0], multiscale, diffusion

    found = jax.jit(lambda points: jax.lax.map(one, points))(points)
    return {name: np.asarray(a) for name, a in zip(OBJECTIVES, found, strict=True)}


def learned(rng_key, rows, points, quick):
    """The learned score of each objective at points (n, 1), by name."""
    size = {"num_steps": 50, "batch_size": 64} if quick else {"num_steps": 2000, "batch_size": 512}
    scores = {}
    for name, objective in OBJECTIVES.items():
        fit = disco.fit(
            rng_key,
            rows,
            objective=objective,
            network=disco.MLP(width=8, num_blocks=1, num_octaves=0)
            if quick
            else disco.MLP(width=64),
            optimizer=optax.adam(optax.cosine_decay_schedule(2e-3, size["num_steps"])),
            **size,
        )
        scores[name] = np.asarray(fit.score(points))
    return scores


def table(scores, closed):
    """Lines of a table: root mean square distance of learned scores from each minimiser."""
    names = list(closed)
    lines = ["| learned by | " + " | ".join(f"minimiser of {name}" for name in names) + " |"]
    lines.append("|---|" + "---|" * len(names))
    for name in names:
        errors = [np.sqrt(((scores[name] - closed[other]) ** 2).mean()) for other in names]
        lines.append(f"| {name} | " + " | ".join(f"{error:.2f}" for error in errors) + " |")
    return "\n".join(lines)


def picture(path, points, scores, closed):
    """Learned scores on top of their closed-form minimisers."""
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for index, name in enumerate(closed):
        axis.plot(points, closed[name], color=f"C{index}", alpha=0.4, linewidth=5)
        axis.plot(points, scores[name], color=f"C{index}", label=name)
    axis.set(xlabel="x", ylabel="score", title="Learned scores (thin) and minimisers (thick)")
    axis.legend()
    figure.savefig(path, dpi=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rows and steps")
    quick = parser.parse_args().quick
    path = methods.prepare(quick) / "sections_b_e"
    rows = two_modes().draw(np.random.default_rng(0), 1000 if quick else 20_000)
    points = jnp.linspace(-4, 4, 161)[:, None]
    closed = minimisers(rows, points)
    scores = learned(jax.random.key(0), rows, points, quick)
    lines = table(scores, closed)
    print(lines)
    path.with_suffix(".md").write_text(lines + "\n")
    picture(path.with_suffix(".png"), points[:, 0], scores, closed)


if __name__ == "__main__":
    main()
