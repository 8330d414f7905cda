"""The posterior of a simulator, in two rounds of simulations.

The simulator is "two moons": its posterior has two thin crescents, and is known exactly. Pairs
(theta, x) of a parameter and a simulation are learned as one density, with the conditional of theta
given x in focus, and x is then given. The second round simulates where the posterior of one
observation lies. Row weights, prior over proposal, undo that choice. Any function of x alone may
multiply them: it changes the density of x, and leaves that of theta given x as it is. So rows near
the observation get most of the weight.

    python examples/two_moons_posterior.py            about two minutes on two cores
    python examples/two_moons_posterior.py --small    a quick run of every step
"""

import argparse

import jax
import numpy as np
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

import numpyro_disco as disco

OBSERVATION = np.array([-0.64, 0.16])
NEARBY = 0.15
"""Scale on which x counts as near the observation."""


def simulate(rng, theta):
    """A point on a half circle with a noisy radius, moved by theta; shape (N, 2) to (N, 2)."""
    angle = rng.uniform(-np.pi / 2, np.pi / 2, len(theta))
    radius = rng.normal(0.1, 0.01, len(theta))
    moved = np.stack([-np.abs(theta.sum(1)), theta[:, 1] - theta[:, 0]], axis=1) / 2**0.5
    return moved + np.stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)], axis=1)


def inside(theta):
    """True where the uniform prior on (-1, 1) x (-1, 1) is positive; its density there is 1/4."""
    return (np.abs(theta) < 1).all(axis=1)


def exact_posterior(rng, x, num_draws):
    """Draws of theta given x, if both crescents lie within the prior's square."""
    angle = rng.uniform(-np.pi / 2, np.pi / 2, num_draws)
    radius = rng.normal(0.1, 0.01, num_draws)
    along = (radius * np.cos(angle) + 0.25 - x[0]) * rng.choice([-1, 1], num_draws)
    across = x[1] - radius * np.sin(angle)
    return np.stack([along - across, along + across], axis=1) / 2**0.5


def learn(rng_key, theta, x, weights, small):
    """Learn the density of (theta, x), with the conditional of theta given x in focus."""
    few = {"num_steps": 50, "network": disco.MLP(width=32, num_blocks=1)} if small else {}
    return disco.fit(
        rng_key,
        {"theta": theta, "x": x},
        weights=weights,
        objective=disco.Contrastive(focus="theta"),
        reference=disco.MixtureFit(max_components=32 if small else 128),
        batch_size=256,
        progress_bar=False,
        **({"num_steps": 300} | few),
    )


def posterior_draws(rng_key, fit, num_draws):
    """Draws of theta given the observation, within the prior's bounds.

    The density outside is close to zero, because no row lies there; draws there are rejected. With
    `supports` there would be none, see docs/simulators.md for when that is better.
    """
    draws = disco.sample_conditional(
        rng_key, fit.distribution, observed={"x": OBSERVATION}, num_samples=num_draws
    )
    theta = np.asarray(draws["theta"])
    return theta[inside(theta)]


def posterior_density(rng_key, fit, theta):
    """Density of theta given the observation, normalised over all of the plane."""
    given = fit.distribution.clamp({"x": OBSERVATION}).normalize(rng_key)
    points = np.concatenate([theta, np.tile(OBSERVATION, (len(theta), 1))], axis=1)
    return np.exp(np.asarray(given.log_prob(points), np.float64))


def distinguishable(draws, exact):
    """Accuracy of a classifier that tells draws from exact ones; 0.5 if it has to guess."""
    count = min(len(draws), len(exact))
    both, label = np.concatenate([draws[:count], exact[:count]]), np.repeat([0, 1], count)
    order = np.random.default_rng(0).permutation(2 * count)
    return cross_val_score(KNeighborsClassifier(50), both[order], label[order], cv=5).mean()


def main(args):
    num_first, num_second, num_draws = (2000, 1000, 500) if args.small else (10_000, 5000, 2000)
    rng = np.random.default_rng(0)
    keys = iter(jax.random.split(jax.random.key(0), 6))
    exact = exact_posterior(rng, OBSERVATION, num_draws)

    theta = rng.uniform(-1, 1, (num_first, 2))
    x = simulate(rng, theta)
    fit = learn(next(keys), theta, x, None, args.small)
    draws = posterior_draws(next(keys), fit, num_draws)
    first = distinguishable(draws, exact)
    print(f"round 1: {len(theta)} simulations, told from exact draws in {first:.0%} of the cases")

    # The proposal of the second round: the posterior of the first one, cut off at the bounds.
    proposed = posterior_draws(next(keys), fit, num_second)
    share_inside = len(proposed) / num_second
    theta = np.concatenate([theta, proposed])
    x = np.concatenate([x, simulate(rng, proposed)])
    proposal = posterior_density(next(keys), fit, theta) / share_inside
    # All rows together come from a mixture of the prior and the proposal. As the prior is part of
    # it, no weight is large.
    share = len(proposed) / len(theta)
    weights = 0.25 / ((1 - share) * 0.25 + share * proposal)
    weights *= np.exp(-0.5 * ((x - OBSERVATION) ** 2).sum(1) / NEARBY**2)
    fit = learn(next(keys), theta, x, weights, args.small)
    draws = posterior_draws(next(keys), fit, num_draws)
    second = distinguishable(draws, exact)
    print(f"round 2: {len(theta)} simulations, told from exact draws in {second:.0%} of the cases")
    print(fit.report()["focus"].reason)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a quick run of every step")
    main(parser.parse_args())
