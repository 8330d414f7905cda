"""Classifier two-sample tests: the accuracy with which a classifier separates two sets of draws."""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def neighbours():
    """A classifier by 50 nearest neighbours, which is fast and detects thin crescents."""
    return KNeighborsClassifier(50)


def network(dimension):
    """A network with two layers of 10 D units, as in the simulation-based inference benchmark.

    On the two moons it barely detects a radius that is off by half its spread; `neighbours` does.
    """
    width = 10 * dimension
    return MLPClassifier((width, width), early_stopping=True, max_iter=200, random_state=0)


def two_sample_accuracy(draws, reference, classifier=None):
    """Cross-validated accuracy of separating draws from reference draws; 0.5 if they agree.

    Both have shape (num_draws, D), with equally many rows so that guessing scores 0.5. The
    cross-validation has 5 folds.
    """
    draws, reference = np.asarray(draws, np.float64), np.asarray(reference, np.float64)
    if draws.shape != reference.shape:
        raise ValueError(f"Expected draws of one shape; got {draws.shape} and {reference.shape}.")
    x = np.concatenate([draws, reference])
    label = np.repeat([0, 1], len(draws))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), classifier or neighbours())
    return float((cross_val_predict(model, x, label, cv=folds) == label).mean())
