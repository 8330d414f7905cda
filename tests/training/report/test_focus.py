"""The line on the conditional in focus: its figure against the exact one."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.statistics import assert_within

import numpyro_disco as disco
from numpyro_disco.training.objectives.focus import Focus
from numpyro_disco.training.report.focus import focus_lines

WIDTH = 0.5


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Exact:
    """A stand-in for a learned energy: x given, theta ~ N(0, 1) becomes theta ~ N(x, WIDTH^2)."""

    reference: disco.GaussianReference
    sign: float
    whitener: jax.Array = dataclasses.field(default_factory=lambda: jnp.eye(2))

    def parts(self, z):
        exact = -0.5 * ((z[0] - z[1]) / WIDTH) ** 2
        return self.reference.log_prob(z), -self.sign * (exact + 0.5 * z[0] ** 2) + z[1]


def line_of(sign):
    rng = np.random.default_rng(0)
    x = rng.normal(scale=0.5, size=512)
    held_out = np.column_stack([rng.normal(x, WIDTH), x]).astype(np.float32)
    evidence = types.SimpleNamespace(
        objective=disco.Contrastive(focus=Focus(("theta",), (0,))),
        energy=Exact(disco.GaussianReference(np.zeros(2), np.eye(2)), sign),
        held_out=held_out,
        held_out_weights=None,
        num_held_out=512,
        names=("theta", "x"),
    )
    (line,) = focus_lines(jax.random.key(0), evidence)
    z, x = np.float64(held_out).T
    truth = -np.log(WIDTH) - 0.5 * ((z - x) / WIDTH) ** 2 + 0.5 * z**2
    return line, truth.mean()


def test_the_gain_is_that_of_the_conditional_densities():
    line, truth = line_of(1.0)
    assert line.verdict == "pass"
    # 256 redraws with an effective share of about one half, for each of 512 rows.
    assert_within(line.value, truth, (1 / 256 / 512) ** 0.5 + 1 / 512, resolution=0.03)


def test_a_correction_of_the_wrong_sign_fails():
    line, truth = line_of(-0.2)
    assert line.verdict == "fail" and line.value < 0
    with pytest.raises(AssertionError, match="is off"):
        assert_within(line.value, truth, (1 / 256 / 512) ** 0.5 + 1 / 512, resolution=0.03)


def test_without_a_focus_there_is_no_line():
    assert focus_lines(jax.random.key(0), types.SimpleNamespace(objective=disco.Disco())) == []
