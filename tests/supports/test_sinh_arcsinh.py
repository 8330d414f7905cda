"""The sinh-arcsinh map of one column, and its fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.programs import operations
from helpers.sinh_arcsinh import MAPS, SUPPORTS, rows_of, unconstrained_rows
from numpyro.distributions import biject_to, constraints
from scipy import stats

from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.supports.sinh_arcsinh import SinhArcsinhReal, fit_sinh_arcsinh


@pytest.mark.parametrize("numbers", [(0.0, 1.0, 0.0, 1.0), (5.0, 2.0, 0.7, 0.4), (0, 1, -2, 3.0)])
def test_the_inverse_and_the_jacobian_are_exact(numbers):
    transform = biject_to(SinhArcsinhReal(*numbers))
    y = jnp.linspace(-6.0, 6.0, 101)
    x = transform(y)
    assert (jnp.diff(x) > 0).all()
    np.testing.assert_allclose(transform.inv(x), y, rtol=2e-4, atol=2e-4)
    slope = jax.jit(jax.vmap(jax.grad(transform)))(y)
    np.testing.assert_allclose(transform.log_abs_det_jacobian(y, x), np.log(slope), atol=1e-4)
    if numbers == (0.0, 1.0, 0.0, 1.0):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_the_jacobian_is_finite_where_the_map_is_steep():
    transform = biject_to(SinhArcsinhReal(0.0, 1.0, 0.0, 0.2))
    log_det = transform.log_abs_det_jacobian(jnp.float32(1e7), jnp.float32(0.0))
    # Here x = 2^4 y^5, so the log slope is known; cosh itself would overflow single precision.
    np.testing.assert_allclose(log_det, np.log(5 * 2.0**4) + 4 * np.log(1e7), rtol=1e-4)


def test_maps_of_many_columns_are_applied_in_one_call():
    y = jnp.asarray(unconstrained_rows(0, 7), jnp.float32)
    mixed = CoordinateSupports((MAPS[0], constraints.positive, MAPS[1], MAPS[0]))
    wide = mixed.constrain(y[:, [0, 0, 1, 1]])
    for place, kind in enumerate(mixed.supports):
        one = biject_to(kind)(y[:, [0, 0, 1, 1][place]])
        np.testing.assert_allclose(wide[:, place], one, rtol=1e-6)
    assert wide.dtype == jnp.float32
    assert operations(SUPPORTS.constrain, y).count("sinh") == 1
    assert hash(SUPPORTS) == hash(CoordinateSupports(MAPS)) and SUPPORTS == CoordinateSupports(MAPS)
    assert SUPPORTS != CoordinateSupports(MAPS[::-1]) and not SUPPORTS.real


def test_results_have_the_precision_of_the_argument():
    with jax.enable_x64(True):
        y = jnp.asarray(unconstrained_rows(0, 7), jnp.float32)
        assert SUPPORTS.constrain(y).dtype == jnp.float32
        assert SUPPORTS.constrain(y.astype(float)).dtype == jnp.float64


@pytest.mark.parametrize("place", [0, 1])
def test_the_fitted_map_makes_a_column_normal(place):
    column = rows_of(1, 40_000)[:, place]
    fitted = fit_sinh_arcsinh(column[:20_000])
    y = np.asarray(biject_to(fitted).inv(jnp.asarray(column[20_000:])))
    assert stats.kstest(y, "norm").pvalue > 1e-3
    # Broken twins: location and scale alone, and tails that are 15 % too light.
    standard = (column - np.median(column)) / (stats.iqr(column) / 1.349)
    assert stats.kstest(standard, "norm").pvalue < 1e-12
    wrong = biject_to(SinhArcsinhReal(fitted.loc, fitted.scale, fitted.skew, 1.15 * fitted.tail))
    assert stats.kstest(np.asarray(wrong.inv(jnp.asarray(column))), "norm").pvalue < 1e-12


@pytest.mark.parametrize("shape", ["uniform", "two modes", "Cauchy", "far from zero"])
def test_columns_of_other_shapes_get_a_finite_map(shape):
    rng = np.random.default_rng(0)
    column = {
        "uniform": rng.uniform(size=3000),
        "two modes": np.where(rng.random(3000) < 0.5, 0, 20) + rng.normal(size=3000),
        "Cauchy": rng.standard_cauchy(3000),
        "far from zero": 1e6 + rng.normal(size=3000),
    }[shape]
    numbers = jax.tree.leaves(fit_sinh_arcsinh(column))
    assert np.isfinite(numbers).all() and numbers[1] > 0 and numbers[3] > 0
    with jax.enable_x64(True):
        y = biject_to(SinhArcsinhReal(*numbers)).inv(jnp.asarray(column))
    assert np.isfinite(y).all() and np.abs(y).max() < 20


def test_whole_weights_are_repeated_rows():
    rng = np.random.default_rng(0)
    column, counts = np.exp(rng.normal(size=400)), rng.integers(1, 5, 400)
    parameters = [
        jax.tree.leaves(fitted)
        for fitted in (
            fit_sinh_arcsinh(column, counts.astype(float)),
            fit_sinh_arcsinh(np.repeat(column, counts)),
            fit_sinh_arcsinh(column),
        )
    ]
    np.testing.assert_allclose(parameters[0], parameters[1], rtol=0.02, atol=0.02)
    assert np.abs(np.subtract(parameters[2], parameters[1])).max() > 0.02
