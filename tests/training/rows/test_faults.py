"""Columns and rows that cannot be learned as they are."""

import numpy as np
import pytest
import xarray

from numpyro_disco.tables.draws import read_draws
from numpyro_disco.training.rows.table import read_table


def stuck_chains():
    """Draws of four chains, of which the last has moved once."""
    draws = np.random.default_rng(0).normal(size=(4, 100, 2))
    draws[3] = np.where(np.arange(100)[:, None] < 60, draws[3, 0], draws[3, 1])
    return draws


@pytest.mark.parametrize("form", ["mapping", "columns", "dataset"])
def test_draws_of_a_chain_that_does_not_move(form):
    draws = stuck_chains()
    data = {"a": draws[..., 0].ravel(), "b": draws[..., 1].ravel()}
    if form == "mapping":
        data = {"b": draws.reshape(-1, 2)}
    if form == "dataset":
        data = xarray.Dataset({"b": (("chain", "draw", "i"), draws)})
    found = read_draws(data, None, None)
    data = data if found is None else found.columns
    with pytest.raises(ValueError, match="15% of them are one and the same.*does not move.*R-hat"):
        read_table(data, None, None)
    # The other chains are fine.
    moving = {name: np.asarray(column)[:300] for name, column in data.items()}
    assert read_table(moving, None, None).values.shape == (300, 2)


def test_a_value_that_many_rows_share_is_that_of_its_column():
    rng = np.random.default_rng(0)
    rain = {"a": rng.normal(size=200), "rain": np.where(rng.random(200) < 0.4, 0, rng.random(200))}
    with pytest.raises(ValueError, match="'rain' has the value 0 in .*model .'rain'. outside"):
        read_table(rain, None, None)
    with pytest.raises(ValueError, match="'rain' has the value 0 in"):
        read_table({"rain": rain["rain"], "kind": rng.choice(list("xy"), 200)}, None, None)


def test_faults_of_several_kinds_are_named_together():
    data = {"a": np.arange(20.0), "one": np.ones(20), "none": np.full(20, np.nan)}
    with pytest.raises(ValueError, match=r"'one' is constant; 'none' has no entry\..*\['one', 'n"):
        read_table(data, None, None)
    with pytest.raises(ValueError, match=r"\['none'\] have none"):
        read_table({"a": data["a"], "none": data["none"]}, None, None)
