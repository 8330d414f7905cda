"""Two halves of data one after the other against all at once, where the answers are exact."""

import jax
import numpy as np
import pytest
from helpers.processes import results_of
from helpers.statistics import assert_within
from helpers.updates import UPDATES, as_dataset, run_second_half

import numpyro_disco as disco

pytestmark = [pytest.mark.slow, pytest.mark.training]
KEY = jax.random.key(0)
SETTINGS = {"network": disco.MLP(width=32, num_blocks=1), "num_steps": 300, "progress_bar": False}
RUN = {"num_particles": 1024, "num_chains": 8}
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import jax, numpy as np, numpyro_disco as disco
from helpers.updates import UPDATES, run_second_half
prior = disco.load(sys.argv[2])
update, settings = UPDATES[sys.argv[3]](4000), {"num_particles": 1024, "num_chains": 8}
found = run_second_half(jax.random.key(1), update, prior, **settings)
print("RESULT", *np.concatenate([np.ravel(part) for part in found]))
"""


def learned(name):
    update = UPDATES[name](4000)
    data = as_dataset(update.draws)
    fit = disco.fit(KEY, data, supports=update.supports, **SETTINGS)
    return update, fit.distribution.normalize(KEY)


def check(mean, deviation, mean_error, evidence, evidence_error):
    """Moments within Monte Carlo error plus 3 % of a deviation, the evidence within 0.05."""
    shift = np.clip(mean, -0.03, 0.03)
    assert_within(mean - shift, 0, mean_error + 1e-3, resolution=0.1, label="mean")
    assert (np.abs(deviation) < 0.06).all(), deviation
    assert abs(evidence) < 0.05 + 2 * evidence_error and evidence_error < 0.03, evidence


@pytest.mark.parametrize("name", UPDATES)
def test_two_halves_give_what_all_data_give(name, tmp_path):
    update, prior = learned(name)
    found = run_second_half(jax.random.key(1), update, prior, **RUN)
    check(*found)
    # A prior that counts the draws of one half as less certain than they are.
    with pytest.raises(AssertionError):
        check(*run_second_half(jax.random.key(1), update, prior.temper(0.5).normalize(KEY), **RUN))
    # The same in another process, from a file.
    disco.save(tmp_path / "prior.npz", prior)
    tests = str(__file__).split("integration")[0]
    arguments = [tests, str(tmp_path / "prior.npz"), name]
    (line,) = results_of(SCRIPT, lambda process: arguments, [{}])
    again = np.array(line.split(), float)
    np.testing.assert_allclose(again, np.concatenate([*map(np.ravel, found)]), atol=0.02)
