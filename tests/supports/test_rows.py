"""The support of vectors of different lengths in one vector, and its bijection."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import biject_to, constraints

from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.supports.rows import RowsTransform, StandardizedRows

KINDS = (constraints.real, constraints.positive, constraints.interval(-1.0, 3.0))


def support_of(sizes, *, real=False):
    """Rows of these sizes; the identity pads them to the largest."""
    rng = np.random.default_rng(0)
    width, count = max(sizes), sum(sizes)
    factors = np.tril(0.4 * rng.normal(size=(len(sizes), width, width)), -1)
    factors += np.eye(width) * rng.uniform(0.5, 2.0, size=(len(sizes), 1, width))
    for factor, size in zip(factors, sizes, strict=True):
        factor[size:], factor[:, size:] = 0, 0
        factor[range(size, width), range(size, width)] = 1
    base = CoordinateSupports(tuple(KINDS[0 if real else i % 3] for i in range(count)))
    loc = rng.normal(size=count).astype(np.float32)
    return StandardizedRows(loc, factors.astype(np.float32), sizes, base)


SUPPORTS = {
    "of different sizes": support_of((2, 1, 3)),
    "of one size": support_of((2, 2, 2)),
    "unbounded": support_of((1, 3, 2), real=True),
}


@pytest.fixture(params=SUPPORTS)
def support(request):
    return SUPPORTS[request.param]


def unconstrained(shape=(5,)):
    return jnp.asarray(np.random.default_rng(1).normal(size=(*shape, 6)), jnp.float32)


def test_each_row_is_mapped_by_its_own_factor(support):
    u, start, y = np.asarray(unconstrained()), 0, []
    for factor, size in zip(support.factors, support.sizes, strict=True):
        loc = support.loc[start : start + size]
        y.append(loc + u[:, start : start + size] @ factor[:size, :size].T)
        start += size
    expected = support.base.constrain(jnp.concatenate(y, axis=-1))
    np.testing.assert_allclose(biject_to(support)(u), expected, rtol=1e-5, atol=1e-6)


def test_the_inverse_and_the_jacobian_are_exact(support):
    transform = biject_to(support)
    u = unconstrained()
    x = transform(u)
    assert support(x).all()
    np.testing.assert_allclose(transform.inv(x), u, atol=1e-4)
    log_det = transform.log_abs_det_jacobian(u, x)
    assert log_det.shape == (5,)
    jacobian = np.asarray(jax.jit(jax.vmap(jax.jacfwd(transform)))(u), np.float64)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=1e-5, atol=1e-5)
    # Without the factors the log determinant would be another number.
    assert abs(np.log(np.diagonal(support.factors, axis1=1, axis2=2)).sum()) > 0.1


def test_the_location_is_the_middle(support):
    for shape in [(6,), (5, 6)]:
        inside = support.feasible_like(jnp.zeros(shape))
        assert inside.shape == shape and support(inside).all()
        np.testing.assert_allclose(biject_to(support).inv(inside), 0.0, atol=1e-5)


def test_points_outside_are_recognised():
    support = SUPPORTS["of different sizes"]
    good = np.float32([0.0, 1.0, 0.0, 5.0, 2.0, 2.5])
    bad = np.repeat(good[None], 3, axis=0)
    bad[0, 1], bad[1, 5], bad[2, 0] = -1.0, 3.5, np.nan
    assert support(good) and not support(bad).any()


@pytest.mark.parametrize("make", [StandardizedRows, RowsTransform])
def test_pytree_laws_and_vmap(make):
    one = SUPPORTS["of different sizes"]

    def of(loc):
        return make(loc, one.factors, one.sizes, one.base)

    first = of(one.loc)
    leaves, tree = jax.tree.flatten(first)
    assert len(leaves) == 2 and jax.tree.unflatten(tree, leaves) == first
    assert first != of(one.loc + 1) and first != 3
    assert first != make(one.loc, one.factors, (1, 2, 3), one.base)
    assert bool(first.eq(of(one.loc))) and not bool(first.eq(of(one.loc + 1)))

    transform = biject_to(one)
    assert transform.codomain == one
    locs = one.loc + np.arange(3, dtype=np.float32)[:, None]
    u = unconstrained((3,))
    stacked = StandardizedRows(locs, np.repeat(one.factors[None], 3, 0), one.sizes, one.base)
    mapped = jax.vmap(lambda support, u: biject_to(support)(u))(stacked, u)
    for loc, u_row, x in zip(locs, u, mapped, strict=True):
        support = StandardizedRows(loc, one.factors, one.sizes, one.base)
        np.testing.assert_allclose(biject_to(support)(u_row), x, rtol=1e-5)
