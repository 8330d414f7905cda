"""Figure 2 of the paper: norms of learned scores on two moons, beside the exact smoothed score.

The target of DISCO is the score of the rows smoothed by sigma(0) = 0.1. A diffusion at its smallest
noise level has the same target near the rows, but never sees points far from them at that level.

    python examples/paper/figure_2.py            about five minutes on one core
    python examples/paper/figure_2.py --quick    a quick run of every step
"""

import argparse

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import methods
import numpy as np
from processes import variance_exploding
from sklearn.datasets import make_moons

SIGMA = methods.NOISE_SCALE
EDGE = 3.0
"""The picture reaches so far, in standard deviations of the rows."""
BANDS = {"within 2 sigma(0)": (0.0, 0.2), "0.2 to 1": (0.2, 1.0), "farther than 1": (1.0, np.inf)}
"""Distances to the nearest row."""


def moons(num_rows):
    """Standardised rows of two moons."""
    rows, _ = make_moons(num_rows, noise=0.05, random_state=0)
    return ((rows - rows.mean(0)) / rows.std(0)).astype(np.float32)


@jax.jit
def exact_scores(points, rows):
    """Scores of the smoothed rows at points (n, D), and distances to the nearest row (n,)."""

    def one(x):
        squares = ((x - rows) ** 2).sum(-1)
        share = jax.nn.softmax(-0.5 * squares / SIGMA**2)
        return (share @ rows - x) / SIGMA**2, jnp.sqrt(squares.min())

    return jax.lax.map(one, points)


def learned_scores(points, rows, size, path):
    """Scores of DISCO and of diffusions at t = 0, by name, (n, D) each."""
    disco_key, *keys = jax.random.split(jax.random.key(0), 3)
    process = variance_exploding(100)
    prior = methods.learn_disco(disco_key, rows, path=path, published=True, **size)
    found = {"DISCO": jax.jit(jax.vmap(prior.score))(points)}
    for key, energy in zip(keys, (False, True), strict=True):
        denoise = methods.learn_diffusion(key, rows, process, energy=energy, path=path, **size)
        clean = jax.jit(denoise)(points, 0)
        head = "energy" if energy else "score"
        found[f"diffusion, t = 0, {head} head"] = process.score(points, clean, 0)
    return found


def table(scores, exact, distance):
    """Lines of a table: root mean square errors relative to the exact score, by distance."""
    lines = ["| method | " + " | ".join(BANDS) + " |", "|---|" + "---|" * len(BANDS)]
    for name, score in scores.items():
        cells = []
        for low, high in BANDS.values():
            inside = (distance >= low) & (distance < high)
            error = np.linalg.norm(score[inside] - exact[inside])
            cells.append(f"{error / np.linalg.norm(exact[inside]):.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(path, scores, rows):
    """Norms of the scores as maps on one scale, with the rows."""
    figure, axes = plt.subplots(1, len(scores), figsize=(13, 3.4), layout="constrained")
    norms = {name: np.linalg.norm(score, axis=-1) for name, score in scores.items()}
    most = norms["exact"].max()
    count = int(np.sqrt(len(norms["exact"])))
    for axis, (name, norm) in zip(axes, norms.items(), strict=True):
        image = axis.imshow(
            norm.reshape(count, count), origin="lower", extent=2 * (-EDGE, EDGE), vmin=0, vmax=most
        )
        axis.plot(*rows[:1000].T, ",w", alpha=0.5)
        axis.set(title=name, xticks=[], yticks=[])
    figure.colorbar(image, ax=axes, label="norm of the score")
    figure.savefig(path, dpi=70)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rows, steps and points")
    quick = parser.parse_args().quick
    size = methods.sizes(quick, width=128)
    path = methods.prepare(quick) / "figure_2"
    rows = moons(1000 if quick else 10_000)
    places = np.linspace(-EDGE, EDGE, 20 if quick else 100)
    points = jnp.asarray(np.stack(np.meshgrid(places, places), -1).reshape(-1, 2), jnp.float32)
    exact, distance = (np.asarray(a) for a in exact_scores(points, jnp.asarray(rows)))
    scores = learned_scores(points, rows, size, path)
    scores = {label: np.asarray(score) for label, score in scores.items()}
    lines = table(scores, exact, distance)
    print(lines)
    path.with_suffix(".md").write_text(lines + "\n")
    picture(path.with_suffix(".png"), {"exact": exact} | scores, rows)


if __name__ == "__main__":
    main()
