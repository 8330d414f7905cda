"""Scores of density estimators, and the tables that compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from methods import OURS, TINY, Method
from quadrature import on_grid, wasserstein
from tasks import Task

HEADER = (
    "| task | method | W1, mean | W1, worst | log density | log score | CRPS | seconds |\n"
    "|---|---|---|---|---|---|---|---|\n"
)
NETWORK_HEADER = (
    "| task | W1, lower by | log density, higher by | log score, higher by | CRPS, lower by | "
    "the network |\n|---|---|---|---|---|---|\n"
)
COLUMN_HEADER = (
    "| task | column | best rival | fit over it, nats | its reference over it, nats | "
    "lowest CRPS of a rival | fit over it | its reference over it |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


class Scores(NamedTuple):
    """Scores of one method on one task; arrays that do not apply are empty."""

    distance: np.ndarray
    """W1 to the true conditional, shape (columns, n)."""
    log_score: np.ndarray
    """Log density of the true value under the conditional, shape (columns, n)."""
    ranked: np.ndarray
    """Continuous ranked probability score, shape (columns, n)."""
    joint: np.ndarray
    """Log density of the whole test row, shape (1, n)."""

    @property
    def cells(self) -> tuple[float, ...]:
        """Mean W1, largest W1, mean log density, mean log score and mean CRPS; NaN if empty."""
        distance, log_score, ranked, joint = (
            float(values.mean()) if values.size else np.nan for values in self
        )
        worst = float(self.distance.max()) if self.distance.size else np.nan
        return distance, worst, joint, log_score, ranked


Run: TypeAlias = Mapping[str, tuple[Scores, float]]
"""Scores and seconds of each method, for one task and seed."""


def score(task: Task, method: Method, exact: Mapping[int, np.ndarray]) -> Scores:
    """Score the conditionals of a method.

    Args:
        task: the columns to predict and the test rows.
        method: a trained method.
        exact: true conditionals by column, where they are known; log densities on the grid.
    """
    distances, log_scores, ranked = [], [], []
    for column in task.columns:
        grid, log_densities = task.grid(column), method.conditionals(task, column)
        if column in exact:
            distances.append(wasserstein(log_densities, exact[column], grid))
            continue
        density, cumulative = on_grid(log_densities, grid)
        y = task.test[:, column]
        at = [np.interp(value, grid, row) for value, row in zip(y, density, strict=True)]
        log_scores.append(np.log(np.maximum(at, TINY)))
        square = (cumulative - (grid >= y[:, None])) ** 2
        ranked.append(square.sum(1) * (grid[1] - grid[0]))
    parts = (distances, log_scores, ranked, [method.joint(task)])
    return Scores(*(np.asarray(part) for part in parts))


def show(values: Sequence[float]) -> str:
    """Cells of a table; NaN is left empty."""
    return " | ".join("" if np.isnan(value) else f"{value:.4f}" for value in values)


def with_error(gain: np.ndarray) -> str:
    """A mean and its standard error."""
    return f"{gain.mean():+.4f} ± {gain.std() / np.sqrt(len(gain)):.4f}"


def pooled(part: str, method: str, runs: Sequence[Run]) -> np.ndarray:
    """One part of a method's scores, test rows of all runs side by side, shape (columns, n)."""
    return np.concatenate([getattr(run[method][0], part) for run in runs], axis=-1)


def method_lines(name: str, runs: Sequence[Run]) -> str:
    """Scores of each method on one task, averaged over seeds, with the largest W1 of all."""
    lines = ""
    for method in runs[0]:
        cells = np.array([run[method][0].cells for run in runs])
        mean, worst = cells.mean(0), cells[:, 1].max()
        seconds = np.mean([run[method][1] for run in runs])
        lines += f"| {name} | {method} | {show((mean[0], worst, *mean[2:]))} | {seconds:.0f} |\n"
    return lines


def network_line(name: str, runs: Sequence[Run]) -> str:
    """Paired difference between `fit` and its reference alone, and a verdict on the network.

    The verdict is about W1 where the truth is known, otherwise about log scores: a difference
    within two standard errors adds nothing.
    """
    cells, verdict = [], ""
    for part, sign in (("distance", -1), ("joint", 1), ("log_score", 1), ("ranked", -1)):
        learned, alone = (pooled(part, method, runs) for method in OURS[:2])
        gain = sign * (learned - alone)
        if not gain.size or np.isnan(gain).any():
            cells.append("")
            continue
        gain = gain.mean(0)
        cells.append(with_error(gain))
        if part in ("distance", "log_score"):
            errors = gain.mean() / max(gain.std() / np.sqrt(len(gain)), 1e-12)
            verdict = "adds nothing" if abs(errors) < 2 else "adds" if errors > 0 else "takes away"
    return f"| {name} | {' | '.join(cells)} | {verdict} |\n"


def column_lines(name: str, runs: Sequence[Run]) -> str:
    """Scores of each column, and of all columns together, against the best rival at it."""
    num_columns = len(runs[0][OURS[0]][0].log_score)
    lines = ""
    for column in [*range(num_columns), None]:
        cells = [name, "all" if column is None else str(column)]
        for part, sign in (("log_score", 1), ("ranked", -1)):
            values = {method: _one_column(pooled(part, method, runs), column) for method in runs[0]}
            means = {m: sign * value.mean() for m, value in values.items() if m not in OURS}
            best = max(means, key=lambda method: means[method])  # noqa: B023
            cells.append(best)
            cells += [with_error(values[method] - values[best]) for method in OURS[:2]]
        lines += f"| {' | '.join(cells)} |\n"
    return lines


def _one_column(scores: np.ndarray, column: int | None) -> np.ndarray:
    """Scores of one column, or averages over all of them, shape (n,)."""
    return scores.mean(0) if column is None else scores[column]
