"""A mixture with Gaussian and categorical parts in float64, written as plainly as possible."""

from __future__ import annotations

import itertools

import jax
import numpy as np
from numpyro.distributions import constraints

from helpers.statistics import Mixture
from numpyro_disco import EnergyDistribution, MixedReference


class MixedMixture:
    """sum_k w_k N(x; m_k, S_k) prod_j P_kj(c_j), by enumeration of all levels.

    Args:
        gaussians: a `Mixture` over the continuous coordinates, with the weights.
        tables: from the place of each discrete coordinate to its probabilities, shape (K, levels).
    """

    def __init__(self, gaussians, tables):
        self.gaussians = gaussians
        self.tables = {
            place: np.asarray(table, np.float64) / np.sum(table, axis=1, keepdims=True)
            for place, table in tables.items()
        }
        self.dimension = gaussians.dimension + len(tables)
        self.discrete = sorted(tables)
        self.continuous = [place for place in range(self.dimension) if place not in tables]

    @property
    def num_levels(self):
        """Levels of each coordinate, 0 for continuous ones."""
        levels = {place: table.shape[1] for place, table in self.tables.items()}
        return tuple(levels.get(place, 0) for place in range(self.dimension))

    def reference(self):
        """The `MixedReference` with the same parameters."""
        count, dimension = len(self.gaussians.weights), self.dimension
        means = np.full((count, dimension), 77.0)
        covariances = np.tile(np.eye(dimension), (count, 1, 1))
        means[:, self.continuous] = self.gaussians.means
        covariances[np.ix_(range(count), self.continuous, self.continuous)] = (
            self.gaussians.covariances
        )
        log_probabilities = np.full((count, dimension, max(self.num_levels)), -np.inf)
        for place, table in self.tables.items():
            with np.errstate(divide="ignore"):
                log_probabilities[:, place, : table.shape[1]] = np.log(table)
        return MixedReference(
            self.gaussians.weights,
            means,
            covariances,
            log_probabilities,
            num_levels=self.num_levels,
        )

    def combinations(self, places):
        """All combinations of levels of some discrete coordinates, shape (n, len(places))."""
        ranges = [range(self.num_levels[place]) for place in places]
        found = list(itertools.product(*ranges))
        return np.array(found, float).reshape(len(found), len(places))

    def at_levels(self, places, codes):
        """Mass of codes of some coordinates, and the `Mixture` of the continuous ones given them.

        The mass is that of `codes` alone, with everything else summed or integrated out.
        """
        weights = self.gaussians.weights.copy()
        for place, code in zip(places, codes, strict=True):
            weights = weights * self.tables[place][:, int(code)]
        return weights.sum(), Mixture(weights, self.gaussians.means, self.gaussians.covariances)

    def log_prob(self, x):
        """Log density of points (n, D), shape (n,)."""
        x = np.asarray(x, np.float64)
        out = []
        for point in x:
            mass, given = self.at_levels(self.discrete, point[self.discrete])
            out.append(np.log(mass) + given.log_prob(point[self.continuous]))
        return np.array(out)

    def marginal_log_prob(self, point, mask):
        """Log density of the observed coordinates of one point (D,)."""
        levels = [place for place in self.discrete if mask[place]]
        seen = [i for i, place in enumerate(self.continuous) if mask[place]]
        mass, given = self.at_levels(levels, point[levels])
        values = point[self.continuous][seen]
        return np.log(mass) + (given.marginal(seen).log_prob(values) if seen else 0.0)

    def conditional(self, point, mask):
        """Probabilities of the free levels given the observed coordinates, and moments of the rest.

        Returns:
            Combinations of the free discrete coordinates (n, d); their probabilities (n,); and for
            each the `Mixture` of the free continuous coordinates, or None if there is none.
        """
        free = [place for place in self.discrete if not mask[place]]
        seen = [i for i, place in enumerate(self.continuous) if mask[place]]
        hidden = len(seen) < len(self.continuous)
        codes, masses, mixtures = self.combinations(free), [], []
        for combination in codes:
            whole = np.array(point, np.float64)
            whole[free] = combination
            known = np.array(mask) | np.isin(np.arange(self.dimension), free)
            masses.append(np.exp(self.marginal_log_prob(whole, known)))
            _, given = self.at_levels(self.discrete, whole[self.discrete])
            values = whole[self.continuous][seen]
            mixtures.append(given.condition(seen, values) if hidden else None)
        return codes, np.array(masses) / np.sum(masses), mixtures

    def expected(self, point, mask):
        """Exact expectation of `features(x)` under the conditional of one row."""
        free = [place for place in self.discrete if not mask[place]]
        hidden = [place for place in self.continuous if not mask[place]]
        total = 0.0
        for codes, probability, mixture in zip(*self.conditional(point, mask), strict=True):
            mean = np.array(point, np.float64)
            mean[free] = codes
            second = mean**2
            if hidden:
                mean[hidden] = mixture.mean
                second[hidden] = mixture.mean**2 + np.diag(mixture.covariance)
            total = total + probability * self._features(mean, second)
        return total

    def features(self, x):
        """Means and squares, indicators of levels, and means by level, (..., D) to (..., M)."""
        x = np.asarray(x, np.float64)
        return self._features(x, x**2)

    def _features(self, x, square):
        parts = [x[..., self.continuous], square[..., self.continuous]]
        for place in self.discrete:
            for level in range(self.num_levels[place]):
                here = (x[..., place] == level)[..., None]
                parts += [here, here * x[..., self.continuous]]
        return np.concatenate(parts, axis=-1)


# Two continuous coordinates (0 and 2), one of three levels and one of two, in between.
TRUTH = MixedMixture(
    Mixture(
        [0.55, 0.3, 0.15],
        [[0.0, 0.0], [2.0, -1.0], [-1.5, 2.0]],
        [[[0.5, 0.3], [0.3, 0.6]], [[0.3, -0.2], [-0.2, 0.8]], [[1.2, 0.0], [0.0, 0.2]]],
    ),
    {
        1: [[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.05, 0.9, 0.05]],
        3: [[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]],
    },
)
# One row for each subset of the four coordinates, from none to all.
MASKS = np.array(list(itertools.product([False, True], repeat=4)))
VALUES = np.random.default_rng(0).normal(size=MASKS.shape)
VALUES[:, 1] = np.random.default_rng(1).integers(0, 3, len(MASKS))
VALUES[:, 3] = np.random.default_rng(2).integers(0, 2, len(MASKS))
VALUES = VALUES.astype(np.float32)


NAMES = ("a", "c", "b", "d")
SUPPORTS = {"c": constraints.integer_interval(1, 3)}
SHIFT = np.array([0, 1, 0, 0], np.float32)
"""What is added to codes to get levels in the user's units."""


def mixed_prior(truth=TRUTH, reference=None, **keywords):
    """A prior with the density of `truth`, over a wider reference by default."""
    energy = jax.tree_util.Partial(lambda target, x: -target.log_prob(x), truth.reference())
    if reference is None:
        reference = truth.reference().temper(0.6)
    return EnergyDistribution(energy, reference, **keywords)


# Three narrow modes in four dimensions, far from any single Gaussian, and levels that differ
# between the modes, one of them with no mass in the first.
HARD = MixedMixture(
    Mixture(
        [0.5, 0.3, 0.2],
        [[-2.0, 1.0, 0.0, 2.0], [2.0, -1.0, 1.0, 0.0], [0.0, 2.0, -2.0, -1.0]],
        [
            np.diag(np.square(scale))
            for scale in ([0.2, 0.3, 0.15, 0.2], [0.3, 0.2, 0.2, 0.3], [0.15, 0.25, 0.3, 0.2])
        ],
    ),
    {
        1: [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.25, 0.5, 0.25]],
        4: [[0.9, 0.05, 0.05, 0.0], [0.1, 0.1, 0.4, 0.4], [0.3, 0.3, 0.2, 0.2]],
    },
)


def far_reference(truth=HARD):
    """One wide Gaussian, with all levels equally probable."""
    levels = np.arange(max(truth.num_levels)) < np.array(truth.num_levels)[:, None]
    dimension = truth.dimension
    return MixedReference(
        np.ones(1),
        np.zeros((1, dimension)),
        4 * np.eye(dimension)[None],
        np.where(levels, 0.0, -np.inf)[None],
    )
