"""Priors with supports: densities, conditionals, models and marginals in the user's units.

The energy is that of a correlated Gaussian over unconstrained coordinates, so a coordinate in the
positive numbers is log-normal, one in the unit interval logit-normal, and every density is known.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.statistics import assert_within, mean_and_error
from numpyro import handlers
from numpyro.distributions import biject_to, constraints
from numpyro.infer.util import initialize_model
from scipy import stats
from scipy.special import logit

import numpyro_disco as disco
from numpyro_disco.supports.coordinates import CoordinateSupports

NAMES = ("mass", "share", "shift")
SUPPORTS = {"mass": constraints.positive, "share": constraints.unit_interval}
MEAN = np.array([0.2, -0.4, 0.5])
COVARIANCE = np.array([[0.5, 0.3, 0.1], [0.3, 0.9, -0.2], [0.1, -0.2, 0.6]])
LOG_Z = 0.5 * np.linalg.slogdet(2 * np.pi * COVARIANCE)[1]
KEY = jax.random.key(5)


def gaussian(parameters, y):
    mean, precision = parameters
    return 0.5 * (y - mean) @ precision @ (y - mean)


def prior_of(kept=(0, 1, 2), supports=SUPPORTS):
    """The prior of some of the coordinates, marginal to the others."""
    kept = list(kept)
    mean, covariance = MEAN[kept], COVARIANCE[np.ix_(kept, kept)]
    parameters = jnp.asarray(mean), jnp.asarray(np.linalg.inv(covariance))
    names = tuple(NAMES[place] for place in kept)
    return disco.EnergyDistribution(
        jax.tree_util.Partial(gaussian, parameters),
        disco.GaussianReference(np.zeros(len(kept)), 4.0 * np.eye(len(kept))),
        names=names,
        supports={name: s for name, s in supports.items() if name in names},
    )


PRIOR = prior_of()


def unconstrain(x):
    return np.stack([np.log(x[..., 0]), logit(x[..., 1]), x[..., 2]], axis=-1)


def log_dets(x):
    """Logarithms of dx/dy: x for exp, x (1 - x) for the sigmoid."""
    return np.stack(
        [np.log(x[..., 0]), np.log(x[..., 1] * (1 - x[..., 1])), np.zeros(x.shape[:-1])], axis=-1
    )


def log_density(x, kept=(0, 1, 2)):
    """Normalised log density of some coordinates of x (..., 3)."""
    kept = list(kept)
    normal = stats.multivariate_normal(MEAN[kept], COVARIANCE[np.ix_(kept, kept)])
    return normal.logpdf(unconstrain(x)[..., kept]) - log_dets(x)[..., kept].sum(-1)


def points(num=50):
    rng = np.random.default_rng(2)
    y = rng.multivariate_normal(MEAN, COVARIANCE, size=num)
    return np.stack([np.exp(y[:, 0]), 1 / (1 + np.exp(-y[:, 1])), y[:, 2]], axis=-1)


def test_the_density_includes_the_jacobian():
    x = points()
    np.testing.assert_allclose(PRIOR.log_prob(x), log_density(x) + LOG_Z, atol=2e-4)
    # The broken twin leaves the Jacobian out.
    assert np.abs(PRIOR.log_prob(x) - log_density(x) - LOG_Z - log_dets(x).sum(-1)).max() > 0.5


def test_the_score_is_the_gradient_in_the_users_units():
    x, step = points(5), 1e-5
    found = np.asarray(PRIOR.score(x))
    for place in range(3):
        h = step * np.eye(3)[place]
        slope = (log_density(x + h) - log_density(x - h)) / (2 * step)
        np.testing.assert_allclose(found[:, place], slope, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("x", [[-1.0, 0.5, 0.0], [0.0, 0.5, 0.0], [1.0, 1.0, 0.0], [1.0, 2.0, 0.0]])
def test_the_density_is_zero_outside_the_supports(x):
    assert PRIOR.log_prob(jnp.array(x)) == -jnp.inf
    assert not np.isnan(PRIOR.score(jnp.array(x))).any()


@pytest.mark.statistics
def test_the_normalised_density_integrates_to_one():
    """The midpoint rule over positive times unit interval has a fine grid near the bounds."""
    prior = prior_of((0, 1)).normalize(KEY, num_chains=20)
    y = [
        np.linspace(m - 7 * s, m + 7 * s, 201) for m, s in zip(MEAN[:2], [0.71, 0.95], strict=True)
    ]
    edges = [np.exp(y[0]), 1 / (1 + np.exp(-y[1]))]
    middle = [0.5 * (e[1:] + e[:-1]) for e in edges]
    area = np.multiply.outer(*(np.diff(e) for e in edges))
    grid = np.stack(np.meshgrid(*middle, indexing="ij"), axis=-1)
    density = np.exp(np.asarray(prior.log_prob(grid), np.float64))
    total, error = (density * area).sum(), float(prior.log_normalizer_error)
    assert_within(total, 1.0, error + 2e-4, sigmas=7.4, resolution=0.05, label="integral")
    with pytest.raises(AssertionError, match="is off"):
        jacobian = np.exp(log_dets(np.concatenate([grid, np.zeros((200, 200, 1))], -1)).sum(-1))
        assert_within(
            (density * area * jacobian).sum(), 1.0, error, sigmas=7.4, resolution=1, label="twin"
        )


def test_the_reference_is_normalised_and_so_are_its_conditionals():
    reference = prior_of((0, 1)).reference
    normal = stats.multivariate_normal(np.zeros(2), 4.0 * np.eye(2))
    x = points()
    expected = normal.logpdf(unconstrain(x)[:, :2]) - log_dets(x)[:, :2].sum(-1)
    np.testing.assert_allclose(reference.log_prob(x[:, :2]), expected, rtol=1e-4, atol=1e-4)
    draws = np.asarray(reference.sample(KEY, (1000,)))
    assert (draws[:, 0] > 0).all() and ((draws[:, 1] > 0) & (draws[:, 1] < 1)).all()
    given = reference.condition(np.array([2.5, np.nan]))
    np.testing.assert_array_equal(given.sample(KEY, (7,))[:, 0], np.float32(2.5))
    one = stats.norm.logpdf(logit(x[:, 1]), 0, 2) - log_dets(x)[:, 1]
    at = np.stack([np.full(len(x), 2.5), x[:, 1]], axis=-1)
    np.testing.assert_allclose(given.log_prob(at), one, rtol=1e-4, atol=1e-4)


def conditional(mass):
    """Mean and covariance of y given the mass."""
    gain = COVARIANCE[1:, 0] / COVARIANCE[0, 0]
    mean = MEAN[1:] + gain * (np.log(mass) - MEAN[0])
    return mean, COVARIANCE[1:, 1:] - np.outer(gain, COVARIANCE[0, 1:])


def check_conditional_draws(draws, mass, label):
    """Independent sets of draws (runs, n, 3) against the conditional given the mass."""
    mean, covariance = conditional(mass)
    y = unconstrain(np.asarray(draws, np.float64))[..., 1:]
    for found, truth, what in (
        (y.mean(1), mean, "means"),
        (y.std(1), np.sqrt(np.diagonal(covariance)), "sds"),
    ):
        estimate, error = mean_and_error(found)
        assert_within(estimate, truth, error, sigmas=7.4, resolution=0.15, label=f"{label} {what}")


@pytest.mark.statistics
def test_draws_of_a_conditional_are_inside_and_have_the_right_moments():
    rows = np.full((20, 3), np.nan)
    rows[:, 0] = 2.0
    draws = np.swapaxes(disco.sample_conditional(KEY, PRIOR, rows, 1000), 0, 1)
    assert (draws[..., 0] == 2).all() and ((draws[..., 1] > 0) & (draws[..., 1] < 1)).all()
    check_conditional_draws(draws, 2.0, "SMC")
    with pytest.raises(AssertionError, match="is off"):
        check_conditional_draws(draws, 2.6, "twin")


def test_observed_values_must_be_inside_their_supports():
    for observed in ({"mass": -1.0}, {"mass": 0.0}, {"share": 1.5}, np.array([1.0, -0.1, np.nan])):
        for refuse in (
            lambda observed=observed: PRIOR.clamp(observed),
            lambda observed=observed: disco.sample_conditional(KEY, PRIOR, observed, 10),
        ):
            with pytest.raises(ValueError, match="inside their supports.*'(mass|share)'"):
                refuse()
    with pytest.raises(ValueError, match="inside their supports in `obs`"):
        disco.sample("x", PRIOR, obs=np.array([[-1.0, 0.5, np.nan]]))
    with pytest.raises(ValueError, match="inside the support of 'x.mass'.*Positive"):
        conditioned = handlers.condition(lambda: disco.sample("x", PRIOR), {"x.mass": -1.0})
        handlers.seed(conditioned, 0)()


def test_the_support_of_a_prior():
    clamped = PRIOR.clamp({"share": 0.25})
    assert clamped.support(jnp.array([1.0, 0.25, -3.0]))
    assert not clamped.support(jnp.array([-1.0, 0.25, -3.0]))
    assert not PRIOR.support(jnp.array([1.0, 1.25, -3.0]))
    assert "UnitInterval" in repr(PRIOR.support)
    transform = biject_to(clamped.support)
    u = jnp.array([0.3, -0.7])
    x = transform(u)
    assert x[1] == 0.25 and x[0] > 0
    np.testing.assert_allclose(transform.inv(x), u, rtol=1e-5)
    jacobian = np.asarray(jax.jit(jax.jacfwd(transform))(u), np.float64)[[0, 2]]
    np.testing.assert_allclose(
        transform.log_abs_det_jacobian(u, x), np.linalg.slogdet(jacobian)[1], rtol=1e-5
    )


def sites():
    disco.sample("x", PRIOR)


def one_site():
    numpyro.sample("x", PRIOR)


def table():
    disco.sample("x", PRIOR, obs=np.array([[1.5, np.nan, np.nan], [np.nan, 0.3, 0.1]]))


def padded():
    rows = np.array([[1.5, np.nan, np.nan], [np.nan, 0.3, 0.1]])
    disco.sample("x", PRIOR, obs=rows, padded=True)


@pytest.mark.parametrize("model", [sites, one_site, table, padded])
def test_the_potential_energy_in_unconstrained_space(model):
    """At any unconstrained point it is minus the log density there, Jacobian included."""
    info = initialize_model(KEY, model)
    z = jax.tree.map(lambda leaf: leaf + 0.4, info.param_info.z)
    constrained = info.postprocess_fn(z)
    found = -float(jax.jit(info.potential_fn)(z))
    loc, scale = np.asarray(PRIOR.loc), np.asarray(PRIOR.scale)
    if model in (sites, one_site):
        x = (
            np.stack([constrained[f"x.{name}"] for name in NAMES])
            if model is sites
            else np.asarray(constrained["x"])
        )
        rows, free, padding = x[None], np.ones((1, 3), bool), 0.0
    else:
        rows = np.array([[1.5, np.nan, np.nan], [np.nan, 0.3, 0.1]])
        free = np.isnan(rows)
        missing = np.asarray(constrained["x.missing"], np.float64)
        y = unconstrain(missing) if model is padded else None
        padding = 0.0 if y is None else stats.norm.logpdf(y, loc, scale)[~free].sum()
        padding += 0.0 if y is None else np.log(np.broadcast_to(scale, (2, 3)))[~free].sum()
        rows[free] = missing[free] if model is padded else missing
    rows = rows.astype(np.float64)
    expected = (log_density(rows) + LOG_Z).sum() + padding
    expected += (log_dets(rows) + np.log(scale))[free].sum()
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.statistics
def test_the_evidence_is_in_the_users_units():
    """For a model that observes a coordinate, it contains the density of that coordinate."""

    def model(mass):
        x = disco.sample("x", PRIOR)
        numpyro.sample("y", dist.Normal(x[..., 2], 0.5), obs=1.0)

    known = handlers.condition(model, {"x.mass": 2.0})
    smc = disco.TemperedSMC(known, num_particles=512, num_chains=16, progress_bar=False)
    smc.run(KEY, 2.0)
    mean, covariance = conditional(2.0)
    marginal = stats.norm.logpdf(np.log(2.0), MEAN[0], COVARIANCE[0, 0] ** 0.5)
    truth = marginal + stats.norm.logpdf(1.0, mean[1], (covariance[1, 1] + 0.25) ** 0.5) + LOG_Z

    def check(log_det):
        ratio = np.exp(np.asarray(smc.log_normalizer, np.float64) - truth + log_det)
        estimate, error = mean_and_error(ratio)
        assert_within(estimate, 1.0, error, sigmas=7.4, resolution=0.2, label="evidence")

    check(np.log(2.0))
    # The broken twin leaves the Jacobian out.
    with pytest.raises(AssertionError, match="is off"):
        check(0.0)


@pytest.mark.statistics
@pytest.mark.parametrize("kept", [(0,), (1, 2), (0, 1, 2)])
def test_marginals_are_in_the_users_units(kept):
    x = points(4)
    observed = np.full_like(x, np.nan)
    observed[:, list(kept)] = x[:, list(kept)]
    found = disco.log_marginal(KEY, PRIOR, observed, num_particles=256, num_chains=16)
    truth = log_density(x, kept)
    assert_within(found.log_density, truth, found.error, sigmas=7.4, resolution=0.2, label="log p")
    with pytest.raises(AssertionError, match="is off"):
        twin = truth + log_dets(x)[:, list(kept)].sum(-1)
        assert_within(found.log_density, twin, found.error, sigmas=7.4, resolution=9, label="twin")


@pytest.mark.parametrize(
    "supports, message",
    [
        ({"z": constraints.positive}, "`supports` names 'z', which is not a coordinate"),
        ({"mass": "positive"}, "constraint on one number for 'mass'"),
        ({"mass": constraints.simplex}, "constraint on one number for 'mass'"),
        ({"mass": constraints.nonnegative_integer}, "continuous constraints"),
        ([constraints.positive], "a mapping from names"),
    ],
)
def test_invalid_supports(supports, message):
    with pytest.raises(ValueError, match=message):
        reference = disco.GaussianReference(np.zeros(3), np.eye(3))
        disco.EnergyDistribution(lambda y: y @ y, reference, names=NAMES, supports=supports)


KINDS = (
    constraints.interval(-2.0, 5.0),
    constraints.real,
    constraints.greater_than(3.0),
    constraints.positive,
    constraints.interval(-2.0, 5.0),
    constraints.less_than(-1.0),
)


def test_coordinates_keep_their_places():
    supports = CoordinateSupports(KINDS)
    y = jnp.asarray(np.random.default_rng(0).normal(size=(5, 6)), jnp.float32)
    x = supports.constrain(y)
    for place, kind in enumerate(KINDS):
        transform = biject_to(kind)
        np.testing.assert_allclose(x[:, place], transform(y[:, place]), rtol=1e-6)
        found = supports.log_dets(y, x)[:, place]
        slope = jax.jit(jax.vmap(jax.grad(transform)))(y[:, place])
        np.testing.assert_allclose(found, np.log(np.abs(slope)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(supports.unconstrain(x), y, rtol=1e-4, atol=1e-5)
    assert supports.inside(x).all()
    some = supports.select([4, 1])
    np.testing.assert_allclose(some.constrain(y[:, [4, 1]]), x[:, [4, 1]], rtol=1e-6)


def test_supports_are_equal_by_kind_and_bounds():
    again = CoordinateSupports((*KINDS[:4], constraints.interval(-2.0, 5.0), KINDS[5]))
    assert again == CoordinateSupports(KINDS) and hash(again) == hash(CoordinateSupports(KINDS))
    other = CoordinateSupports((constraints.interval(-2.0, 5.5), *KINDS[1:]))
    assert other != again and not again.real
    assert CoordinateSupports((constraints.real,) * 2).real
    # Equal supports share one compiled program.
    assert jax.tree.structure(prior_of()) == jax.tree.structure(PRIOR)
    assert jax.tree.structure(prior_of(supports={})) != jax.tree.structure(PRIOR)
