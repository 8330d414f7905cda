"""Categorical parts: their look-up by codes, their draws and their powers."""

import jax.numpy as jnp
import numpy as np

from numpyro_disco.references.categorical import (
    categorical_log_probs,
    draw_codes,
    level_indicators,
    tempered,
)

LEVELS = (0, 2, 3)
with np.errstate(divide="ignore"):
    TABLE = np.log(
        [
            [[0.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.2, 0.3, 0.5]],
            [[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.6, 0.4]],
        ]
    )


def test_codes_are_looked_up_by_component():
    codes = jnp.array([[7.3, 1.0, 2.0], [7.3, 0.0, 0.0], [7.3, 1.0, 3.0], [7.3, 0.5, 1.0]])
    found = categorical_log_probs(codes, jnp.asarray(TABLE), LEVELS, jnp.ones(3, bool))
    expected = [[0.1 * 0.5, 0.5 * 0.4], [0.9 * 0.2, 0], [0, 0], [0, 0]]
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-6)
    # What is left out does not count, even if it is no level.
    found = categorical_log_probs(codes, jnp.asarray(TABLE), LEVELS, jnp.array([1, 1, 0], bool))
    np.testing.assert_allclose(found[2], np.log([0.1, 0.5]), rtol=1e-6)
    assert level_indicators(codes, LEVELS).sum(-1).tolist() == [2, 2, 1, 1]


def test_codes_follow_the_distribution_function():
    probabilities = jnp.array([0.0, 0.25, 0.0, 0.75, 0.0])
    uniform = jnp.array([0.0, 0.5, 0.7499, 0.7501, 0.999999])
    assert draw_codes(uniform, probabilities[None]).tolist() == [3, 3, 3, 1, 1]


def test_powers_are_normalised():
    power, log_mass = tempered(jnp.asarray(TABLE), jnp.asarray(0.5))
    root = np.sqrt(np.exp(TABLE))
    np.testing.assert_allclose(log_mass[:, 1:], np.log(root[:, 1:].sum(-1)), rtol=1e-6)
    np.testing.assert_array_equal(log_mass[:, 0], 0)
    np.testing.assert_allclose(jnp.exp(power)[:, 1:].sum(-1), 1, rtol=1e-6)
