"""Rows that the tests of training share."""

import numpy as np
import pytest
from helpers.fits import TARGET


@pytest.fixture(scope="session")
def rows():
    return TARGET.draw(np.random.default_rng(0), 20_000)


@pytest.fixture(scope="session")
def few(rows):
    return rows[:600]
