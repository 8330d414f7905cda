"""Single lines of a report, from numbers made by hand."""

import types

import numpy as np
import pytest
from numpyro.distributions import constraints
from scipy.stats import norm

import numpyro_disco as disco
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.training.loop import History
from numpyro_disco.training.report.lines import (
    LogDensities,
    constant_line,
    levels_line,
    log_density_line,
    make_line,
    masses_line,
    memorisation_line,
    network_line,
    no_draws_line,
    weights_line,
)

RNG = np.random.default_rng(0)
ROWS, HELD_OUT, DRAWS = (RNG.normal(size=(num, 2)) for num in (2000, 500, 2000))


def standard_normal(z):
    return -0.5 * (z**2).sum(1) - np.log(2 * np.pi)


def densities(shift=0.0, gap=0.0, log_z=0.0, error=0.01):
    """Log densities of a shifted standard normal, with a gap to those of training rows."""
    held_out = standard_normal(HELD_OUT) + shift
    rows = standard_normal(ROWS)
    return LogDensities(rows - rows.mean() + held_out.mean() + gap, held_out, log_z, error)


def test_only_lines_that_pass_leave_out_the_remedy():
    assert make_line("masses", 0.1, "pass", "found", "do this").reason == "found"
    assert make_line("masses", 0.1, "warn", "found", "do this").reason == "found; do this"
    few = make_line("masses", 0.1, "pass", "found", "do this", enough_rows=False)
    assert few.verdict == "warn" and few.reason.endswith("do this") and "too few" in few.reason
    assert make_line("masses", 0.1, "fail", "found", "", enough_rows=False).verdict == "fail"


REAL = CoordinateSupports((constraints.real,) * 2)
MIXED = CoordinateSupports((constraints.real, constraints.integer_interval(0, 2)))


def evidence(
    losses=(1.0,) * 3,
    best_step=0,
    num_held_out=500,
    rows=ROWS,
    supports=REAL,
    row_weights=None,
    components=(),
):
    steps = np.array([0, 50, 100])
    history = History(steps, np.ones(3), np.array(losses), np.array([0.0, 0.1, 0.1]))
    return types.SimpleNamespace(
        history=history,
        best_step=best_step,
        held_out=HELD_OUT[:num_held_out],
        rows=rows,
        row_weights=row_weights,
        num_held_out=num_held_out,
        coordinate_supports=supports,
        array_shape=None,
        components=components,
        density=types.SimpleNamespace(names=("a", "b")),
    )


@pytest.mark.parametrize(
    ("losses", "best_step", "num_held_out", "verdict"),
    [
        ([2.0, 1.0, 1.5], 50, 500, "pass"),
        ([2.0, 1.9, 1.9], 100, 500, "warn"),
        ([2.0, 2.1, 2.2], 0, 500, "warn"),
        ([2.0, 1.0, 1.5], 50, 9, "warn"),
    ],
)
def test_network_passes_if_it_lowers_the_held_out_loss(losses, best_step, num_held_out, verdict):
    line = network_line(evidence(losses, best_step, num_held_out))
    assert line.verdict == verdict
    assert line.value == pytest.approx(losses[0] - losses[best_step // 50])


@pytest.mark.parametrize(
    ("shift", "error", "verdict"),
    [(0.5, 0.01, "pass"), (0.0, 0.01, "warn"), (-0.5, 0.01, "fail"), (0.5, 1.0, "warn")],
)
def test_log_density_is_compared_with_a_gaussian(shift, error, verdict):
    line = log_density_line(evidence([1.0] * 3, 0), HELD_OUT, densities(shift, error=error))
    assert line.verdict == verdict
    assert line.value == pytest.approx(standard_normal(HELD_OUT).mean() + shift)


@pytest.mark.parametrize(("gap", "verdict"), [(-0.2, "pass"), (0.25, "warn"), (0.5, "fail")])
def test_memorisation_is_the_gap_to_training_rows(gap, verdict):
    line = memorisation_line(evidence(), densities(gap=gap))
    assert line.verdict == verdict and line.value == pytest.approx(gap)


def test_a_mixture_may_be_ahead_by_its_size():
    """Parameters for each of 2,000 rows: 6 for each of 8 components, and too many of 100."""

    def found(num_components, gap):
        count = num_components + 1
        reference = disco.MixtureReference(
            np.ones(count), np.zeros((count, 2)), np.broadcast_to(np.eye(2), (count, 2, 2))
        )
        fitted = evidence(components={num_components: 0.0})
        fitted.energy = types.SimpleNamespace(reference=reference)
        return memorisation_line(fitted, densities(gap=gap))

    # The standard error of the gap is 0.05, and twice it is allowed for.
    assert found(8, 0.15).verdict == "pass" and "0.024 ahead" in found(8, 0.15).reason
    assert "0.06 ahead" in found(100, 0.15).reason
    assert found(8, 0.25).verdict == "warn" and found(100, 0.5).verdict == "fail"


@pytest.mark.parametrize(
    ("log_z", "error", "verdict", "remedy"),
    [
        (0.05, 0.01, "pass", "log Z"),
        (0.5, 0.01, "warn", "`defensive_share`"),
        (-0.5, 0.01, "warn", "correct it by `normalize`"),
        (2.0, 0.01, "fail", "`defensive_share`"),
        (0.0, 1.0, "warn", "`normalize`"),
    ],
)
def test_constant_of_a_contrastive_objective_is_zero(log_z, error, verdict, remedy):
    line = constant_line(densities(log_z=log_z, error=error))
    assert line.verdict == verdict and line.value == log_z and remedy in line.reason


def test_masses_compare_shares_of_clusters():
    assert masses_line(evidence(), HELD_OUT, DRAWS).verdict == "pass"
    right = np.concatenate([DRAWS[DRAWS[:, 0] > 0]] * 2)
    line = masses_line(evidence(), HELD_OUT, right)
    assert line.verdict == "fail" and 0.35 < line.value < 0.65
    few = masses_line(evidence(), HELD_OUT[:5], DRAWS)
    assert few.verdict != "pass" and "too few held-out rows" in few.reason


def test_masses_of_weighted_rows_are_their_weights():
    """N(0, 1) with weights exp(x) is N(1, 1) in the first column."""
    moved = DRAWS + [1.0, 0.0]
    weights = np.exp(ROWS[:, 0]), np.exp(HELD_OUT[:, 0])
    found = evidence(row_weights=weights[0])
    assert masses_line(found, HELD_OUT, moved, weights[1]).verdict == "pass"
    assert masses_line(found, HELD_OUT, DRAWS, weights[1]).verdict == "fail"


def test_held_out_log_densities_are_weighted():
    weights = np.exp(HELD_OUT[:, 0])
    weighted = densities()._replace(held_out_weights=weights)
    line = log_density_line(evidence([1.0] * 3, 0), HELD_OUT, weighted)
    assert line.value == pytest.approx(np.average(weighted.held_out, weights=weights))
    gap = np.average(weighted.rows) - line.value
    assert memorisation_line(evidence(), weighted).value == pytest.approx(gap)


def test_weights_on_a_few_rows_are_reported():
    found = evidence([1.0] * 3, 0)
    found.row_weights = np.ones(len(ROWS))
    assert weights_line(found).value == pytest.approx(len(ROWS))
    assert weights_line(found).verdict == "pass"
    found.row_weights[:3] = 1e6
    line = weights_line(found)
    assert line.value == pytest.approx(3, rel=1e-2)
    assert line.verdict == "warn" and "limit the largest weights" in line.reason
    assert "500 held-out rows 500" in line.reason


def test_failed_draws_give_the_reason_and_a_remedy():
    line = no_draws_line(RuntimeError("stuck at 0.3"))
    assert line.verdict == "fail" and "stuck at 0.3; use" in line.reason


def with_levels(points, shares):
    """Points (n, 2) whose second column is replaced by levels."""
    levels = np.random.default_rng(3).choice(3, len(points), p=shares)
    return np.column_stack([points[:, 0], levels])


def test_levels_compare_their_shares():
    shares, other = [0.6, 0.3, 0.1], [0.2, 0.3, 0.5]
    found = evidence(rows=with_levels(ROWS, shares), supports=MIXED)
    held_out = with_levels(HELD_OUT, shares)
    assert levels_line(found, held_out, with_levels(DRAWS, shares)).verdict == "pass"
    line = levels_line(found, held_out, with_levels(DRAWS, other))
    assert line.verdict == "fail" and "3 levels of 'b'" in line.reason
    assert line.value == pytest.approx(0.4, abs=0.06)
    assert masses_line(found, held_out, with_levels(DRAWS, other)).verdict == "fail"


def test_the_log_density_of_levels_is_compared_with_their_shares():
    shares = np.array([0.6, 0.3, 0.1])
    found = evidence(rows=with_levels(ROWS, shares), supports=MIXED)
    held_out = with_levels(HELD_OUT, shares)
    exact = norm.logpdf(held_out[:, 0]) + np.log(shares)[held_out[:, 1].astype(int)]
    line = log_density_line(found, held_out, LogDensities(exact, exact, 0.0, 0.01))
    assert line.verdict == "warn" and "Gaussian and the shares of levels" in line.reason
