"""The order of columns of an autoregressive density."""

import numpy as np

from numpyro_disco.training.rows.column_order import column_order


def test_a_function_of_others_comes_last():
    a, b = np.random.default_rng(0).normal(size=(2, 1500))
    c = np.sin(2 * a) + b**2
    rows = np.stack([c / c.std(), a, b], axis=1)
    assert column_order(rows)[-1] == 0
    # Broken twin: a column of its own comes before a function of it.
    rows[:, 0] = np.random.default_rng(1).normal(size=1500)
    rows[:, 2] = rows[:, 0] ** 2 / 2
    assert column_order(rows)[-1] == 2


def test_a_function_of_a_function_comes_after_it():
    """The inverse of a square has two branches, although both are determined equally."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 2000))
    c = np.sin(2 * a + b) + 0.05 * rng.normal(size=2000)
    d = (c - 0.3) ** 2
    rows = np.stack([d, a, c, b], axis=1)
    order = column_order((rows - rows.mean(0)) / rows.std(0))
    assert order[-1] == 0 and order[-2] == 2


def test_columns_in_focus_come_last():
    a, b = np.random.default_rng(0).normal(size=(2, 1500))
    c = np.sin(2 * a) + b**2
    rows = np.stack([c / c.std(), a, b], axis=1)
    order = column_order(rows, last=(1,))
    assert order[-1] == 1 and order[-2] == 0


def test_of_many_columns_linear_functions_come_last():
    rows = np.random.default_rng(0).normal(size=(500, 60))
    rows[:, 7] = rows[:, 3] + rows[:, 4] + 0.1 * rows[:, 7]
    order = column_order(rows / rows.std(axis=0))
    assert order[0] not in (3, 4, 7) and order[-1] == 7


def test_a_single_column_has_one_order():
    assert column_order(np.zeros((5, 1))) == (0,)
