"""Supports with a location and scale, and their bijections, with coordinates held fixed or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import biject_to

from numpyro_disco.supports.clamped import ClampedTransform, StandardizedReal, StandardizedVector

LOC = np.float32([1.0, -20.0, 0.5, 300.0])
SCALE = np.float32([0.1, 5.0, 2.0, 40.0])
FACTOR = SCALE[:, None] * (np.eye(4) + np.tril(np.full((4, 4), 0.3), -1)).astype(np.float32)
VALUES = np.float32([7.25, -1.5, 0.0, 260.0])
BATCH = VALUES + np.arange(5, dtype=np.float32)[:, None]

# Constraint, and the number of free coordinates.
VECTORS = {
    "nothing fixed": (StandardizedVector(LOC, FACTOR, None, (False,) * 4), 4),
    "nothing fixed, with values": (StandardizedVector(LOC, FACTOR, VALUES, (False,) * 4), 4),
    "one fixed": (StandardizedVector(LOC, FACTOR, VALUES, (False, True, False, False)), 3),
    "one free": (StandardizedVector(LOC, FACTOR, VALUES, (True, True, False, True)), 1),
    "all fixed": (StandardizedVector(LOC, FACTOR, VALUES, (True,) * 4), 0),
}


@pytest.fixture(params=VECTORS)
def vector(request):
    return VECTORS[request.param]


def free_of(constraint):
    return np.flatnonzero(~np.array(constraint.observed))


def unconstrained(num_free, shape=(5,)):
    draws = np.random.default_rng(0).normal(size=(*shape, num_free))
    return jnp.asarray(draws, dtype=jnp.float32)


# --- one coordinate


def test_one_coordinate_has_an_exact_inverse_and_jacobian():
    constraint = StandardizedReal(LOC[1], SCALE[1])
    transform = biject_to(constraint)
    u = unconstrained(1)[:, 0]
    x = transform(u)
    np.testing.assert_allclose(x, LOC[1] + SCALE[1] * u, rtol=1e-6)
    np.testing.assert_allclose(transform.inv(x), u, atol=1e-5)
    slope = jax.jit(jax.vmap(jax.grad(transform)))(u)
    log_det = transform.log_abs_det_jacobian(u, x)
    assert log_det.shape == u.shape
    np.testing.assert_allclose(log_det, np.log(np.abs(slope)), rtol=1e-6)


def test_one_coordinate_may_have_a_batch_of_scales():
    constraint = StandardizedReal(LOC, SCALE)
    transform = biject_to(constraint)
    u = unconstrained(4)
    assert transform(u).shape == (5, 4)
    log_det = transform.log_abs_det_jacobian(u, transform(u))
    np.testing.assert_allclose(log_det, np.broadcast_to(np.log(SCALE), (5, 4)), rtol=1e-6)
    inside = constraint.feasible_like(jnp.zeros((5, 4)))
    assert inside.shape == (5, 4) and constraint(inside).all()
    np.testing.assert_array_equal(
        constraint(np.array([0.0, np.nan, np.inf, -np.inf])), [True, False, False, False]
    )


# --- vectors


def test_vectors_have_an_exact_inverse(vector):
    constraint, num_free = vector
    transform = biject_to(constraint)
    assert isinstance(transform, ClampedTransform)
    u = unconstrained(num_free)
    x = transform(u)
    assert x.shape == (5, 4) and x.dtype == u.dtype
    assert constraint(x).shape == (5,) and constraint(x).all()
    back = transform.inv(x)
    assert back.shape == u.shape
    np.testing.assert_allclose(back, u, atol=2e-5)
    free = free_of(constraint)
    expected = LOC[free] + u @ FACTOR[np.ix_(free, free)].T
    np.testing.assert_allclose(x[:, free], expected, rtol=1e-5, atol=1e-5)
    if constraint.values is not None:
        held = np.array(constraint.observed)
        np.testing.assert_array_equal(x[:, held], np.broadcast_to(VALUES[held], (5, 4 - num_free)))


def test_the_jacobian_is_that_of_the_free_coordinates(vector):
    constraint, num_free = vector
    transform, free = biject_to(constraint), free_of(constraint)
    u = unconstrained(num_free)
    log_det = transform.log_abs_det_jacobian(u, transform(u))
    assert log_det.shape == (5,)
    jacobian = np.asarray(jax.jit(jax.jacfwd(transform))(u[0]), np.float64)
    assert jacobian.shape == (4, num_free)
    held = np.setdiff1d(np.arange(4), free)
    assert (jacobian[held] == 0).all()
    expected = np.linalg.slogdet(jacobian[free])[1] if num_free else 0.0
    np.testing.assert_allclose(log_det, np.full(5, expected), rtol=1e-5)
    # The Jacobian over all coordinates, with the fixed ones, would be another number.
    if 0 < num_free < 4:
        assert abs(np.log(SCALE).sum() - expected) > 0.1


def test_shapes_drop_the_fixed_coordinates(vector):
    constraint, num_free = vector
    transform = biject_to(constraint)
    for batch in [(), (5,), (2, 3)]:
        assert transform.forward_shape((*batch, num_free)) == (*batch, 4)
        assert transform.inverse_shape((*batch, 4)) == (*batch, num_free)
        assert jax.eval_shape(transform, unconstrained(num_free, batch)).shape == (*batch, 4)
    with pytest.raises(
        ValueError, match=f"Expected a last axis of {num_free} for the free coordinates"
    ):
        transform.forward_shape((num_free + 1,))
    with pytest.raises(ValueError, match="Expected a last axis of 4 for the vectors"):
        transform.inverse_shape((3,))


def test_domain_and_codomain_are_vectors(vector):
    constraint, num_free = vector
    transform = biject_to(constraint)
    assert transform.codomain == constraint
    assert transform.domain.event_dim == transform.codomain.event_dim == constraint.event_dim == 1
    assert bool(transform.domain(unconstrained(num_free)).all())


def test_feasible_values_are_inside(vector):
    constraint, _ = vector
    for shape in [(4,), (5, 4)]:
        inside = constraint.feasible_like(jnp.zeros(shape))
        assert inside.shape == shape and constraint(inside).all()
        np.testing.assert_allclose(
            biject_to(constraint).inv(inside), 0.0, atol=1e-6
        )  # the middle of the unconstrained space


def test_points_outside_are_recognised():
    constraint, _ = VECTORS["one fixed"]
    good = np.float32([0.0, VALUES[1], 5.0, -1e6])
    bad = np.repeat(good[None], 5, axis=0)
    bad[0, 1] += 1e-3  # slightly off the fixed value
    bad[1, 1] = np.nan
    bad[2, 0] = np.nan
    bad[3, 2] = np.inf
    bad[4, 3] = -np.inf
    assert constraint(good)
    np.testing.assert_array_equal(constraint(bad), np.zeros(5, bool))
    # Where nothing is fixed, any finite vector is inside.
    loose = VECTORS["nothing fixed, with values"][0]
    np.testing.assert_array_equal(loose(bad), [True, False, False, False, False])


def test_fixed_values_may_have_a_batch():
    observed = (False, True, False, True)
    constraint = StandardizedVector(LOC, FACTOR, BATCH, observed)
    transform, u = biject_to(constraint), unconstrained(2)
    x = transform(u)
    assert x.shape == (5, 4)
    np.testing.assert_array_equal(x[:, [1, 3]], BATCH[:, [1, 3]])
    np.testing.assert_allclose(transform.inv(x), u, atol=2e-5)
    assert transform.log_abs_det_jacobian(u, x).shape == (5,)
    assert constraint(x).all()
    # Reversing the five rows leaves the middle one in its place.
    np.testing.assert_array_equal(constraint(x[::-1]), np.arange(5) == 2)
    inside = constraint.feasible_like(jnp.zeros((5, 4)))
    assert constraint(inside).all()
    # One vector of free coordinates broadcasts over the batch of fixed values.
    assert transform(u[0]).shape == (5, 4)

    # A batch, vmap over values and vmap over whole constraints agree.
    def one(values, u):
        transform = biject_to(StandardizedVector(LOC, FACTOR, values, observed))
        x = transform(u)
        return x, transform.inv(x), transform.log_abs_det_jacobian(u, x)

    mapped, batched = jax.jit(lambda *a: (jax.vmap(one)(*a), one(*a)))(BATCH, u)
    for a, b in zip(mapped, batched, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    stacked = StandardizedVector(
        jnp.broadcast_to(LOC, (5, 4)), jnp.broadcast_to(FACTOR, (5, 4, 4)), BATCH, observed
    )
    over_constraints = jax.vmap(lambda constraint, u: biject_to(constraint)(u))(stacked, u)
    np.testing.assert_allclose(over_constraints, x, rtol=1e-6)


# --- pytree laws


def check_pytree_laws(make, changed, argument):
    """Check that a round trip is equal, a changed object is not, and jit does not retrace."""
    leaves, tree = jax.tree.flatten(make())
    again = jax.tree.unflatten(tree, leaves)
    assert type(again) is type(make()) and again == make()
    assert jax.tree.structure(again) == jax.tree.structure(make())
    assert make() != changed and again != 3
    assert bool(make().eq(again)) and not bool(make().eq(changed))

    traces = 0

    @jax.jit
    def apply(one, x):
        nonlocal traces
        traces += 1
        return one(x)

    for one in (make(), changed):
        np.testing.assert_allclose(apply(one, argument), one(argument), rtol=1e-6)
    assert traces == 1


def test_one_coordinate_keeps_the_pytree_laws():
    argument = np.float32([0.0, np.nan])
    check_pytree_laws(
        lambda: StandardizedReal(LOC[0], SCALE[0]), StandardizedReal(LOC[1], SCALE[0]), argument
    )


@pytest.mark.parametrize("make", [StandardizedVector, ClampedTransform])
def test_vectors_keep_the_pytree_laws(make):
    observed = (False, True, True, False)
    argument = unconstrained(2 if make is ClampedTransform else 4)
    if make is StandardizedVector:
        argument = argument.at[:2, 1:3].set(VALUES[1:3])
    check_pytree_laws(
        lambda: make(LOC, FACTOR, VALUES, observed),
        make(LOC, FACTOR, VALUES + 1, observed),
        argument,
    )
    whole = make(LOC, FACTOR, VALUES, observed)
    assert whole != make(LOC, FACTOR, VALUES, (False, True, False, True))
    assert whole != make(LOC, FACTOR, None, observed)
    # Which coordinates are fixed determines shapes, so it is part of the structure, not a leaf.
    assert len(jax.tree.leaves(whole)) == 3
