"""Reports of fits that were trained on altered rows, judged by rows that were not altered.

The lines that look at draws have to tell a lost mode, cut tails and copied rows from a good fit.
"""

import dataclasses

import jax
import numpy as np
import pytest
from helpers.fits import TARGET, quick_fit
from helpers.statistics import Mixture

import numpyro_disco as disco
from numpyro_disco.training.report.draws import columns_line, compared, copies_line
from numpyro_disco.training.report.lines import masses_line

pytestmark = pytest.mark.training

NORMAL = Mixture([1.0], [[0.0, 0.0]], [np.eye(2)])
NUM_ROWS = 600
"""The same for all fits, so that they share their compiled programs."""


def lost_mode(rows):
    """The first mode, which has 15 % of the mass, is left out."""
    return rows[rows[:, 0] > -1]


def cut_tails(rows):
    """Rows farther than 1.2 from the centre in a column are left out."""
    return rows[(np.abs(rows) < 1.2).all(axis=1)]


def copied_rows(rows):
    """Each of 30 rows comes twenty times, up to a little noise."""
    copies = np.repeat(rows[:30], 20, axis=0)
    return copies + 1e-3 * np.random.default_rng(2).normal(size=copies.shape)


TWINS = {
    "good": (TARGET, lambda rows: rows, None),
    "lost mode": (TARGET, lost_mode, "masses"),
    "cut tails": (NORMAL, cut_tails, "columns"),
    "copied rows": (TARGET, copied_rows, "copies"),
}


@pytest.mark.parametrize("twin", TWINS)
def test_lines_of_draws(twin):
    target, alter, failing = TWINS[twin]
    fit = quick_fit(
        alter(target.draw(np.random.default_rng(0), 2000))[:NUM_ROWS],
        objective=disco.Contrastive(),
        reference=disco.MixtureFit(max_components=32),
        num_steps=50,
    )
    test = target.draw(np.random.default_rng(1), 1500)
    held_out = np.asarray(fit.evidence.standardize(test))
    evidence = dataclasses.replace(fit.evidence, held_out=held_out)
    draws = np.asarray(evidence.standardize(fit.distribution.sample(jax.random.key(1), (2000,))))
    sample = compared(np.random.default_rng(3), evidence, held_out, None, draws)
    lines = [masses_line(evidence, held_out, draws)]
    lines += [line(evidence, sample) for line in (columns_line, copies_line)]
    failed = {line.name for line in lines if line.verdict == "fail"}
    assert failing in failed if failing else not failed, lines
