"""Whether a classifier can tell two sets of draws apart."""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def neighbours():
    """50 nearest neighbours: half a second for 2 x 10,000 draws, and it sees thin crescents."""
    return KNeighborsClassifier(50)


def network(dimension):
    """Two layers of 10 D units, after the simulation-based inference benchmark, stopped early.

    On the two moons it hardly notices a radius that is off by half its spread; neighbours do.
    """
    width = 10 * dimension
    return MLPClassifier((width, width), early_stopping=True, max_iter=200, random_state=0)


def two_sample_accuracy(draws, reference, classifier=None):
    """Accuracy, by 5-fold cross-validation, of telling draws from reference draws: 0.5 if equal.

    Both have shape (num_draws, D), with equally many rows so that guessing scores 0.5.
    """
    draws, reference = np.asarray(draws, np.float64), np.asarray(reference, np.float64)
    if draws.shape != reference.shape:
        raise ValueError(f"Expected draws of one shape; got {draws.shape} and {reference.shape}.")
    x = np.concatenate([draws, reference])
    label = np.repeat([0, 1], len(draws))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), classifier or neighbours())
    return float((cross_val_predict(model, x, label, cv=folds) == label).mean())
