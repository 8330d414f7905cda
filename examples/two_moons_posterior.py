"""The posterior of a simulator, learned from simulations alone, beside the exact one.

The simulator is "two moons": its posterior has two thin crescents, and is known exactly. Pairs
(theta, x) of a parameter and a simulation are learned as one density, with theta in focus: draws of
theta given any x are then exact draws of what was learned.

    python examples/two_moons_posterior.py            some minutes
    python examples/two_moons_posterior.py --small    a quick run of every step
"""

import argparse
from pathlib import Path

import jax
import numpy as np
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

import numpyro_disco as disco

OUTPUT = Path(__file__).parent / "output"
OBSERVATIONS = ((-0.64, 0.16), (-0.3, 0.2), (-0.5, -0.3))


def simulate(rng, theta):
    """A point on a half circle with a noisy radius, moved by theta; shape (N, 2) to (N, 2)."""
    angle = rng.uniform(-np.pi / 2, np.pi / 2, len(theta))
    radius = rng.normal(0.1, 0.01, len(theta))
    moved = np.stack([-np.abs(theta.sum(1)), theta[:, 1] - theta[:, 0]], axis=1) / 2**0.5
    return moved + np.stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)], axis=1)


def exact_posterior(rng, x, num_draws):
    """Draws of theta given x, if both crescents lie within the prior's square."""
    angle = rng.uniform(-np.pi / 2, np.pi / 2, num_draws)
    radius = rng.normal(0.1, 0.01, num_draws)
    along = (radius * np.cos(angle) + 0.25 - x[0]) * rng.choice([-1, 1], num_draws)
    across = x[1] - radius * np.sin(angle)
    return np.stack([along - across, along + across], axis=1) / 2**0.5


def learn(rng_key, theta, x, small):
    """Learn the density of (theta, x), with theta drawn last.

    The prior's bounds are no `supports`: the map to bounded columns would bend straight crescents.
    """
    few = {"num_steps": 200, "network": disco.MLP(width=32, num_blocks=1)} if small else {}
    return disco.fit(
        rng_key,
        {"theta": theta, "x": x},
        objective=disco.Likelihood(focus="theta"),
        reference=disco.MixtureFit(max_components=8 if small else 64),
        progress_bar=False,
        **few,
    )


def posterior_draws(rng_key, fit, x, num_draws):
    """Draws of theta given x within the prior's bounds, beyond which the density is small."""
    draws = disco.sample_conditional(
        rng_key, fit.distribution, observed={"x": np.asarray(x)}, num_samples=num_draws
    )
    theta = np.asarray(draws["theta"])
    return theta[(np.abs(theta) < 1).all(axis=1)]


def distinguishable(draws, exact):
    """Accuracy of a classifier that tells draws from exact ones; 0.5 if it has to guess."""
    count = min(len(draws), len(exact))
    both, label = np.concatenate([draws[:count], exact[:count]]), np.repeat([0, 1], count)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return cross_val_score(KNeighborsClassifier(50), both, label, cv=folds).mean()


def main(args):
    # A second run of this script loads what the first one compiled.
    jax.config.update("jax_compilation_cache_dir", str(OUTPUT / "compiled"))
    num_simulations, num_draws = (2000, 500) if args.small else (10_000, 2000)
    rng = np.random.default_rng(0)
    fit_key, draw_key = jax.random.split(jax.random.key(0))
    theta = rng.uniform(-1, 1, (num_simulations, 2))
    fit = learn(fit_key, theta, simulate(rng, theta), args.small)
    print(f"learned from {num_simulations} simulations, best step {fit.best_step}")
    for x in OBSERVATIONS:
        draws = posterior_draws(draw_key, fit, x, num_draws)
        exact = exact_posterior(rng, x, num_draws)
        share = distinguishable(draws, exact)
        print(f"x = {x}: {len(draws)} draws, told from exact ones in {share:.1%} of the cases")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a quick run of every step")
    main(parser.parse_args())
