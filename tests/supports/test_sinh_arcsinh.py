"""Columns with heavy tails and skew, mapped one by one.

The truth is a correlated Gaussian whose coordinates went through such maps, so every density and
every conditional is known.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import biject_to, constraints
from scipy import stats

import numpyro_disco as disco
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.supports.sinh_arcsinh import SinhArcsinhReal, fit_sinh_arcsinh

MAPS = (SinhArcsinhReal(5.0, 2.0, 0.7, 0.45), SinhArcsinhReal(-3.0, 0.1, -0.3, 0.6))
SUPPORTS = CoordinateSupports(MAPS)
CORRELATION = 0.8
COVARIANCE = np.array([[1.0, CORRELATION], [CORRELATION, 1.0]])
HARDLY_TRAINED = {
    "num_steps": 1,
    "width": 8,
    "num_blocks": 1,
    "max_components": 2,
    "progress_bar": False,
}


def unconstrained_rows(seed, num):
    return np.random.default_rng(seed).multivariate_normal(np.zeros(2), COVARIANCE, size=num)


def rows_of(seed, num):
    return np.asarray(SUPPORTS.constrain(jnp.asarray(unconstrained_rows(seed, num))), np.float64)


def log_density(x):
    y = SUPPORTS.unconstrain(jnp.asarray(x))
    gaussian = stats.multivariate_normal(np.zeros(2), COVARIANCE).logpdf(np.asarray(y))
    return gaussian - np.asarray(SUPPORTS.log_dets(y, x)).sum(-1)


# --- the map


@pytest.mark.parametrize("numbers", [(0.0, 1.0, 0.0, 1.0), (5.0, 2.0, 0.7, 0.4), (0, 1, -2, 3.0)])
def test_there_and_back(numbers):
    transform = biject_to(SinhArcsinhReal(*numbers))
    y = jnp.linspace(-6.0, 6.0, 101)
    x = transform(y)
    assert (jnp.diff(x) > 0).all()
    np.testing.assert_allclose(transform.inv(x), y, rtol=2e-4, atol=2e-4)
    slope = jax.vmap(jax.grad(transform))(y)
    np.testing.assert_allclose(transform.log_abs_det_jacobian(y, x), np.log(slope), atol=1e-4)
    if numbers == (0.0, 1.0, 0.0, 1.0):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_the_jacobian_is_finite_where_the_map_is_steep():
    transform = biject_to(SinhArcsinhReal(0.0, 1.0, 0.0, 0.2))
    log_det = transform.log_abs_det_jacobian(jnp.float32(1e7), jnp.float32(0.0))
    # x = y^5 2^4: log of its slope, in which sinh by itself would leave single precision.
    np.testing.assert_allclose(log_det, np.log(5 * 2.0**4) + 4 * np.log(1e7), rtol=1e-4)


def test_maps_of_many_columns_at_once():
    y = jnp.asarray(unconstrained_rows(0, 7), jnp.float32)
    mixed = CoordinateSupports((MAPS[0], constraints.positive, MAPS[1], MAPS[0]))
    wide = mixed.constrain(y[:, [0, 0, 1, 1]])
    for place, kind in enumerate(mixed.supports):
        one = biject_to(kind)(y[:, [0, 0, 1, 1][place]])
        np.testing.assert_allclose(wide[:, place], one, rtol=1e-6)
    assert wide.dtype == jnp.float32
    program = jax.make_jaxpr(SUPPORTS.constrain)(y)
    assert sum(str(e.primitive) == "sinh" for e in program.eqns) == 1
    assert hash(SUPPORTS) == hash(CoordinateSupports(MAPS)) and SUPPORTS == CoordinateSupports(MAPS)
    assert SUPPORTS != CoordinateSupports(MAPS[::-1]) and not SUPPORTS.real


def test_precision_is_that_of_the_argument():
    with jax.enable_x64(True):
        y = jnp.asarray(unconstrained_rows(0, 7), jnp.float32)
        assert SUPPORTS.constrain(y).dtype == jnp.float32
        assert SUPPORTS.constrain(y.astype(float)).dtype == jnp.float64


@pytest.mark.parametrize("place", [0, 1])
def test_what_is_fitted_makes_a_column_normal(place):
    column = rows_of(1, 40_000)[:, place]
    fitted = fit_sinh_arcsinh(column[:20_000])
    y = np.asarray(biject_to(fitted).inv(jnp.asarray(column[20_000:])))
    assert stats.kstest(y, "norm").pvalue > 1e-3
    # The twins: location and scale alone, and tails 15 % too light.
    standard = (column - np.median(column)) / (stats.iqr(column) / 1.349)
    assert stats.kstest(standard, "norm").pvalue < 1e-12
    wrong = biject_to(SinhArcsinhReal(fitted.loc, fitted.scale, fitted.skew, 1.15 * fitted.tail))
    assert stats.kstest(np.asarray(wrong.inv(jnp.asarray(column))), "norm").pvalue < 1e-12


@pytest.mark.parametrize("shape", ["uniform", "two modes", "Cauchy", "far from zero"])
def test_columns_of_other_shapes_get_a_map_too(shape):
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


# --- the prior


def test_conditionals_are_those_of_the_closed_form():
    precision = jnp.asarray(np.linalg.inv(COVARIANCE), jnp.float32)
    prior = disco.EnergyDistribution(
        jax.tree_util.Partial(lambda precision, y: 0.5 * y @ precision @ y, precision),
        disco.GaussianReference(np.zeros(2), 4 * np.eye(2)),
        names=("a", "b"),
        supports=dict(zip("ab", MAPS, strict=True)),
    )
    a = float(rows_of(3, 1)[0, 0])
    draws = disco.sample_conditional(jax.random.key(0), prior, {"a": a}, num_samples=2000)
    known = float(SUPPORTS.unconstrain(jnp.asarray([a, 0.0]))[0])
    truth = stats.norm(CORRELATION * known, np.sqrt(1 - CORRELATION**2))
    y = np.asarray(biject_to(MAPS[1]).inv(draws[..., 1].ravel()))
    # Draws of one run are not independent: a share of them stands for all.
    assert stats.kstest(y[::4], truth.cdf).pvalue > 1e-3
    assert stats.kstest(y[::4], stats.norm(0, 1).cdf).pvalue < 1e-3


@pytest.mark.training
def test_a_fit_with_maps_learns_what_one_without_does_not():
    rows, new = rows_of(4, 4000), rows_of(5, 4000)

    def missing(density):
        """Nats a row short of the truth, on rows that the fit never saw."""
        return (log_density(new) - np.asarray(density.log_prob(new), np.float64)).mean()

    prior, plain = (
        disco.fit(
            jax.random.key(0),
            rows,
            names=("a", "b"),
            transform=transform,
            max_components=4,
            num_steps=50,
            width=16,
            num_blocks=1,
            progress_bar=False,
        ).distribution
        for transform in ("sinh_arcsinh", None)
    )
    assert missing(prior.normalize(jax.random.key(1))) < 0.02
    assert missing(prior.reference) < 0.02
    assert missing(plain.reference) > 0.1


def test_columns_with_a_support_keep_it():
    rows = np.abs(rows_of(6, 300))
    fit = disco.fit(
        jax.random.key(0),
        rows,
        names=("a", "b"),
        supports={"b": constraints.positive},
        transform="sinh_arcsinh",
        **HARDLY_TRAINED,
    )
    a, b = fit.distribution.coordinate_supports.supports
    assert isinstance(a, SinhArcsinhReal) and b is constraints.positive


@pytest.mark.training
@pytest.mark.parametrize("kind", ["heavy tails", "two clouds"])
def test_held_out_rows_choose(kind):
    rows = rows_of(8, 1500)
    if kind == "two clouds":
        # Maps of its columns would bend what is a mixture of Gaussians already.
        side = np.random.default_rng(9).choice([-1.0, 1.0], (1500, 1))
        rows = unconstrained_rows(8, 1500) + 4.0 * side * [1.0, -1.0]
    fit = disco.fit(
        jax.random.key(0),
        rows,
        transform="auto",
        **HARDLY_TRAINED,
    )
    assert fit.transform == (None if kind == "two clouds" else "sinh_arcsinh")
    assert fit.distribution.coordinate_supports.real == (fit.transform is None)


def test_what_makes_no_sense():
    rows = rows_of(7, 100)
    with pytest.raises(
        ValueError, match="'sinh_arcsinh', 'auto'.* for `transform`; got 'quantile'"
    ):
        disco.fit(jax.random.key(0), rows, transform="quantile")
    reference = disco.GaussianReference(np.zeros(2), np.eye(2))
    with pytest.raises(ValueError, match="for `reference` with `transform`.*Leave one"):
        disco.fit(jax.random.key(0), rows, transform="sinh_arcsinh", reference=reference)
    with pytest.raises(ValueError, match="float32 can tell apart.*Subtract an origin"):
        disco.fit(jax.random.key(0), 1e7 + rows, transform="sinh_arcsinh")
