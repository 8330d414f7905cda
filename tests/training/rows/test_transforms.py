"""Fits with `transform`, and priors over columns with heavy tails and skew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.sinh_arcsinh import (
    CORRELATION,
    COVARIANCE,
    MAPS,
    SUPPORTS,
    log_density,
    rows_of,
    unconstrained_rows,
)
from numpyro.distributions import biject_to, constraints
from scipy import stats

import numpyro_disco as disco
from numpyro_disco.supports.sinh_arcsinh import SinhArcsinhReal

BARELY_TRAINED = {
    "num_steps": 1,
    "network": disco.MLP(width=8, num_blocks=1),
    "reference": disco.MixtureFit(max_components=2),
    "progress_bar": False,
}


def test_conditional_draws_agree_with_the_closed_form():
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
    # Draws of one run are not independent, so the test reads every fourth.
    assert stats.kstest(y[::4], truth.cdf).pvalue > 1e-3
    assert stats.kstest(y[::4], stats.norm(0, 1).cdf).pvalue < 1e-3


@pytest.mark.training
@pytest.mark.slow
def test_the_transform_improves_the_fit_of_heavy_tails():
    rows, new = rows_of(4, 4000), rows_of(5, 4000)

    def shortfall(density):
        """Nats per row below the truth, on rows that the fit never saw."""
        return (log_density(new) - np.asarray(density.log_prob(new), np.float64)).mean()

    prior, plain = (
        disco.fit(
            jax.random.key(0),
            rows,
            names=("a", "b"),
            transform=transform,
            reference=disco.MixtureFit(max_components=4),
            network=disco.MLP(width=16, num_blocks=1),
            num_steps=50,
            progress_bar=False,
        ).distribution
        for transform in ("sinh_arcsinh", None)
    )
    assert shortfall(prior.normalize(jax.random.key(1))) < 0.02
    assert shortfall(prior.reference) < 0.02
    assert shortfall(plain.reference) > 0.1


def test_columns_with_a_support_are_not_transformed():
    rows = np.abs(rows_of(6, 300))
    fit = disco.fit(
        jax.random.key(0),
        rows,
        names=("a", "b"),
        supports={"b": constraints.positive},
        transform="sinh_arcsinh",
        **BARELY_TRAINED,
    )
    a, b = fit.distribution.coordinate_supports.supports
    assert isinstance(a, SinhArcsinhReal) and b is constraints.positive


@pytest.mark.training
@pytest.mark.parametrize("kind", ["heavy tails", "two clouds"])
def test_held_out_rows_choose_the_transform(kind):
    rows = rows_of(8, 1500)
    if kind == "two clouds":
        # Maps of the columns would distort what is a mixture of Gaussians already.
        side = np.random.default_rng(9).choice([-1.0, 1.0], (1500, 1))
        rows = unconstrained_rows(8, 1500) + 4.0 * side * [1.0, -1.0]
    fit = disco.fit(
        jax.random.key(0),
        rows,
        transform="auto",
        **BARELY_TRAINED,
    )
    assert fit.transform == (None if kind == "two clouds" else "sinh_arcsinh")
    assert fit.distribution.coordinate_supports.real == (fit.transform is None)


def test_bad_transforms_are_refused():
    rows = rows_of(7, 100)
    with pytest.raises(
        ValueError, match="'sinh_arcsinh', 'auto'.* for `transform`; got 'quantile'"
    ):
        disco.fit(jax.random.key(0), rows, transform="quantile")
    reference = disco.GaussianReference(np.zeros(2), np.eye(2))
    with pytest.raises(ValueError, match="for `reference` with `transform`.*Leave one"):
        disco.fit(jax.random.key(0), rows, transform="sinh_arcsinh", reference=reference)
    with pytest.raises(ValueError, match="float32 can resolve.*Subtract an origin"):
        disco.fit(jax.random.key(0), 1e7 + rows, transform="sinh_arcsinh")
