"""Lines on the reference and the length of training, from numbers made by hand."""

import re
import types
import warnings

import numpy as np
import pytest

import numpyro_disco as disco
from numpyro_disco.training.loop import History
from numpyro_disco.training.report.training import (
    components_line,
    reference_line,
    training_line,
    warn_of_distant_reference,
)

NONE = np.zeros(2, bool)


def evidence(
    losses=(1.0, 0.0), steps=None, best_step=None, interrupted=False, missing=None, **fields
):
    losses = np.asarray(losses, float)
    steps = 100 * np.arange(len(losses)) if steps is None else steps
    return types.SimpleNamespace(
        history=History(steps, losses, losses, np.zeros(len(losses))),
        best_step=int(steps[losses.argmin()]) if best_step is None else best_step,
        settings=types.SimpleNamespace(
            total_steps=800, reference=disco.MixtureFit(max_components=8), missing=missing
        ),
        interrupted=interrupted,
        **fields,
    )


@pytest.mark.parametrize(
    ("losses", "verdict", "words"),
    [
        (np.exp(-np.arange(9.0)), "pass", "took all of its 800 steps"),
        (-np.arange(9.0), "warn", r"gave 25 % .*num_steps=1600"),
        ([2, 1, 0.5, 0.6, 0.7], "pass", "ended by itself after 400 of 800 steps"),
        (np.ones(9), "pass", "gave 0 %"),
    ],
)
def test_training_may_end_too_soon(losses, verdict, words):
    line = training_line(evidence(losses))
    assert line.verdict == verdict
    assert re.search(words, line.reason), line.reason


def test_an_interruption_is_named():
    line = training_line(evidence([2, 1, 0.5], interrupted=True))
    assert line.verdict == "warn" and "interrupted after 200 of 800" in line.reason


def test_fits_that_learn_several_times_are_not_resumed():
    line = training_line(evidence(-np.arange(9.0), missing=disco.Refit()))
    assert "fit again with `num_steps=1600`" in line.reason and "resume" not in line.reason
    cut = training_line(evidence([2, 1, 0.5], missing=disco.Refit(), interrupted=True))
    assert "fit again" in cut.reason and "resume" not in cut.reason


def mixture(num_components):
    """The reference that is fitted with so many components, and a wide one."""
    count = num_components + 1
    return disco.MixtureReference(np.ones(count), np.zeros((count, 1)), np.ones((count, 1, 1)))


@pytest.mark.parametrize(
    ("tried", "chosen", "verdict", "words"),
    [
        ({1: 0.0, 2: 0.1, 4: 0.2, 8: 0.34}, 8, "warn", "8 components, the limit.*0.14 nats"),
        ({1: 0.0, 2: 0.1, 4: 0.2, 8: 0.21}, 8, "pass", "the limit"),
        ({1: 0.0, 2: 0.1, 4: 0.1}, 2, "pass", "beyond which held-out rows gain nothing"),
        ({1: 0.0, 2: 0.1, 4: 0.2}, 4, "pass", "as many as the number of rows allows"),
        ({1: 0.0}, 1, "pass", "1 component"),
    ],
)
def test_components_may_run_into_their_limit(tried, chosen, verdict, words):
    found = evidence(components=tried, energy=types.SimpleNamespace(reference=mixture(chosen)))
    line = components_line(found)
    assert line.verdict == verdict and line.value == chosen
    assert re.search(words, line.reason), line.reason
    assert ("max_components=16" in line.reason) == (verdict == "warn")


@pytest.mark.parametrize(
    ("share", "contrastive", "verdict", "words"),
    [
        (0.5, True, "pass", "weighted draws of the reference"),
        (0.005, True, "warn", "0.5 % .*leave out columns that others determine"),
        (0.005, False, "pass", "tempered, which is slower and as exact"),
    ],
)
def test_the_share_of_the_reference(share, contrastive, verdict, words):
    objective = disco.Contrastive() if contrastive else disco.Disco()
    line = reference_line(evidence(objective=objective), share)
    assert line.verdict == verdict and line.value == share
    assert re.search(words, line.reason), line.reason


@pytest.mark.parametrize(
    ("loss", "objective", "warns"),
    [
        (0.4, disco.Contrastive(), True),
        (1.3, disco.Contrastive(), False),
        (0.4, disco.Contrastive(num_redraws=2), False),
        (0.4, disco.Likelihood(), False),
    ],
)
def test_a_distant_reference_is_named(loss, objective, warns):
    found = evidence(
        [1.386, loss], objective=objective, coordinate_supports=types.SimpleNamespace(discrete=NONE)
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_distant_reference(found)
    assert bool(caught) == warns
    assert all("held-out loss 0.40, where 1.39" in str(one.message) for one in caught)
    assert all("objective=disco.Likelihood()" in str(one.message) for one in caught)
