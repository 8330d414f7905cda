"""What the methods of figure 4 did, as a table and as box plots."""

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from exact import wasserstein
from matplotlib.ticker import FixedLocator


class Result(NamedTuple):
    """What one method did at all test points of one mixture."""

    distances: np.ndarray
    """W1 at each test point, shape (num_tests,)."""
    evaluations: float
    """Mean number of network evaluations for each draw; NaN if it is not counted."""
    seconds: float
    """Seconds for all draws, without compilation."""


def distances(draws, others):
    """W1 at each test point."""
    return np.array([wasserstein(x, y) for x, y in zip(draws, others, strict=True)])


def pooled(results):
    """Distances of several mixtures as one array."""
    return np.concatenate([result.distances for result in results])


def table(results):
    """Lines of a table, from results of all mixtures by dimension and method."""
    names = ("D", "method", "mean W1", "of each mixture", "worst", "evaluations a draw", "seconds")
    lines = [f"| {' | '.join(names)} |", "|" + len(names) * "---|"]
    for dimension, by_method in results.items():
        for label, of_mixtures in by_method.items():
            means = [result.distances.mean() for result in of_mixtures]
            count = np.mean([result.evaluations for result in of_mixtures])
            seconds = np.sum([result.seconds for result in of_mixtures])
            cells = [f"{dimension}", label, f"{np.mean(means):.3f}"]
            cells += [" ".join(f"{mean:.3f}" for mean in means), f"{pooled(of_mixtures).max():.3f}"]
            cells += [f"{count:.0f}" if count > 0 else "", f"{seconds:.1f}" if seconds else ""]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(path, results, left_out):
    """Box plots of W1 for each dimension and method, but for those left out."""
    width = 4.5 * len(results) + 1
    figure, axes = plt.subplots(1, len(results), figsize=(width, 4), layout="constrained")
    for axis, (dimension, by_method) in zip(np.atleast_1d(axes), results.items(), strict=True):
        labels = [label for label in by_method if label not in left_out]
        shown = [pooled(by_method[label]) for label in labels]
        axis.boxplot(shown, tick_labels=labels, orientation="horizontal", whis=(0, 100))
        axis.invert_yaxis()
        axis.set(title=f"D = {dimension}", xlabel="W1", xscale="log", xlim=(0.002, 6))
        axis.xaxis.set_major_locator(FixedLocator([0.003, 0.01, 0.03, 0.1, 0.3, 1, 3]))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
    for axis in np.atleast_1d(axes)[1:]:
        axis.set_yticklabels([])
    figure.savefig(path, dpi=90)
