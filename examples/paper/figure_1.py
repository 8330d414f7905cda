"""Figure 1 of the paper: x2 given x1 = 1.75 of a mixture in the plane, by DISCO and by its rivals.

The diffusion has a score head, as in the paper, and the same network as DISCO. Each method draws
from what its own network has learned; the exact conditional is that of the mixture itself.

    python examples/paper/figure_1.py            about five minutes on one core
    python examples/paper/figure_1.py --quick    a quick run of every step
"""

import argparse

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import methods
import numpy as np
from exact import draw_mixture, paper_mixture, wasserstein
from processes import variance_exploding
from scipy.stats import gaussian_kde

GIVEN = 1.75
POINT = jnp.array([GIVEN, 0.0])


def learned(rows, size, path):
    """Draws of every method: maps names to functions of a random key and the point."""
    disco_key, diffusion_key = jax.random.split(jax.random.key(0))
    process = variance_exploding(size["num_levels"])
    training = {key: size[key] for key in ("num_steps", "batch_size", "width", "num_blocks")}
    prior = methods.learn_disco(disco_key, rows, path=path, published=True, **training)
    denoise = methods.learn_diffusion(
        diffusion_key, rows, process, energy=False, path=path, **training
    )
    num_draws = size["num_draws"]
    found = {"DISCO": methods.disco_tempered(prior.energy, num_draws, 1, 10)}
    return found | {
        rival: methods.rival(rival, process, denoise, num_draws, 2) for rival in size["rivals"]
    }


def table(draws, exact, floor):
    """Lines of a table: W1 of each method against the exact conditional."""
    lines = ["| method | W1 |", "|---|---|", f"| exact draws | {floor:.3f} |"]
    lines += [f"| {name} | {wasserstein(x, exact):.3f} |" for name, x in draws.items()]
    return "\n".join(lines)


def picture(path, rows, density, draws):
    """The rows, and kernel densities of the draws beside the exact conditional."""
    weights, means, deviations = density
    places = np.linspace(-3, 3, 600)
    kernel = np.exp(-0.5 * ((places[:, None] - means) / deviations) ** 2)
    exact = kernel @ (weights / deviations) / np.sqrt(2 * np.pi)
    figure, axes = plt.subplots(2, 4, figsize=(12, 5), layout="constrained")
    axes = axes.ravel()
    axes[0].plot(*rows[:3000].T, ",k")
    axes[0].axvline(GIVEN, color="C3")
    axes[0].set(title="rows", xlabel="$x_1$", ylabel="$x_2$")
    for axis, (name, x) in zip(axes[1:], draws.items(), strict=False):
        axis.sharey(axes[1])
        axis.fill_between(places, exact, color="0.85", label="exact")
        axis.plot(places, gaussian_kde(x, 0.1)(places), color="C3" if name == "DISCO" else "C0")
        axis.set(title=name, xlabel="$x_2$", yticks=[])
    axes[1].legend()
    axes[-1].axis("off")
    figure.savefig(path, dpi=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rows, steps and rivals")
    quick = parser.parse_args().quick
    size = {"num_rows": 20_000, "num_steps": 3000, "batch_size": 512, "width": 128}
    size |= {"num_blocks": 2, "num_levels": 100, "num_draws": 1024, "rivals": methods.RIVALS}
    if quick:
        size |= {"num_rows": 1000, "num_steps": 50, "batch_size": 64, "width": 16}
        size |= {"num_blocks": 1, "num_levels": 20, "num_draws": 64, "rivals": methods.RIVALS[:2]}
    path = methods.prepare(quick) / "figure_1"
    rng = np.random.default_rng(1)
    truth = paper_mixture(2, seed=4)
    rows, density = truth.draw(rng, size["num_rows"]), truth.last_given_rest(POINT)
    exact, other = (draw_mixture(rng, *density, size["num_draws"]) for _ in range(2))
    draws = {}
    for label, run in learned(rows, size, path).items():
        draws[label] = np.asarray(jax.jit(run)(jax.random.key(2), POINT)[0])
    lines = table(draws, exact, wasserstein(other, exact))
    print(lines)
    path.with_suffix(".md").write_text(lines + "\n")
    picture(path.with_suffix(".png"), rows, density, draws)


if __name__ == "__main__":
    main()
