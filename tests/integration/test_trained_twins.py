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
from numpyro_disco.training.report_draws import columns_line, compared, copies_line, draws_line
from numpyro_disco.training.report_lines import masses_line

pytestmark = pytest.mark.training

EYE = np.eye(2)
ROWS = TARGET.draw(np.random.default_rng(0), 1200)
TEST = TARGET.draw(np.random.default_rng(1), 1500)
WIDE = Mixture([1.0], [[0, 0]], [EYE])


def lost_mode(rows):
    """The first mode, which has 15 % of the mass, is left out."""
    return rows[rows[:, 0] > -1]


def cut_tails(rows):
    """Rows of which a column is far from its centre are left out."""
    away = np.abs(rows - rows.mean(0)) / rows.std(0)
    return rows[(away < 1.4).all(axis=1)]


def copied_rows(rows):
    """Each of 40 rows comes thirty times, up to a little noise."""
    return np.repeat(rows[:40], 30, axis=0) + 1e-3 * np.random.default_rng(2).normal(size=(1200, 2))


TWINS = {
    "good": (lambda rows: rows, set()),
    "lost mode": (lost_mode, {"masses", "draws", "columns"}),
    "cut tails": (cut_tails, {"masses", "draws"}),
    "copied rows": (copied_rows, {"draws", "copies"}),
}


@pytest.mark.parametrize("twin", TWINS)
def test_lines_of_draws(twin):
    alter, failing = TWINS[twin]
    fit = quick_fit(
        alter(ROWS),
        objective=disco.Contrastive(),
        reference=disco.MixtureFit(max_components=32),
        num_steps=50,
    )
    evidence = dataclasses.replace(
        fit.evidence, held_out=np.asarray(fit.evidence.standardize(TEST))
    )
    draws = np.asarray(evidence.standardize(fit.distribution.sample(jax.random.key(1), (2000,))))
    held_out = evidence.held_out
    sample = compared(np.random.default_rng(3), evidence, held_out, None, draws)
    lines = [masses_line(evidence, held_out, draws)]
    lines += [line(evidence, sample) for line in (draws_line, columns_line, copies_line)]
    found = {line.name for line in lines if line.verdict != "pass"}
    assert failing <= found if failing else not found, lines
