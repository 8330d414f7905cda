"""The report of a fit: good fits look good, and each way of being bad is seen."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.statistics import Mixture

import numpyro_disco as disco
from numpyro_disco.energy.learned import LearnedEnergy, register_learned
from numpyro_disco.training.report import _score_lines, _smoothing, _tails, _verdict

pytestmark = pytest.mark.training

TARGET = Mixture(
    [0.3, 0.7], [[-2.0, 0.0], [1.5, 0.5]], [[[0.2, 0.1], [0.1, 0.2]], [[0.1, 0.0], [0.0, 0.3]]]
)


@pytest.fixture(scope="module")
def fit():
    rows = TARGET.draw(np.random.default_rng(0), 5000)
    return disco.fit(
        jax.random.key(0),
        {"length": 100 * rows[:, 0], "width": rows[:, 1]},
        reference="mixture",
        max_components=2,
        noise_scale=0.2,
        num_steps=300,
        width=32,
        num_blocks=1,
        batch_size=256,
        progress_bar=False,
    )


@pytest.fixture(scope="module")
def report(fit):
    return fit.report()


NAMES = ["network", "log density", "memory", "smoothing", "score", "own row", "masses", "tails"]


def test_a_good_fit_looks_good(fit, report):
    assert [line.name for line in report.lines] == NAMES
    verdicts = {line.name: line.verdict for line in report.lines}
    assert "bad" not in verdicts.values()
    assert {verdicts[name] for name in ("log density", "memory", "masses", "tails")} == {"good"}
    assert report.draws.shape[1] == 2 and np.isfinite(report.draws).all()


def test_lines_say_what_they_compare(fit, report):
    text = str(report)
    assert all(line.name in text and line.why in text for line in report.lines)
    assert "length" in report["smoothing"].why
    assert "total variation" in report["masses"].why
    assert len(report.noise_scales) == len(report.score_errors) == 5
    assert report.noise_scales[0] == pytest.approx(0.2)


def test_log_density_is_that_of_the_smoothed_rows(fit, report):
    """In standardised units, against the truth smoothed alike."""
    model = fit._model
    whitener = np.asarray(model.whitener, np.float64)
    standard = Mixture(
        TARGET.weights,
        (TARGET.means * [100, 1] - np.asarray(model.loc)) @ whitener.T,
        whitener @ (TARGET.covariances * np.outer([100, 1], [100, 1])) @ whitener.T,
    )
    truth = standard.smoothed(0.2).log_prob(fit._held_out).mean()
    assert report["log density"].value == pytest.approx(truth, abs=0.05)


def of_other_rows(fit, rows):
    """The same fit, judged by rows from elsewhere."""
    standardize = jax.vmap(fit._model.standardize)
    held_out = np.asarray(standardize(np.float32(rows * [100, 1])))
    return dataclasses.replace(fit, _held_out=held_out)


def test_wrong_masses_are_seen(fit):
    turned = Mixture([0.6, 0.4], TARGET.means, TARGET.covariances)
    report = of_other_rows(fit, turned.draw(np.random.default_rng(1), 1000)).report()
    assert report["masses"].verdict == "bad" and "a contrast" in report["masses"].why
    assert report["masses"].value == pytest.approx(0.3, abs=0.05)


def test_a_wrong_density_is_seen(fit):
    moved = TARGET.draw(np.random.default_rng(1), 1000) + [0.0, 2.5]
    report = of_other_rows(fit, moved).report()
    assert {report[name].verdict for name in ("log density", "memory", "masses")} == {"bad"}


@register_learned
@dataclasses.dataclass(frozen=True)
class Falling(LearnedEnergy):
    """An energy that is lower the farther out."""

    def standardized(self, z):
        return -(z @ z)


def test_an_energy_that_falls_outward_is_seen(fit):
    assert _tails(fit, fit._held_out).verdict == "good"
    broken = Falling(*(getattr(fit._model, f.name) for f in dataclasses.fields(fit._model)))
    prior = fit.distribution.replace(energy_fn=broken)
    line = _tails(dataclasses.replace(fit, _prior=prior, _model=broken), fit._held_out)
    assert line.verdict == "bad" and line.value == 1.0


@register_learned
@dataclasses.dataclass(frozen=True)
class Unknown(LearnedEnergy):
    """An energy that is no number on one side."""

    def parts(self, z):
        log_prob, correction = super().parts(z)
        return log_prob, jnp.where(z[0] > 0, jnp.nan, correction)


def test_where_no_draws_can_be_had_the_rest_is_said(fit):
    broken = Unknown(*(getattr(fit._model, f.name) for f in dataclasses.fields(fit._model)))
    prior = fit.distribution.replace(energy_fn=broken)
    wrong = dataclasses.replace(fit, _prior=prior, _model=broken)
    report = wrong.report()
    names = [name for name in NAMES if name not in ("log density", "memory", "masses")]
    assert [line.name for line in report.lines] == [names[0], "draws", *names[1:]]
    assert report["draws"].verdict == "bad" and "none can be had" in report["draws"].why
    assert wrong.plot_report(report) is not None


def test_too_much_smoothing_is_seen():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(500, 1))
    rows = np.concatenate([base, base + 0.05 * rng.normal(size=(500, 1))], axis=1)
    small = {"width": 8, "num_blocks": 1, "num_steps": 1, "batch_size": 32, "progress_bar": False}
    fit = disco.fit(jax.random.key(0), rows, noise_scale=0.2, whiten=False, **small)
    report = fit.report()
    assert report["smoothing"].verdict == "bad" and report["network"].verdict == "look"
    assert "a smaller `noise_scale`" in report["smoothing"].why


def test_smoothing_wider_than_the_modes_is_seen():
    """Decorrelated columns have unit variance however narrow their modes are."""
    rng = np.random.default_rng(0)
    rows = rng.choice([-1.0, 1.0], size=(2000, 1)) + 0.02 * rng.normal(size=(2000, 1))
    small = {"width": 8, "num_blocks": 1, "num_steps": 50, "batch_size": 32, "progress_bar": False}
    lines = {}
    for scale in (0.01, 0.2):
        fit = disco.fit(jax.random.key(0), rows, noise_scale=scale, **small)
        lines[scale] = _smoothing(fit, fit._held_out)
    assert lines[0.2].verdict == "bad" and "less of it says more" in lines[0.2].why
    assert lines[0.01].verdict == "good" and "says no more" in lines[0.01].why
    undone = dataclasses.replace(
        fit, settings=dataclasses.replace(fit.settings, noise_scale=0.01, undo_smoothing=True)
    )
    line = _smoothing(undone, fit._held_out)
    assert line.verdict == "look" and "what the reference knows" in line.why


@pytest.mark.parametrize(
    ("value", "error", "verdict"),
    [(0.05, 0.01, "good"), (0.5, 0.01, "look"), (3.0, 0.01, "bad"), (9.0, 5.0, "look")],
)
def test_what_chance_could_hide_is_not_good(value, error, verdict):
    assert _verdict(value, 0.1, 1.0, error) == verdict


def test_a_handful_of_held_out_rows_makes_nothing_good(fit):
    report = dataclasses.replace(fit, _held_out=fit._held_out[:5]).report()
    for name in ("network", "log density", "memory", "masses"):
        assert report[name].verdict != "good" and "too few held-out rows" in report[name].why


@pytest.mark.parametrize(
    ("errors", "own", "verdicts"),
    [
        ([0.05, 0.1], 0.2, ("good", "good")),
        ([0.05, 0.3], 0.2, ("look", "good")),
        ([0.05, 0.6], 0.2, ("bad", "good")),
        ([0.05, 0.6], 0.9, ("look", "look")),
    ],
)
def test_a_score_is_judged_where_rows_are_not_alone(errors, own, verdicts):
    lines = _score_lines(np.array(errors), own)
    assert tuple(line.verdict for line in lines) == verdicts
    assert [line.value for line in lines] == [max(errors), own]


def test_a_contrast_has_no_smoothing_to_report():
    rows = TARGET.draw(np.random.default_rng(0), 1000)
    small = {"width": 8, "num_blocks": 1, "num_steps": 50, "batch_size": 32, "progress_bar": False}
    fit = disco.fit(jax.random.key(0), rows, reference="mixture", objective="contrastive", **small)
    report = fit.report(jax.random.key(1))
    assert [line.name for line in report.lines] == [
        *NAMES[:3],
        "constant",
        *(name for name in NAMES[3:] if name not in ("score", "own row")),
    ]
    assert report["constant"].verdict == "good" and abs(report["constant"].value) < 0.1
    assert report["smoothing"].verdict == "good" and "none" in report["smoothing"].why
    assert report["log density"].verdict == "good" and len(report.noise_scales) == 0


def test_plot_report(fit, report, tmp_path):
    figure = fit.plot_report(report)
    figure.savefig(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 10_000
