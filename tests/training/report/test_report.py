"""The report of a fit: good fits pass, and each kind of failure is detected."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.statistics import Mixture

import numpyro_disco as disco
from numpyro_disco.energy.learned import LearnedEnergy
from numpyro_disco.training.report.lines import tails_line
from numpyro_disco.training.report.report import make_report

pytestmark = pytest.mark.training

TARGET = Mixture(
    [0.3, 0.7], [[-2.0, 0.0], [1.5, 0.5]], [[[0.2, 0.1], [0.1, 0.2]], [[0.1, 0.0], [0.0, 0.3]]]
)
NAMES = [
    "network",
    "training",
    "components",
    "reference",
    "log density",
    "memorisation",
    "smoothing",
    "score",
    "own row",
    "masses",
    "draws",
    "columns",
    "copies",
    "tails",
]
NEED_DRAWS = (
    "reference",
    "log density",
    "memorisation",
    "masses",
    "draws",
    "columns",
    "copies",
)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def fit():
    rows = TARGET.draw(np.random.default_rng(0), 5000)
    return disco.fit(
        jax.random.key(0),
        {"length": 100 * rows[:, 0], "width": rows[:, 1]},
        reference=disco.MixtureFit(max_components=2),
        noise_scale=0.2,
        network=disco.MLP(width=32, num_blocks=1),
        num_steps=300,
        batch_size=256,
        progress_bar=False,
    )


@pytest.fixture(scope="module")
def report(fit):
    return fit.report()


def test_a_good_fit_passes(report):
    assert [line.name for line in report.lines] == NAMES
    verdicts = {line.name: line.verdict for line in report.lines}
    assert "fail" not in verdicts.values()
    passing = ("reference", "log density", "memorisation", *NEED_DRAWS[3:6], "tails")
    assert {name: verdicts[name] for name in passing} == dict.fromkeys(passing, "pass")
    assert report.draws.shape[1] == 2 and np.isfinite(report.draws).all()


def test_lines_name_what_they_compare(report):
    text = str(report)
    assert all(line.name in text and line.reason in text for line in report.lines)
    assert "length" in report["smoothing"].reason
    assert "total variation" in report["masses"].reason
    assert len(report.noise_scales) == len(report.score_errors) == 5
    assert report.noise_scales[0] == pytest.approx(0.2)


def test_unknown_lines_raise(report):
    with pytest.raises(KeyError, match="'masses'.*got 'memory'"):
        report["memory"]


def test_log_density_agrees_with_the_smoothed_truth(fit, report):
    """The exact value is that of the smoothed truth, in standardised units."""
    model = fit.evidence.model
    whitener = np.asarray(model.whitener, np.float64)
    standard = Mixture(
        TARGET.weights,
        (TARGET.means * [100, 1] - np.asarray(model.loc)) @ whitener.T,
        whitener @ (TARGET.covariances * np.outer([100, 1], [100, 1])) @ whitener.T,
    )
    truth = standard.smoothed(0.2).log_prob(fit.evidence.held_out).mean()
    assert report["log density"].value == pytest.approx(truth, abs=0.05)


def report_on(fit, rows):
    """The report of a fit with these held-out rows instead of its own."""
    held_out = np.asarray(fit.evidence.standardize(np.float32(rows * [100, 1])))
    return make_report(KEY, dataclasses.replace(fit.evidence, held_out=held_out))


def test_wrong_masses_fail(fit):
    turned = Mixture([0.6, 0.4], TARGET.means, TARGET.covariances)
    line = report_on(fit, turned.draw(np.random.default_rng(1), 1000))["masses"]
    assert line.verdict == "fail" and "contrastive objective" in line.reason
    assert line.value == pytest.approx(0.3, abs=0.05)


def test_a_wrong_density_fails(fit):
    report = report_on(fit, TARGET.draw(np.random.default_rng(1), 1000) + [0.0, 2.5])
    names = ("log density", "memorisation", "masses", "draws", "columns")
    assert {report[name].verdict for name in names} == {"fail"}


def with_energy(evidence, kind):
    """The evidence of a fit whose energy is of another class, with the same weights."""
    fields = dataclasses.fields(evidence.model)
    broken = kind(*(getattr(evidence.model, field.name) for field in fields))
    prior = evidence.distribution.replace(energy_fn=broken)
    return dataclasses.replace(evidence, distribution=prior, model=broken)


pytree = partial(
    jax.tree_util.register_dataclass,
    data_fields=["weights", "reference", "loc", "whitener", "log_det", "smoothed"],
    meta_fields=["graph"],
)


@pytree
@dataclasses.dataclass(frozen=True)
class Falling(LearnedEnergy):
    """An energy that decreases outward."""

    def standardized(self, z):
        return -(z @ z)


def test_an_energy_that_decreases_outward_fails(fit):
    evidence = fit.evidence
    assert tails_line(evidence, evidence.held_out).verdict == "pass"
    line = tails_line(with_energy(evidence, Falling), evidence.held_out)
    assert line.verdict == "fail" and line.value == 1.0


@pytree
@dataclasses.dataclass(frozen=True)
class Unknown(LearnedEnergy):
    """An energy that is NaN on one side."""

    def parts(self, z):
        log_prob, correction = super().parts(z)
        return log_prob, jnp.where(z[0] > 0, jnp.nan, correction)


def test_without_draws_the_other_lines_remain(fit):
    report = make_report(KEY, with_energy(fit.evidence, Unknown))
    names = [name for name in NAMES if name not in NEED_DRAWS]
    assert [line.name for line in report.lines] == [*names[:3], "draws", *names[3:]]
    assert report["draws"].verdict == "fail" and "cannot be sampled" in report["draws"].reason
    assert len(report.draws) == 0 and fit.plot_report(report) is not None


def test_a_handful_of_held_out_rows_does_not_pass(fit):
    evidence = dataclasses.replace(fit.evidence, held_out=fit.evidence.held_out[:5])
    report = make_report(KEY, evidence)
    for name in ("network", "log density", "memorisation", "masses", "draws", "copies"):
        assert report[name].verdict != "pass"
        assert "too few held-out rows" in report[name].reason


def test_a_contrastive_objective_has_a_constant_and_no_smoothing():
    rows = TARGET.draw(np.random.default_rng(0), 1000)
    fit = disco.fit(
        jax.random.key(0),
        rows,
        network=disco.MLP(width=8, num_blocks=1),
        num_steps=50,
        batch_size=32,
        progress_bar=False,
    )
    report = fit.report(jax.random.key(1))
    assert [line.name for line in report.lines] == [
        *NAMES[:6],
        "constant",
        *(name for name in NAMES[6:] if name not in ("score", "own row")),
    ]
    assert report["constant"].verdict == "pass" and abs(report["constant"].value) < 0.1
    assert report["smoothing"].verdict == "pass" and "none" in report["smoothing"].reason
    assert report["log density"].verdict == "pass" and len(report.noise_scales) == 0


def test_plot_report(fit, report, tmp_path):
    figure = fit.plot_report(report)
    figure.savefig(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 10_000
