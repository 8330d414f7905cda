"""Can a conditional be trusted? Is what is given typical, and are the draws calibrated?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from scipy import stats

from numpyro_disco._checks import check_count, check_key, name_index
from numpyro_disco._typing import Array
from numpyro_disco.diagnostics.verdicts import BAD, GOOD, LOOK
from numpyro_disco.energy.conditionals import (
    sample_conditional,
)
from numpyro_disco.energy.distribution import EnergyDistribution, check_prior

NUM_POLYNOMIALS = 4


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Ranks of hidden truths among draws of their conditionals.

    Attributes:
        ranks: for each column that was hidden in turn, the rank of the truth among the draws, from
            0 to 1, in every row where it was there. Uniform if the conditionals are right.
        num_draws: draws behind each rank.
    """

    ranks: Mapping[str, np.ndarray]
    num_draws: int

    def coverage(self, level: float) -> dict[str, float]:
        """Share of truths inside the central intervals of that probability, by column.

        Args:
            level: between 0 and 1, say 0.9.
        """
        return {
            name: float((np.abs(ranks - 0.5) <= level / 2).mean())
            for name, ranks in self.ranks.items()
        }

    def p_values(self) -> dict[str, float]:
        """By column, how likely ranks as far from uniform are, if all is well.

        Neyman's smooth test: the means of the first four Legendre polynomials of the ranks, which
        see a shift, too wide or too narrow, a skew, and heavy tails. The ranks of a column are
        those of different rows, so they are independent.

        References:
            Neyman 1937, "Smooth" test for goodness of fit.
        """
        return {name: _smooth_test(ranks) for name, ranks in self.ranks.items()}

    def __str__(self) -> str:
        """A line for each column: good, look or bad, coverage and p-value."""
        width = max(map(len, self.ranks))
        half, most = self.coverage(0.5), self.coverage(0.9)
        lines = []
        for name, p in self.p_values().items():
            verdict = GOOD if p >= 0.05 / len(self.ranks) else LOOK if p >= 1e-4 else BAD
            lines.append(
                f"{verdict:5}{name:{width}}  50 % intervals hold {half[name]:.0%}, 90 % intervals "
                f"{most[name]:.0%} of {len(self.ranks[name])} truths; ranks are uniform with "
                f"p = {p:.2g}"
            )
        return "\n".join(lines)

    def to_arviz(self) -> Any:
        """The ranks as an ArviZ object, one variable for each column in the group "prior_sbc"."""
        from numpyro_disco._arviz import ranks_to_arviz

        return ranks_to_arviz(self.ranks)

    def plot(self, **kwargs: Any) -> Any:
        """Draw the distribution of the ranks against uniform, with ArviZ.

        Needs matplotlib, the `plots` extra.

        Args:
            **kwargs: arguments of `arviz.plot_ecdf` (ArviZ 0.x) or `arviz.plot_ecdf_pit` (1.x).

        Returns:
            Axes of each column (ArviZ 0.x), or ArviZ's collection of plots (1.x).
        """
        from numpyro_disco.diagnostics.plots import plot_ranks

        return plot_ranks(self, **kwargs)


def _smooth_test(ranks: np.ndarray) -> float:
    # Orthonormal on [0, 1]: each mean, times the root of the count, is a standard normal.
    polynomials = np.polynomial.legendre.legvander(2 * ranks - 1, NUM_POLYNOMIALS)[:, 1:]
    normal = np.sqrt(2 * np.arange(1, NUM_POLYNOMIALS + 1) + 1) * polynomials.mean(axis=0)
    return float(stats.chi2.sf(len(ranks) * (normal**2).sum(), NUM_POLYNOMIALS))


def calibration(
    rng_key: Array,
    prior: EnergyDistribution,
    table: Any,
    *,
    columns: Sequence[str] | None = None,
    num_draws: int = 99,
    num_particles: int = 256,
) -> Calibration:
    """Hide each column in turn, and rank the truth among draws of its conditional.

    Where a conditional is the one that rows come from, ranks are uniform; where they pile up in the
    middle it is too wide, at both ends too narrow, at one end shifted. The rows must be new to the
    prior: of those it was learned from, ranks are too good.

    Args:
        rng_key: random key.
        prior: the `EnergyDistribution`.
        table: rows (n, D), a DataFrame or a dict of columns; NaN where missing, in which case the
            column is hidden from nothing and the others are drawn without it.
        columns: names of the columns to hide; all by default. Each row and column costs a run.
        num_draws: draws of each conditional; ranks are multiples of 1 / (num_draws + 1), spread
            evenly in between.
        num_particles: particles of each run.

    Returns:
        A `Calibration`: print it, or look at its `plot`.

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
    check_prior(prior, "Give its `distribution`.")
    check_count(num_draws, "num_draws", minimum=2)
    given = prior.pattern(table, "table")
    values, there = given.values, given.observed
    if values.ndim != 2:
        raise ValueError(f"Expected shape (rows, D) for `table`; got {values.shape}.")
    clamped = [name for name, held in zip(prior.names, prior.observed, strict=True) if held]
    if columns is None:
        columns = [name for name in prior.names if name not in clamped]
    places = {name: name_index(name, prior.names, "columns") for name in columns}
    if set(columns) & set(clamped):
        raise ValueError(f"Expected free `columns`; {clamped} are clamped in this distribution.")
    pairs = [(row, place) for place in places.values() for row in np.flatnonzero(there[:, place])]
    if not pairs:
        raise ValueError("Expected at least one entry in `table` that can be hidden; got none.")
    row_of, column_of = (np.asarray(part) for part in zip(*pairs, strict=True))
    hidden = np.where(there, values, np.nan)[row_of]
    each = np.arange(len(pairs))
    hidden[each, column_of] = np.nan
    draw_key, tie_key = jax.random.split(rng_key)
    draws = np.asarray(
        sample_conditional(
            draw_key, prior, hidden, num_draws, num_particles=max(num_draws, num_particles)
        )
    )
    below = (draws[:, each, column_of] < values[row_of, column_of]).sum(axis=0)
    # A rank is an interval between two draws: somewhere in it, so that ranks are continuous.
    ranks = (below + np.asarray(jax.random.uniform(tie_key, below.shape))) / (num_draws + 1)
    return Calibration({n: ranks[column_of == place] for n, place in places.items()}, num_draws)
