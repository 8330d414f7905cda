"""The training loop: interruption, resuming, progress, and losses that diverge."""

import dataclasses
import signal
import threading
from functools import partial

import jax
import numpy as np
import pytest
from helpers.fits import quick_fit, weights_of

import numpyro_disco as disco
from numpyro_disco.training.loop import Carry, Run, append_round, is_exhausted, make_plan
from numpyro_disco.training.settings import requested_settings


class TestInterruption:
    @pytest.fixture(autouse=True)
    def install_handler(self):
        """Install the handler that Python lacks if started in a shell's background."""
        former = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, former)

    def interrupt_after(self, monkeypatch, rounds):
        """Send the signal of ctrl-C in the middle of a later round; return an undo function."""
        from numpyro_disco.training import loop as training

        original, calls = training.append_round, 0

        def counted(*args):
            nonlocal calls
            calls += 1
            if calls > rounds:
                signal.raise_signal(signal.SIGINT)
            return original(*args)

        monkeypatch.setattr(training, "append_round", counted)
        return lambda: monkeypatch.setattr(training, "append_round", original)

    def test_returns_the_best_so_far_and_resumes_to_the_same_end(self, few, monkeypatch):
        assert threading.current_thread() is threading.main_thread()
        whole = quick_fit(few)
        restore = self.interrupt_after(monkeypatch, 1)
        with pytest.warns(UserWarning, match="Interrupted after 50 of 150"):
            part = quick_fit(few)
        restore()
        assert part.interrupted and part.history.step.tolist() == [0, 50]
        assert np.isfinite(part.distribution.log_prob(few[:5])).all()
        rest = disco.fit(jax.random.key(0), few, resume=part, progress_bar=False)
        assert not rest.interrupted
        np.testing.assert_array_equal(rest.history.held_out_loss, whole.history.held_out_loss)
        assert rest.best_step == whole.best_step
        for a, b in zip(weights_of(rest), weights_of(whole), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_resume_trains_for_longer(self, few):
        fit = quick_fit(few)
        more = disco.fit(jax.random.key(0), few, resume=fit, num_steps=250, progress_bar=False)
        assert more.history.step.tolist() == [0, 50, 100, 150, 200, 250]

    def test_a_contrastive_fit_that_ran_out_of_patience_resumes_with_more(self, few):
        fit = quick_fit(
            few,
            objective="contrastive",
            reference=disco.MixtureFit(max_components=4),
            num_steps=3000,
            patience=50,
        )
        stopped = int(fit.history.step[-1])
        assert stopped == fit.best_step + 50 < 3000
        again = {"resume": fit, "progress_bar": False}
        resumed = partial(disco.fit, jax.random.key(0), few, **again)
        with pytest.warns(UserWarning, match="Nothing was trained.*`patience`"):
            same = resumed(num_steps=6000)
        assert same.history.step[-1] == stopped
        more = resumed(num_steps=stopped + 100, patience=1000)
        assert more.history.step[-1] == stopped + 100

    def test_resume_with_other_settings_or_rows_is_refused(self, few):
        fit = quick_fit(few)
        with pytest.raises(ValueError, match="`resume`.*differ"):
            disco.fit(jax.random.key(0), few, resume=fit, network=disco.MLP(width=8))
        with pytest.raises(ValueError, match="`resume`.*differ"):
            disco.fit(jax.random.key(0), few[:500], resume=fit)
        with pytest.raises(ValueError, match="`resume`.*differ"):
            disco.fit(jax.random.key(1), few, resume=fit)
        with pytest.raises(ValueError, match="`resume`.*differ"):
            other = disco.GaussianReference(np.zeros(2), 9 * np.eye(2))
            disco.fit(jax.random.key(0), few, resume=fit, reference=other)


class TestRise:
    """A held-out loss that rises by more than chance shortens patience."""

    PLAN = make_plan(
        dataclasses.replace(
            requested_settings(
                None, objective=None, noise_scale=None, reference=None, network=None, optimizer=None
            ),
            batch_size=8,
        )
    )

    def run_of(self, losses, step):
        """A run with its lowest losses at step 100, and other losses at a later step."""
        carry = Carry(None, None, None, np.asarray(100))
        lowest = np.random.default_rng(0).normal(size=100)
        run = Run(carry, None, 100, lowest, lowest, 0.0, ((100, 1.0, float(lowest.mean()), 0.1),))
        later = carry._replace(step=np.asarray(step))
        return append_round(run, later, 1.0, lowest + losses, strict=True)

    @pytest.mark.parametrize(
        ("waited", "rise", "expected"),
        [
            (100, 10.0, False),
            (125, 10.0, True),
            (450, 1.0, False),
            (500, 1.0, True),
        ],
    )
    def test_ends_training_after_a_part_of_patience(self, waited, rise, expected):
        noise = np.tile([1.0, -1.0], 50)
        error = np.std(noise, ddof=1) / 10
        run = self.run_of(rise * error + noise, 100 + waited)
        assert run.rise == pytest.approx(rise) and run.best_step == 100
        assert is_exhausted(run, self.PLAN, 500) == expected


def test_weights_that_are_worse_than_the_first_are_not_kept():
    """Objectives that are not strict keep weights within an error of the lowest loss, if better."""
    start, carry = np.zeros(100), Carry(None, None, "later", np.asarray(50))
    run = Run(carry, "first", 0, start, start, 0.0, ((0, np.nan, 0.0, 0.0),))
    noise = np.tile([1.0, -1.0], 50)
    for change, kept in ((0.01, 0), (-0.01, 50)):
        assert append_round(run, carry, 1.0, change + noise, strict=False).best_step == kept


class TestProgress:
    def test_bar_is_shown_and_can_be_turned_off(self, few, capsys, monkeypatch):
        monkeypatch.delenv("CI", raising=False)
        quick_fit(few)
        assert capsys.readouterr().err == ""
        quick_fit(few, progress_bar=True)
        assert "150/150" in capsys.readouterr().err


def test_a_diverging_loss_names_the_learning_rate(few):
    with pytest.raises(FloatingPointError, match="learning_rate"):
        quick_fit(few, optimizer=disco.AdamW(learning_rate=1e30))
