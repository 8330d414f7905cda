"""Fits of tables with discrete columns: conditional masses, refusals, files and missing levels."""

import jax
import numpy as np
import pandas as pd
import pytest
from numpyro.distributions import constraints
from scipy.special import expit

import numpyro_disco as disco
from numpyro_disco.training.rows import windows

NAMES = ("kind", "x", "flag")
SUPPORTS = {"kind": constraints.integer_interval(1, 3), "flag": constraints.boolean}
SMALL = dict(
    network=disco.MLP(width=32, num_blocks=1),
    batch_size=256,
    reference=disco.MixtureFit(max_components=16),
    progress_bar=False,
)
KEY = jax.random.key(0)


def chance(kind, x):
    """Probability of the flag given the other two: an interaction."""
    return expit(np.where(kind == 2, -3.0, 3.0) * np.sin(2 * x))


def table(num=3000, seed=0):
    rng = np.random.default_rng(seed)
    kind = rng.choice([1.0, 2.0, 3.0], num, p=[0.5, 0.3, 0.2])
    x = rng.normal(size=num) + 0.5 * kind
    flag = (rng.random(num) < chance(kind, x)).astype(float)
    return np.stack([kind, x, flag], axis=1)


def learn(data, num_steps=400, **settings):
    return disco.fit(
        KEY, data, names=NAMES, supports=SUPPORTS, num_steps=num_steps, **(SMALL | settings)
    )


@pytest.fixture(scope="module")
def fitted():
    return learn(table())


def chance_of(prior, rows):
    """Probability of the flag given the other two, under a prior."""
    at = [np.column_stack([rows[:, :2], np.full(len(rows), level)]) for level in (0.0, 1.0)]
    none, some = (np.asarray(prior.log_prob(points), np.float64) for points in at)
    return expit(some - none)


@pytest.mark.training
def test_conditional_masses_are_those_of_the_truth(fitted):
    rows = table(2000, seed=1)
    truth = chance(rows[:, 0], rows[:, 1])
    found = chance_of(fitted.distribution, rows)
    assert np.abs(found - truth).mean() < 0.04
    # The share of flags that is expected, within the error of the rows that were learned from.
    error = np.sqrt((truth * (1 - truth)).mean() / 3000)
    assert abs((found - truth).mean()) < 5 * error < 0.04
    # The broken twin: the sign of x changed.
    assert (
        np.abs(chance_of(fitted.distribution, rows[:, [0, 1, 2]] * [1, -1, 1]) - truth).mean() > 0.2
    )


@pytest.mark.training
def test_draws_have_the_levels_of_the_table(fitted):
    draws = np.asarray(fitted.distribution.sample(KEY, (4000,)))
    assert set(draws[:, 0]) == {1.0, 2.0, 3.0} and set(draws[:, 2]) == {0.0, 1.0}
    shares = (draws[:, [0]] == [1.0, 2.0, 3.0]).mean(0)
    assert np.abs(shares - [0.5, 0.3, 0.2]).max() < 0.05
    between = np.array([[1.5, 0.0, 1.0]])
    with pytest.warns(UserWarning, match="Out-of-support"):
        assert np.isneginf(fitted.distribution.log_prob(between)).all()


@pytest.mark.training
def test_the_report_compares_levels(fitted):
    report = fitted.report()
    assert report["levels"].verdict == "pass"
    assert report["masses"].verdict == "pass" and report["tails"].verdict == "pass"
    assert fitted.plot_report(report).axes


@pytest.mark.training
def test_a_saved_prior_is_the_same(fitted, tmp_path):
    rows = table(10, seed=2)
    disco.save(tmp_path / "prior.npz", fitted.distribution)
    loaded = disco.load(tmp_path / "prior.npz")
    assert loaded.coordinate_supports == fitted.distribution.coordinate_supports
    np.testing.assert_array_equal(loaded.log_prob(rows), fitted.distribution.log_prob(rows))


@pytest.mark.parametrize("objective", [disco.Disco(noise_scale=0.1), "denoising", "joint"])
def test_objectives_that_match_scores_refuse_levels_by_name(objective):
    with pytest.raises(ValueError, match=r"\['kind', 'flag'\].*Contrastive.*constraints.real"):
        learn(table(50), objective=objective)


def test_references_without_levels_are_refused():
    given = disco.GaussianReference(np.zeros(3), np.eye(3))
    for reference in ("gaussian", given):
        with pytest.raises(ValueError, match="disco.MixedReference.*`reference`.*'kind'"):
            learn(table(50), reference=reference, objective="contrastive")


def test_values_that_are_no_level_are_refused():
    rows = table(50)
    rows[3, 0] = 1.5
    with pytest.raises(ValueError, match="'kind' in `data` to be in its support.*1.5"):
        learn(rows)


@pytest.mark.training
def test_missing_levels_are_imputed_as_levels_and_redraws_run():
    rows = table(400)
    rng = np.random.default_rng(0)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    fit = learn(
        pd.DataFrame(rows, columns=list(NAMES)),
        num_steps=50,
        missing=disco.Refit(),
        objective=disco.Contrastive(num_redraws=2),
    )
    learned = np.asarray(fit.evidence.unstandardize(fit.evidence.rows))
    assert len(learned) + len(fit.evidence.held_out) == 400
    assert set(learned[:, 0]) == {1.0, 2.0, 3.0} and set(learned[:, 2]) == {0.0, 1.0}


def fit_of_discrete_columns():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2, 400)
    rows = np.stack([first, (first + (rng.random(400) < 0.2)) % 2], axis=1).astype(float)
    supports = {name: constraints.boolean for name in "ab"}
    return disco.fit(KEY, rows, names=("a", "b"), supports=supports, num_steps=50, **SMALL)


@pytest.mark.training
def test_every_column_may_be_discrete():
    fit = fit_of_discrete_columns()
    log_p = np.asarray(fit.distribution.log_prob(np.array([[0.0, 0.0], [0.0, 1.0]])))
    assert expit(log_p[1] - log_p[0]) == pytest.approx(0.2, abs=0.1)


@pytest.mark.slow
def test_the_report_of_discrete_columns():
    assert str(fit_of_discrete_columns().report())


@pytest.mark.training
def test_rows_on_disk_and_checkpoints_keep_levels(tmp_path, monkeypatch):
    """One column has too many whole numbers for masses, and is named."""
    monkeypatch.setattr(windows, "SAMPLE_ROWS", 300)
    rows = table(600)
    rows[:, 0] = np.random.default_rng(0).integers(0, 100, 600)
    np.save(tmp_path / "rows.npy", rows)
    settings = dict(num_steps=50, checkpoint=tmp_path / "checkpoint", names=NAMES)
    settings |= {"supports": SUPPORTS | {"kind": constraints.integer_interval(0, 99)}}
    with pytest.warns(UserWarning, match=r"\['kind'\] in `data` have more than 64 levels"):
        once, again = (
            disco.fit(KEY, np.load(tmp_path / "rows.npy", mmap_mode="r"), **settings, **SMALL)
            for _ in range(2)
        )
    assert once.distribution.coordinate_supports.num_levels == (0, 0, 2)
    found = [np.asarray(fit.distribution.log_prob(rows[:5])) for fit in (once, again)]
    np.testing.assert_array_equal(*found)
