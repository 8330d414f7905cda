"""Calibration of conditionals: ranks of hidden entries among draws of their conditionals.

If an entry x_j of a row comes from the conditional p(x_j | x_observed), then its rank among draws
of that conditional is uniform:

    (#{draws < x_j} + U (1 + #{draws = x_j})) / (num_samples + 1),    U ~ Uniform(0, 1).

Draws of a continuous column equal x_j with probability 0. Those of a discrete column often do; the
random place among them keeps the rank uniform, whatever the order of the levels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from scipy import stats

from numpyro_disco._arviz import ranks_to_arviz
from numpyro_disco._checks import check_count, check_key, name_index
from numpyro_disco._typing import Array
from numpyro_disco.diagnostics.plots import plot_ranks
from numpyro_disco.diagnostics.verdicts import FAIL, PASS, WARN
from numpyro_disco.energy.conditionals import draw_conditionals
from numpyro_disco.energy.distribution import EnergyDistribution, check_prior
from numpyro_disco.energy.drawing import DrawInfo

NUM_POLYNOMIALS = 4
"""Legendre polynomials in the smooth test of uniformity."""
PASS_LEVEL, WARN_LEVEL = 0.05, 1e-4
"""A column passes above the first p-value, divided by the number of columns, and fails below the
second."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Ranks of hidden entries among draws of their conditionals.

    Attributes:
        ranks: by hidden column, the rank of the true value among the draws, in (0, 1), for each
            row in which the column was present, shape (rows,). Uniform if the conditionals are
            right.
        num_samples: number of draws behind each rank.
        info: by hidden column, how the draws behind each rank were made, a `DrawInfo` of the same
            rows; empty for ranks that were made elsewhere.
    """

    ranks: Mapping[str, np.ndarray]
    num_samples: int
    info: Mapping[str, DrawInfo] = dataclasses.field(default_factory=dict)

    def coverage(self, level: float) -> dict[str, float]:
        """Share of true values inside the central interval of this probability, by column.

        Args:
            level: probability of the interval, between 0 and 1.
        """
        return {
            name: float((np.abs(ranks - 0.5) <= level / 2).mean())
            for name, ranks in self.ranks.items()
        }

    def p_values(self) -> dict[str, float]:
        """P-value of the hypothesis that the ranks are uniform, by column.

        Neyman's smooth test, which uses the means of the first four Legendre polynomials of the
        ranks and so detects a shift, a wrong width, a skew and heavy tails. Ranks of one column
        come from different rows, so they are independent.

        References:
            Neyman 1937, "Smooth" test for goodness of fit.
        """
        return {name: _smooth_test(ranks) for name, ranks in self.ranks.items()}

    def verdicts(self) -> dict[str, str]:
        """Verdict on the uniformity of the ranks, by column: "pass", "warn" or "fail"."""
        pass_level = PASS_LEVEL / len(self.ranks)
        return {
            name: PASS if p >= pass_level else WARN if p >= WARN_LEVEL else FAIL
            for name, p in self.p_values().items()
        }

    def __str__(self) -> str:
        """One line for each column: verdict, coverage, p-value, and how it was drawn."""
        width = max(map(len, self.ranks))
        half, most, verdicts = self.coverage(0.5), self.coverage(0.9), self.verdicts()
        return "\n".join(
            f"{verdicts[name]:5}{name:{width}}  50 % intervals cover {half[name]:.0%} and 90 % "
            f"intervals {most[name]:.0%} of {len(self.ranks[name])} true values; ranks are "
            f"uniform with p = {p:.2g}{_methods(self.info.get(name))}"
            for name, p in self.p_values().items()
        )

    def to_arviz(self) -> Any:
        """Convert the ranks to an ArviZ object, one variable per column, in group "prior_sbc"."""
        return ranks_to_arviz(self.ranks)

    def plot(self, axes: Any = None) -> Any:
        """Draw how far the distribution of the ranks is from the uniform distribution.

        One panel for each column, with its verdict. The line of a calibrated column stays inside
        its band with probability 0.95. Needs matplotlib, the `plots` extra.

        Args:
            axes: one matplotlib axes for each column; new ones by default.

        Returns:
            Array of the axes.
        """
        return plot_ranks(self.ranks, self.verdicts(), axes)


def calibration(
    rng_key: Array,
    prior: EnergyDistribution,
    data: Any,
    *,
    columns: Sequence[str] | None = None,
    num_samples: int = 99,
    num_particles: int = 256,
) -> Calibration:
    """Hide each column in turn, and rank the true values among draws of their conditionals.

    Ranks are uniform if the conditionals are those that the rows come from. Ranks near the middle
    mean that a conditional is too wide, ranks at both ends that it is too narrow, and ranks at one
    end that it is shifted. Use rows that the prior was not trained on: on training rows the ranks
    look better than they are.

    Args:
        rng_key: random key.
        prior: the `EnergyDistribution`.
        data: array (rows, D), a DataFrame or a dict of columns; NaN where missing. Missing entries
            are not ranked, and the other entries of the row are drawn without them.
        columns: names of the columns to hide; all by default. Each row and column costs as much
            as one row of `sample_conditional`.
        num_samples: number of draws from each conditional.
        num_particles: number of particles of a tempered run, raised to `num_samples` if smaller.

    Returns:
        A `Calibration`; print it, or call its `plot`.

    Raises:
        ValueError: unknown or clamped columns, or no entry that can be hidden.
        RuntimeError: the particles of some row did not reach its conditional.

    References:
        Talts et al. 2018, Validating Bayesian inference algorithms with simulation-based
        calibration.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro_disco as disco
        >>> q = disco.GaussianReference(jnp.zeros(2), 9 * jnp.eye(2))
        >>> prior = disco.EnergyDistribution(lambda x: 0.5 * (x @ x), q, names=("a", "b"))
        >>> rows = jax.random.normal(jax.random.key(1), (10, 2))
        >>> disco.calibration(jax.random.key(0), prior, rows).ranks["a"].shape
        (10,)
    """
    rng_key = check_key(rng_key)
    check_prior(prior)
    check_count(num_samples, "num_samples", minimum=2)
    given = prior.pattern(data, "data")
    values, there = given.values, given.observed
    if values.ndim != 2:
        raise ValueError(f"Expected shape (rows, D) for `data`; got {values.shape}.")
    places = _hidden_places(prior, columns)
    row_of, column_of = _hidden_entries(there, list(places.values()))
    each = np.arange(len(row_of))
    hidden = np.zeros((len(row_of), values.shape[1]), bool)
    hidden[each, column_of] = True
    rows = prior.with_clamped(given).select(row_of).hide(hidden)
    draw_key, tie_key = jax.random.split(rng_key)
    num_particles = max(num_samples, num_particles)
    result = draw_conditionals(draw_key, prior, rows, num_samples, num_particles)
    assert result.info is not None
    drawn = np.asarray(result.draws)[:, each, column_of]
    true = values[row_of, column_of]
    below, equal = (drawn < true).sum(axis=0), (drawn == true).sum(axis=0)
    # A rank is an interval between draws; a uniform point in it makes ranks continuous.
    ties = np.asarray(jax.random.uniform(tie_key, below.shape))
    ranks = (below + ties * (1 + equal)) / (num_samples + 1)
    entries = {name: column_of == place for name, place in places.items()}
    return Calibration(
        {name: ranks[which] for name, which in entries.items()},
        num_samples,
        {name: result.info.select(which) for name, which in entries.items()},
    )


def _methods(info: DrawInfo | None) -> str:
    """Number of rows by method, such as "; drawn: 97 by importance, 3 by tempering"."""
    if info is None:
        return ""
    methods, counts = np.unique(info.method, return_counts=True)
    by_method = [f"{count} by {name}" for name, count in zip(methods, counts, strict=True)]
    return f"; drawn: {', '.join(by_method)}"


def _hidden_places(prior: EnergyDistribution, columns: Sequence[str] | None) -> dict[str, int]:
    """Positions of the columns to hide, by name: by default all that are not clamped."""
    clamped = [name for name, held in zip(prior.names, prior.observed, strict=True) if held]
    if columns is None:
        columns = [name for name in prior.names if name not in clamped]
    places = {name: name_index(name, prior.names, "columns") for name in columns}
    if set(columns) & set(clamped):
        raise ValueError(
            f"Expected free `columns`; got {tuple(columns)}, and {clamped} are clamped in this "
            "distribution. Leave them out."
        )
    return places


def _hidden_entries(there: np.ndarray, places: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each entry to hide, column by column, shape (entries,) each."""
    entries = [(row, place) for place in places for row in np.flatnonzero(there[:, place])]
    if not entries:
        raise ValueError(
            "Expected at least one entry in `data` that can be hidden; got none. Give rows with "
            "numbers in `columns`."
        )
    rows, columns = np.asarray(entries).T
    return rows, columns


def _smooth_test(ranks: np.ndarray) -> float:
    """P-value of Neyman's smooth test of uniform ranks, shape (rows,)."""
    # Orthonormal on [0, 1]: each mean, times the root of the count, is a standard normal.
    polynomials = np.polynomial.legendre.legvander(2 * ranks - 1, NUM_POLYNOMIALS)[:, 1:]
    normal = np.sqrt(2 * np.arange(1, NUM_POLYNOMIALS + 1) + 1) * polynomials.mean(axis=0)
    return float(stats.chi2.sf(len(ranks) * (normal**2).sum(), NUM_POLYNOMIALS))
