"""Report lines on smoothing and the score: too much smoothing and isolated rows are detected."""

import dataclasses

import jax
import numpy as np
import pytest

import numpyro_disco as disco
from numpyro_disco.training.report.smoothing import (
    ScoreCheck,
    own_row_line,
    score_line,
    smoothing_line,
)

SMALL = {"network": disco.MLP(width=8, num_blocks=1), "batch_size": 32, "progress_bar": False}


@pytest.mark.training
def test_smoothing_wider_than_a_column_given_the_others_fails():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(500, 1))
    rows = np.concatenate([base, base + 0.05 * rng.normal(size=(500, 1))], axis=1)
    fit = disco.fit(
        jax.random.key(0),
        rows,
        objective=disco.Disco(noise_scale=0.2, whiten=False),
        num_steps=1,
        **SMALL,
    )
    line = smoothing_line(fit.evidence, fit.evidence.held_out)
    assert line.verdict == "fail" and "a smaller `noise_scale`" in line.reason


@pytest.mark.training
def test_smoothing_wider_than_the_modes_fails():
    """Decorrelated columns have unit variance however narrow their modes are."""
    rng = np.random.default_rng(0)
    rows = rng.choice([-1.0, 1.0], size=(2000, 1)) + 0.02 * rng.normal(size=(2000, 1))
    lines = {}
    for scale in (0.01, 0.2):
        fit = disco.fit(jax.random.key(0), rows, noise_scale=scale, num_steps=50, **SMALL)
        lines[scale] = smoothing_line(fit.evidence, fit.evidence.held_out)
    assert lines[0.2].verdict == "fail" and "less smoothing would add" in lines[0.2].reason
    assert lines[0.01].verdict == "pass" and "would not raise" in lines[0.01].reason
    small_scale = disco.Disco(noise_scale=0.01, undo_smoothing=True)
    undone = dataclasses.replace(
        fit.evidence,
        settings=dataclasses.replace(fit.settings, objective=small_scale),
        distribution=fit.distribution.replace(noise_scale=None),
    )
    line = smoothing_line(undone, fit.evidence.held_out)
    assert line.verdict == "warn" and "as far as the reference describes" in line.reason


@pytest.mark.parametrize(
    ("errors", "own", "verdicts"),
    [
        ([0.05, 0.1], 0.2, ("pass", "pass")),
        ([0.05, 0.3], 0.2, ("warn", "pass")),
        ([0.05, 0.6], 0.2, ("fail", "pass")),
        ([0.05, 0.6], 0.9, ("warn", "warn")),
    ],
)
def test_a_score_is_judged_unless_rows_are_isolated(errors, own, verdicts):
    check = ScoreCheck(np.array([0.1, 1.0]), np.array(errors), own)
    lines = score_line(check), own_row_line(check)
    assert tuple(line.verdict for line in lines) == verdicts
    assert [line.value for line in lines] == [max(errors), own]
