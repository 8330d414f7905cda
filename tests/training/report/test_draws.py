"""Lines that ask the draws: a good density passes all, and each broken twin fails one."""

import types

import numpy as np
import pytest
from helpers.statistics import Mixture
from numpyro.distributions import constraints

from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.training.report.draws import (
    Compared,
    columns_line,
    copies_line,
    draws_line,
    separate,
)

RNG = np.random.default_rng(0)
EYE = np.eye(2)
TRUTH = Mixture([0.2, 0.6, 0.2], [[-4, 0], [0, 0], [3, 3]], [0.3 * EYE, EYE, 6 * EYE])
ROWS, HELD_OUT, REFERENCE = (TRUTH.draw(RNG, num) for num in (4000, 1500, 2000))


def changed(weights=TRUTH.weights, scales=(0.3, 1, 6), means=TRUTH.means):
    weights = np.asarray(weights) / np.sum(weights)
    return Mixture(weights, means, [scale * EYE for scale in scales]).draw(RNG, 2000)


def with_copies(row):
    """Fifteen percent of the draws are one training row, up to a little noise."""
    draws = TRUTH.draw(RNG, 2000)
    draws[:300] = row + 1e-3 * RNG.normal(size=(300, 2))
    return draws


TWINS = {
    "lost mode": (changed(weights=[0.03, 0.6, 0.2]), {"draws", "columns"}),
    "narrowed tail": (changed(scales=(0.3, 1, 1)), {"draws", "columns"}),
    "spurious mode": (
        np.concatenate([changed()[:1700], [6, -6] + 0.5 * RNG.normal(size=(300, 2))]),
        {"draws", "columns"},
    ),
    "copied row": (with_copies(ROWS[0]), {"draws", "copies"}),
    "memorised rows": (ROWS[:2000] + 1e-3 * RNG.normal(size=(2000, 2)), {"copies"}),
}


def evidence(supports=None, rows=ROWS, weights=None, noise_scale=None):
    supports = supports or (constraints.real,) * 2
    return types.SimpleNamespace(
        rows=rows,
        row_weights=weights,
        names=("a", "b", "c")[: len(supports)],
        coordinate_supports=CoordinateSupports(supports),
        density=types.SimpleNamespace(noise_scale=noise_scale),
        model=types.SimpleNamespace(whitener=np.array(np.eye(len(supports)))),
    )


def lines(draws, held_out=HELD_OUT, reference=REFERENCE, weights=None, found=None):
    sample = Compared(held_out, weights, draws, reference)
    found = found or evidence()
    made = (line(found, sample) for line in (draws_line, columns_line, copies_line))
    return {line.name: line for line in made}


@pytest.mark.parametrize("seed", range(3))
def test_a_good_density_passes(seed):
    found = lines(TRUTH.draw(np.random.default_rng(seed + 1), 2000))
    assert {line.verdict for line in found.values()} == {"pass"}, found
    assert found["draws"].value == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("twin", TWINS)
def test_broken_twins_fail(twin):
    draws, failing = TWINS[twin]
    found = lines(draws)
    assert {found[name].verdict for name in failing} == {"fail"}, found


def test_draws_name_the_reference_and_columns_name_the_column():
    found = lines(changed(means=TRUTH.means + [0.0, 0.5]))
    assert "reference alone with 0.5" in found["draws"].reason
    assert "'b'" in found["columns"].reason and found["columns"].value > 0.15
    # No easier to tell than the reference: not the network's fault, and no pass either.
    moved = TRUTH.means + [0.0, 1.0]
    alike = lines(changed(means=moved), reference=changed(means=moved))["draws"]
    assert alike.verdict == "warn" and "see the lines 'reference'" in alike.reason


def test_few_held_out_rows_do_not_pass():
    found = lines(TRUTH.draw(RNG, 2000), held_out=HELD_OUT[:60])
    assert "pass" not in {found[name].verdict for name in ("draws", "copies")}
    assert "too few held-out rows" in found["draws"].reason


def test_weighted_rows():
    """N(0, 1) with weights exp(x) is N(1, 1) in the first column."""
    rows, held_out, draws = (RNG.normal(size=(num, 2)) for num in (4000, 800, 2000))
    right, weights = draws + [1.0, 0.0], np.exp(held_out[:, 0])
    found = evidence(rows=rows, weights=np.exp(rows[:, 0]))
    good = lines(right, held_out, right, weights, found)
    assert {line.verdict for line in good.values()} == {"pass"}, good
    wrong = lines(draws, held_out, right, weights, found)
    assert wrong["draws"].verdict == wrong["columns"].verdict == "fail"


def test_distances_are_in_the_units_of_the_weighted_rows():
    """Rows of a wide proposal, with the weights of N(0, 1); draws are off by half of its scale."""
    rows, held_out = (20 * RNG.normal(size=(num, 2)) for num in (20_000, 10_000))
    weights, held_out_weights = (
        np.exp(-0.5 * (1 - 20**-2) * (x**2).sum(1)) for x in (rows, held_out)
    )
    sample = Compared(held_out, held_out_weights, RNG.normal(size=(2000, 2)) + 0.5, REFERENCE)
    line = columns_line(evidence(rows=rows, weights=weights), sample)
    assert 0.3 < line.value < 1.0


@pytest.mark.parametrize("noise_scale", [None, 0.1])
def test_elements_that_do_not_vary(noise_scale):
    """Draws, and held-out rows, of arrays with such an element have noise of the smoothing."""
    sigma = noise_scale or 0.0
    rows, held_out, draws = (
        np.column_stack([RNG.normal(size=num), np.zeros(num)]) for num in (4000, 800, 2000)
    )
    held_out, draws = (x + sigma * RNG.normal(size=x.shape) for x in (held_out, draws))
    found = evidence(rows=rows, noise_scale=noise_scale)
    line = columns_line(found, Compared(held_out, None, draws, draws))
    assert line.verdict == "pass" and np.isfinite(line.value)


def test_levels_of_discrete_columns_are_told_apart():
    supports = (constraints.real, constraints.real, constraints.integer_interval(0, 2))

    def mixed(points, swapped=False):
        codes = (points[:, 0] > 0).astype(float) + (RNG.random(len(points)) < 0.3)
        return np.column_stack([points, 2 - codes if swapped else codes])

    rows, held_out, reference = map(mixed, (ROWS, HELD_OUT, REFERENCE))
    found = evidence(supports, rows)
    new = TRUTH.draw(np.random.default_rng(5), 2000)
    good = lines(mixed(new), held_out, reference, found=found)
    assert {line.verdict for line in good.values()} == {"pass"}, good
    wrong = lines(mixed(new, swapped=True), held_out, reference, found=found)
    assert wrong["draws"].verdict == "fail" and wrong["columns"].verdict == "pass"


def test_separation_of_alike_samples_is_within_its_error():
    alike = [separate(*TRUTH.draw(RNG, 1200).reshape(2, 600, 2)) for _ in range(4)]
    assert all(abs(one.accuracy - 0.5) < 4 * one.error for one in alike)
    apart = separate(HELD_OUT[:600], HELD_OUT[600:1200] + 1.0)
    assert apart.accuracy - 0.5 > 10 * apart.error
    assert alike[0].excess(alike[0])[0] == 0
