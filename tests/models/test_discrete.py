"""Discrete coordinates in models: summed out or moved, they agree with enumeration by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.mixed import TRUTH
from helpers.models import KEY
from helpers.statistics import assert_within
from numpyro import handlers
from numpyro.contrib.funsor import config_enumerate
from numpyro.distributions import constraints
from numpyro.infer import (
    MCMC,
    NUTS,
    SVI,
    DiscreteHMCGibbs,
    Predictive,
    Trace_ELBO,
    TraceEnum_ELBO,
    init_to_uniform,
)
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.util import log_density

import numpyro_disco as disco
from numpyro_disco.supports.coordinates import CoordinateSupports

NAMES = ("a", "b", "c", "d")
SUPPORTS = {"b": constraints.integer_interval(0, 2), "d": constraints.boolean}
SHIFT, SLOPE, NOISE = np.array([0.0, 1.0, -1.5]), np.array([1.0, -0.5]), 0.5
Y = 0.8
TABLE = np.array(
    [
        [0.3, np.nan, np.nan, 1.0],
        [np.nan, 2.0, 0.4, np.nan],
        [1.0, np.nan, -0.5, np.nan],
        [0.2, 1.0, 0.1, 0.0],
    ]
)
OUTCOMES = np.array([1.1, -0.9, 0.4, 1.2])


def wide_reference():
    """A reference that is not the density: wider, and with other probabilities."""
    truth = TRUTH.reference()
    return disco.MixedReference(
        jnp.ones(3),
        truth.means,
        2 * truth.covariances,
        0.5 * jnp.where(truth.log_probabilities > -jnp.inf, truth.log_probabilities, -jnp.inf),
        num_levels=truth.num_levels,
    )


def make_prior():
    energy = jax.tree_util.Partial(lambda q, z: -q.log_prob(z), TRUTH.reference())
    return disco.EnergyDistribution(energy, wide_reference(), names=NAMES, supports=SUPPORTS)


PRIOR = make_prior()


def outcome(x):
    shift = jnp.asarray(SHIFT)[x[..., 1].astype(int)]
    return dist.Normal(x[..., [0, 2]] @ SLOPE + shift, NOISE)


def model(y=Y):
    x = disco.sample("x", PRIOR)
    numpyro.sample("y", outcome(x), obs=y)


def table_model(table=TABLE, y=OUTCOMES):
    with numpyro.plate("rows", len(table)):
        x = disco.sample("x", PRIOR, obs=table)
        numpyro.sample("y", outcome(x), obs=y)


def posterior(row, y):
    """Evidence, probabilities of the free levels, and mean of the continuous coordinates.

    Args:
        row: one row (4,) with NaN for what is free.
        y: the outcome.
    """
    mask = ~np.isnan(row)
    codes, masses, mixtures = TRUTH.conditional(np.nan_to_num(row), mask)
    free = [place for place in TRUTH.discrete if not mask[place]]
    hidden = [i for i, place in enumerate(TRUTH.continuous) if not mask[place]]
    terms, means = [], []
    for code, mass, mixture in zip(codes, masses, mixtures, strict=True):
        whole = np.nan_to_num(row)
        whole[free] = code
        known = np.where(mask[TRUTH.continuous], whole[TRUTH.continuous], 0.0)
        centre = y - SHIFT[int(whole[1])] - known @ SLOPE
        if mixture is None:
            terms.append(mass * np.exp(dist.Normal(0.0, NOISE).log_prob(centre)))
            means.append(np.zeros(0))
            continue
        slope = SLOPE[hidden]
        evidence, moved = [], []
        for weight, m, s in zip(mixture.weights, mixture.means, mixture.covariances, strict=True):
            variance = slope @ s @ slope + NOISE**2
            residual = centre - slope @ m
            evidence.append(
                weight * np.exp(-0.5 * residual**2 / variance) / np.sqrt(2 * np.pi * variance)
            )
            moved.append(m + s @ slope * residual / variance)
        terms.append(mass * sum(evidence))
        means.append(np.average(moved, axis=0, weights=evidence))
    terms = np.array(terms)
    mean = np.average(means, axis=0, weights=terms) if hidden else np.zeros(0)
    return terms.sum(), codes, terms / terms.sum(), mean


FREE = np.full(4, np.nan)


def latents(model):
    """Names and shapes of latent sites."""
    started = handlers.substitute(handlers.seed(model, KEY), substitute_fn=init_to_uniform)

    def values():
        return {
            name: site["value"]
            for name, site in handlers.trace(started).get_trace().items()
            if site["type"] == "sample" and not site["is_observed"]
        }

    return {name: value.shape for name, value in jax.eval_shape(values).items()}


def check_mean(draws, truth, resolution=0.15, batches=10):
    """Means of draws (chains, n, d) against the truth, with errors from batches of each chain."""
    draws = np.asarray(draws, np.float64)
    chains, n, d = draws.shape
    means = draws.reshape(chains * batches, n // batches, d).mean(axis=1)
    error = means.std(axis=0, ddof=1) / np.sqrt(len(means))
    assert_within(means.mean(axis=0), truth, error, resolution=resolution)


def test_one_site_for_each_missing_coordinate():
    assert latents(model) == {"x.a": (), "x.b": (), "x.c": (), "x.d": ()}
    given = handlers.condition(model, {"x.b": 1, "x.a": 0.3})
    assert latents(given) == {"x.c": (), "x.d": ()}
    assert latents(table_model) == {"x.levels": (4,), "x.missing": (2,)}


def test_the_joint_density_with_discrete_coordinates_summed_out():
    values = {"x.a": 0.3, "x.c": -0.2}
    log_joint = jax.jit(lambda values: log_density(model, (), {}, values)[0])
    by_hand = [log_joint({**values, "x.b": b, "x.d": d}) for b in range(3) for d in range(2)]
    from numpyro.contrib.funsor import enum
    from numpyro.contrib.funsor.infer_util import log_density as summed

    enumerated = enum(config_enumerate(model), -1)
    found = jax.jit(lambda values: summed(enumerated, (), {}, values)[0])(values)
    np.testing.assert_allclose(found, jax.nn.logsumexp(jnp.array(by_hand)), rtol=1e-5)
    np.testing.assert_allclose(bound(TraceEnum_ELBO(), model, values), found, rtol=1e-5)
    # A broken twin: a bound that does not sum is infinite, not wrong.
    with pytest.warns(UserWarning, match="does not support models with discrete latent"):
        assert bound(Trace_ELBO(), model, values) == -np.inf


def bound(elbo, model, values):
    """The bound of SVI whose guide has all mass at some values of the continuous sites."""

    def guide():
        for name, value in values.items():
            numpyro.sample(name, dist.Delta(jnp.asarray(value), event_dim=jnp.ndim(value)))

    svi = SVI(config_enumerate(model), guide, numpyro.optim.Adam(0.1), elbo)
    return -svi.evaluate(svi.init(KEY))


def test_variational_bounds_sum_missing_levels_of_a_table_out():
    from numpyro.contrib.funsor import enum
    from numpyro.contrib.funsor.infer_util import log_density as summed

    values = {"x.missing": jnp.array([0.3, -0.2])}
    found = summed(enum(config_enumerate(table_model), -2), (), {}, values)[0]
    np.testing.assert_allclose(bound(TraceEnum_ELBO(), table_model, values), found, rtol=1e-5)


def test_automatic_guides_leave_discrete_coordinates_to_the_sum():
    guide = AutoNormal(handlers.condition(model, {"x.b": 0, "x.d": 1}), init_scale=0.3)
    svi = SVI(config_enumerate(model), guide, numpyro.optim.Adam(0.05), TraceEnum_ELBO())
    losses = svi.run(KEY, 200, progress_bar=False).losses
    evidence = np.log(posterior(FREE, Y)[0])
    assert -np.mean(losses[-50:]) < evidence + 0.1 and losses[-50:].mean() < losses[:10].mean()


def test_levels_can_be_conditioned_on_and_others_are_refused():
    only = PRIOR.clamp({"a": 0.1, "c": 0.2, "d": 1})

    def given(level):
        return handlers.condition(lambda: disco.sample("x", only), {"x.b": level})()

    np.testing.assert_allclose(given(2), [0.1, 2.0, 0.2, 1.0], rtol=1e-6)
    for level in (3, 0.5):
        with pytest.raises(ValueError, match="x.b"):
            given(level)


def test_forward_simulation_is_refused():
    with pytest.raises(NotImplementedError, match="cannot be drawn"):
        Predictive(model, num_samples=2)(KEY)
    only = PRIOR.clamp({"a": 0.1, "c": 0.2, "d": 1})
    with pytest.raises(NotImplementedError, match="cannot be drawn"):
        Predictive(lambda: disco.sample("x", only), num_samples=2)(KEY)


@pytest.mark.statistics
def test_nuts_sums_discrete_coordinates_out():
    mcmc = MCMC(
        NUTS(config_enumerate(model)),
        num_warmup=300,
        num_samples=400,
        num_chains=48,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(KEY)
    draws = mcmc.get_samples(group_by_chain=True)
    _, _, _, mean = posterior(FREE, Y)
    # Chains are independent; stretches of one chain are not, as it seldom leaves a mode.
    found = jnp.stack([draws["x.a"], draws["x.c"]], -1)
    check_mean(found, mean, resolution=0.25, batches=1)
    # The broken twin: the posterior given another outcome.
    with pytest.raises(AssertionError, match="is off"):
        check_mean(found, posterior(FREE, -Y)[3], resolution=0.25, batches=1)


@pytest.mark.slow
def test_gibbs_moves_discrete_coordinates():
    mcmc = MCMC(
        DiscreteHMCGibbs(NUTS(model)),
        num_warmup=300,
        num_samples=1000,
        num_chains=48,
        chain_method=jax.vmap,
        progress_bar=False,
    )
    mcmc.run(KEY)
    draws = mcmc.get_samples(group_by_chain=True)
    _, codes, probabilities, mean = posterior(FREE, Y)
    found = np.stack([draws["x.a"], draws["x.c"]], -1)
    check_mean(found, mean, resolution=0.25, batches=1)
    combination = np.asarray(draws["x.b"]) * 2 + np.asarray(draws["x.d"])
    order = codes[:, 0] * 2 + codes[:, 1]
    check_mean(combination[..., None] == order, probabilities, resolution=0.1, batches=1)


@pytest.mark.statistics
def test_tempering_sums_discrete_coordinates_out():
    smc = disco.TemperedSMC(model, num_particles=800, num_chains=8, progress_bar=False)
    smc.run(KEY)
    evidence, _, _, mean = posterior(FREE, Y)
    runs = np.asarray(smc.log_normalizer, np.float64)
    error = runs.std(ddof=1) / np.sqrt(len(runs))
    assert_within(runs.mean(), np.log(evidence), error, resolution=0.1)
    draws = smc.get_samples(group_by_chain=True)
    by_run = np.stack([draws["x.a"], draws["x.c"]], -1).astype(np.float64).mean(axis=1)
    error = by_run.std(axis=0, ddof=1) / np.sqrt(len(by_run))
    assert_within(by_run.mean(axis=0), mean, error, resolution=0.1)
    # Were one combination of levels forgotten in the sum, it would show.
    _, _, probabilities, _ = posterior(FREE, Y)
    with pytest.raises(AssertionError, match="is off"):
        lost = np.log(evidence * (1 - probabilities.max()))
        assert_within(runs.mean(), lost, error, resolution=0.1)


@pytest.mark.slow
def test_a_table_with_missing_levels():
    rows = [posterior(row, y) for row, y in zip(TABLE, OUTCOMES, strict=True)]
    evidence = sum(np.log(row[0]) for row in rows)
    observed = sum(TRUTH.marginal_log_prob(np.nan_to_num(row), ~np.isnan(row)) for row in TABLE)
    smc = disco.TemperedSMC(table_model, num_particles=2000, num_chains=8, progress_bar=False)
    smc.run(KEY)
    runs = np.asarray(smc.log_normalizer, np.float64)
    error = runs.std(ddof=1) / np.sqrt(len(runs))
    assert_within(runs.mean(), evidence + observed, error, resolution=0.1)

    mcmc = MCMC(
        NUTS(config_enumerate(table_model)),
        num_warmup=300,
        num_samples=4000,
        num_chains=2,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(KEY)
    mean = np.concatenate([rows[0][3], rows[1][3]])
    check_mean(mcmc.get_samples(group_by_chain=True)["x.missing"], mean)


@pytest.mark.statistics
def test_a_traced_table_with_missing_levels():
    """Where it is not known which entries are missing, the evidence is the same."""
    rows = [posterior(row, y) for row, y in zip(TABLE, OUTCOMES, strict=True)]
    observed = sum(TRUTH.marginal_log_prob(np.nan_to_num(row), ~np.isnan(row)) for row in TABLE)
    smc = disco.TemperedSMC(table_model, num_particles=400, num_chains=8, progress_bar=False)
    smc.run(KEY, jnp.asarray(TABLE), jnp.asarray(OUTCOMES))
    runs = np.asarray(smc.log_normalizer, np.float64)
    error = runs.std(ddof=1) / np.sqrt(len(runs))
    truth = sum(np.log(row[0]) for row in rows) + observed
    assert_within(runs.mean(), truth, error, resolution=0.15)
    assert smc.get_samples()["x.missing"].shape == (3200, 2)


def test_missing_levels_need_a_plate():
    with pytest.raises(ValueError, match=r"plate.*\['b', 'd'\]"):
        disco.sample("x", PRIOR, obs=TABLE)


def test_a_table_without_missing_levels_is_as_before():
    table = np.array([[np.nan, 1.0, 0.2, 1.0], [0.1, 0.0, np.nan, 0.0]])
    assert latents(lambda: disco.sample("x", PRIOR, obs=table)) == {"x.missing": (2,)}


def test_levels_below_zero_cannot_be_enumerated():
    levels = (constraints.real, constraints.integer_interval(-1, 1), constraints.real)
    supports = CoordinateSupports((*levels, constraints.boolean))
    low = PRIOR.replace(coordinate_supports=supports).clamp({"a": 0.1})
    with pytest.raises(ValueError, match="origin"):
        disco.sample("x", low)


def test_scales_around_latent_levels_are_refused():
    """NumPyro would scale each level before the sum."""
    with pytest.raises(ValueError, match="no `scale` around 'x.b'"):
        latents(handlers.scale(model, scale=2.0))
    with pytest.raises(ValueError, match="no `scale` around 'x'"):
        latents(handlers.scale(table_model, scale=2.0))


def test_a_masked_row_adds_nothing():
    """A mask must not let combinations count that a row cannot have."""

    def masked(mask):
        with numpyro.plate("rows", 4), handlers.mask(mask=np.asarray(mask)):
            disco.sample("x", PRIOR, obs=TABLE)

    values = {"x.missing": jnp.array([0.1, -0.3])}

    def joint(mask):
        from numpyro.contrib.funsor import enum
        from numpyro.contrib.funsor.infer_util import log_density as summed

        return summed(enum(config_enumerate(lambda: masked(mask)), -2), (), {}, values)[0]

    whole = PRIOR.log_prob(jnp.asarray(TABLE[3], jnp.float32))
    difference = joint([True, True, True, True]) - joint([True, True, True, False])
    np.testing.assert_allclose(difference, whole, rtol=1e-4)
