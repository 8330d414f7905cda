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
    """Results of several mixtures as one."""
    arrays, evaluations, seconds = zip(*results, strict=True)
    return Result(np.concatenate(arrays), np.mean(evaluations), np.sum(seconds))


def table(results):
    """Lines of a table, from results by dimension and method."""
    lines = ["| D | method | mean W1 | worst | evaluations a draw | seconds |", "|" + 6 * "---|"]
    for dimension, by_method in results.items():
        for label, result in by_method.items():
            w1 = f"{result.distances.mean():.3f} | {result.distances.max():.3f}"
            count = "" if not result.evaluations > 0 else f"{result.evaluations:.0f}"
            seconds = "" if not result.seconds else f"{result.seconds:.1f}"
            lines.append(f"| {dimension} | {label} | {w1} | {count} | {seconds} |")
    return "\n".join(lines)


def picture(path, results, left_out):
    """Box plots of W1 for each dimension and method, but for those left out."""
    width = 4.5 * len(results) + 1
    figure, axes = plt.subplots(1, len(results), figsize=(width, 4), layout="constrained")
    for axis, (dimension, by_method) in zip(np.atleast_1d(axes), results.items(), strict=True):
        labels = [label for label in by_method if label not in left_out]
        shown = [by_method[label].distances for label in labels]
        axis.boxplot(shown, tick_labels=labels, orientation="horizontal", whis=(0, 100))
        axis.invert_yaxis()
        axis.set(title=f"D = {dimension}", xlabel="W1", xscale="log")
        axis.xaxis.set_major_locator(FixedLocator([0.003, 0.01, 0.03, 0.1, 0.3, 1, 3]))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
    for axis in np.atleast_1d(axes)[1:]:
        axis.set_yticklabels([])
    figure.savefig(path, dpi=90)
