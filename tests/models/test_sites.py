"""`disco.sample` inside NumPyro models: what sites there are, and what NumPyro makes of them.

What a sampler would start from is read with `initialize_model`, which is what NUTS itself calls,
and the potential energy it returns is compared with a formula: that says all about the model
without the minutes of running chains. Chains are run where the claim is about draws.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.statistics import assert_within, mean_and_error
from numpyro import handlers
from numpyro.infer import (
    MCMC,
    NUTS,
    SVI,
    Predictive,
    Trace_ELBO,
    init_to_median,
    init_to_sample,
    init_to_uniform,
    init_to_value,
    log_likelihood,
)
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from numpyro.infer.inspect import get_model_relations
from numpyro.infer.util import initialize_model
from scipy import stats

import numpyro_disco as disco

NAMES = ("a", "b", "c")
KEY = jax.random.key(11)
MEAN = np.array([0.5, -0.3, 0.2])
COVARIANCE = np.array([[1.0, 0.6, 0.2], [0.6, 1.5, -0.4], [0.2, -0.4, 0.8]])


def energy(parameters, x):
    mean, precision = parameters
    return 0.5 * (x - mean) @ precision @ (x - mean)


def prior_of(mean=MEAN, precision=None, names=NAMES):
    precision = np.linalg.inv(COVARIANCE) if precision is None else precision
    parameters = (jnp.asarray(mean), jnp.asarray(precision))
    reference = disco.GaussianReference(np.zeros(3), 4.0 * np.eye(3))
    return disco.EnergyDistribution(
        jax.tree_util.Partial(energy, parameters), reference, names=names
    )


PRIOR = prior_of()


def model(prior=PRIOR, y=None):
    x = disco.sample("x", prior)
    numpyro.sample("y", dist.Normal(x[..., 0], 0.5), obs=y)
    return x


def started(model, *args, **kwargs):
    return initialize_model(KEY, model, model_args=args, dynamic_args=True, **kwargs)


def latents(model, *args, **kwargs):
    """Shapes of what a sampler would move, in unconstrained space."""
    info = started(model, *args, **kwargs)
    return {name: np.shape(value) for name, value in info.param_info.z.items()}


def traced(model, values, *args):
    """The trace of a model given values of its coordinates."""
    substituted = handlers.substitute(handlers.seed(model, KEY), values)
    return handlers.trace(substituted).get_trace(*args)


POINT = jnp.array([0.1, 0.2, 0.3])
AT_POINT = disco.site_values("x", PRIOR, POINT)


# -- sites -------------------------------------------------------------------------------------


def test_one_site_for_each_coordinate_and_one_factor():
    trace = traced(model, AT_POINT, PRIOR, 0.4)
    assert list(trace) == ["x.a", "x.b", "x.c", "x.log_prob", "y"]
    assert [trace[name]["value"] for name in ("x.a", "x.b", "x.c")] == list(POINT)
    assert not any(trace[name]["is_observed"] for name in ("x.a", "x.b", "x.c"))
    factor = trace["x.log_prob"]
    assert factor["is_observed"]
    total = sum(trace[n]["fn"].log_prob(trace[n]["value"]).sum() for n in list(trace)[:4])
    np.testing.assert_allclose(total, PRIOR.log_prob(POINT), rtol=1e-6)


def test_the_vector_comes_back():
    values = {**AT_POINT}
    with handlers.seed(rng_seed=0), handlers.substitute(data=values):
        x = disco.sample("x", PRIOR)
    assert x.shape == (3,)
    np.testing.assert_array_equal(x, POINT)


def test_default_names_are_places():
    prior = prior_of(names=None)
    assert list(latents(lambda: disco.sample("x", prior))) == ["x.0", "x.1", "x.2"]


def test_what_is_no_prior():
    with pytest.raises(ValueError, match="Expected an `EnergyDistribution`.*`numpyro.sample`"):
        disco.sample("x", dist.Normal())


def test_a_clamped_coordinate_has_no_site():
    clamped = PRIOR.clamp({"b": 0.2})
    trace = traced(model, disco.site_values("x", clamped, POINT), clamped, 0.4)
    assert list(trace) == ["x.a", "x.c", "x.log_prob", "y"]
    log_prob = trace["x.log_prob"]["fn"].log_factor
    np.testing.assert_allclose(log_prob, PRIOR.log_prob(POINT), rtol=1e-6)


def test_site_values_are_the_free_coordinates():
    x = jnp.arange(12.0).reshape(2, 2, 3)
    values = disco.site_values("x", PRIOR.clamp({"b": 7.0}), x)
    assert list(values) == ["x.a", "x.c"]
    np.testing.assert_array_equal(values["x.c"], x[..., 2])
    with pytest.raises(ValueError, match="last axis of 3"):
        disco.site_values("x", PRIOR, jnp.zeros(2))


def test_two_priors_in_one_model():
    def two():
        x = disco.sample("x", PRIOR)
        xs = disco.sample("x2", PRIOR)
        return x, xs

    assert list(latents(two)) == ["x.a", "x.b", "x.c", "x2.a", "x2.b", "x2.c"]
    both = AT_POINT | disco.site_values("x2", PRIOR, 2 * POINT)
    trace = traced(two, both)
    for name, x in (("x", POINT), ("x2", 2 * POINT)):
        log_prob = trace[f"{name}.log_prob"]["fn"].log_factor
        np.testing.assert_allclose(log_prob, PRIOR.log_prob(x), rtol=1e-6)
    conditioned = handlers.condition(two, {"x2.b": 1.0})
    assert list(latents(conditioned)) == ["x.a", "x.b", "x.c", "x2.a", "x2.c"]


def test_scope():
    assert list(latents(handlers.scope(model, prefix="s"))) == ["s/x.a", "s/x.b", "s/x.c", "s/y"]
    inside = handlers.scope(handlers.condition(model, {"x.a": 0.1}), prefix="s")
    outside = handlers.condition(handlers.scope(model, prefix="s"), {"s/x.a": 0.1})
    assert list(latents(inside)) == list(latents(outside)) == ["s/x.b", "s/x.c", "s/y"]


# -- handlers ----------------------------------------------------------------------------------


def test_running_forward_says_what_can_be_done():
    with pytest.raises(NotImplementedError, match=r"'a'.*MCMC.*site_values\(name, prior, x\)"):
        handlers.trace(handlers.seed(model, 0)).get_trace()
    with pytest.raises(NotImplementedError, match="prior.sample"):
        Predictive(model, num_samples=3)(KEY)


def potential(model, values, *args):
    """-log joint at values of the latent sites, constants of standardising included."""
    info = started(model, *args)
    unconstrained = {}
    for name, value in values.items():
        place = NAMES.index(name.split(".")[-1])
        unconstrained[name] = (value - PRIOR.loc[place]) / PRIOR.scale[place]
    return info.potential_fn(*args)(unconstrained)


def expected_potential(x, y, free=(0, 1, 2)):
    log_joint = PRIOR.log_prob(x) + dist.Normal(x[0], 0.5).log_prob(y)
    return -(log_joint + jnp.log(PRIOR.scale[np.array(free)]).sum())


def test_conditioning_on_a_coordinate():
    conditioned = handlers.condition(model, {"x.b": 0.2})
    assert latents(conditioned, PRIOR, 0.4) == {"x.a": (), "x.c": ()}
    values = {name: AT_POINT[name] for name in ("x.a", "x.c")}
    got = potential(conditioned, values, PRIOR, 0.4)
    np.testing.assert_allclose(got, expected_potential(POINT, 0.4, (0, 2)), rtol=1e-5)
    # The broken twin: the value of another point.
    wrong = potential(handlers.condition(model, {"x.b": 0.9}), values, PRIOR, 0.4)
    assert abs(wrong - got) > 0.01


def test_conditioning_on_all_coordinates():
    conditioned = handlers.condition(model, AT_POINT)
    with handlers.seed(rng_seed=0):
        np.testing.assert_array_equal(conditioned(PRIOR, 0.4), POINT)


@pytest.mark.parametrize("name", ["x.z", "x", "x.A", "x.a.b"])
def test_conditioning_on_what_is_no_coordinate(name):
    with pytest.raises(ValueError, match=rf"{name}'.*not a site of 'x'.*'x.a', 'x.b', 'x.c'"):
        latents(handlers.condition(model, {name: 0.2}))


def test_conditioning_on_a_clamped_coordinate():
    clamped = PRIOR.clamp({"b": 0.2})
    with pytest.raises(ValueError, match=r"names 'x.b', which is not a site.*\['x.a', 'x.c'\]"):
        latents(handlers.condition(model, {"x.b": 0.2}), clamped)


def test_other_sites_may_share_the_prefix():
    # A user's own site, named like a coordinate without being one, is not this site's business.
    def with_total():
        x = disco.sample("x", PRIOR)
        numpyro.deterministic("x.total", x.sum(-1))
        numpyro.sample("y", dist.Normal(x[..., 0], 0.5), obs=0.4)

    draws = jnp.stack([POINT, 2 * POINT])
    samples = disco.site_values("x", PRIOR, draws) | {"x.total": draws.sum(-1)}
    # `MCMC.get_samples` hands back deterministic sites too, and NumPyro substitutes them all.
    likelihood = log_likelihood(with_total, samples)["y"]
    np.testing.assert_allclose(likelihood, dist.Normal(draws[:, 0], 0.5).log_prob(0.4), rtol=1e-6)
    assert Predictive(with_total, samples)(KEY)["x.total"].shape == (2,)


def test_do_leaves_no_flat_latent_behind():
    # `do` gives a site its value downstream and keeps a fresh copy of it, which for a coordinate
    # alone would be an improper, flat latent that a sampler wanders off in.
    done = handlers.do(model, {"x.b": 0.2})
    assert latents(done, PRIOR, 0.4) == {"x.a": (), "x.c": ()}
    values = {name: AT_POINT[name] for name in ("x.a", "x.c")}
    got = potential(done, values, PRIOR, 0.4)
    np.testing.assert_allclose(got, expected_potential(POINT, 0.4, (0, 2)), rtol=1e-5)


def test_substitute_and_block():
    substituted = handlers.substitute(model, {"x.a": 0.1, "x.b": 0.2, "x.c": 0.3})
    with handlers.seed(rng_seed=0), handlers.trace() as trace:
        np.testing.assert_allclose(substituted(PRIOR, 0.4), POINT, rtol=1e-6)
    assert not trace["x.a"]["is_observed"]
    blocked = handlers.block(substituted, hide=["x.b"])
    with handlers.seed(rng_seed=0), handlers.trace() as trace:
        blocked(PRIOR, 0.4)
    assert list(trace) == ["x.a", "x.c", "x.log_prob", "y"]


def test_scale_and_mask_reach_the_factor():
    scaled = handlers.scale(model, 3.0)
    trace = traced(scaled, AT_POINT, PRIOR, 0.4)
    assert trace["x.log_prob"]["scale"] == 3.0
    masked = handlers.mask(model, mask=False)
    trace = traced(masked, AT_POINT, PRIOR, 0.4)
    factor = trace["x.log_prob"]
    assert factor["fn"].log_prob(factor["value"]).sum() == 0


def test_predictive_and_log_likelihood_at_given_vectors():
    def total():
        x = disco.sample("x", PRIOR)
        numpyro.deterministic("total", x.sum(-1))
        numpyro.sample("y", dist.Normal(x[..., 0], 0.5))

    draws = jax.random.normal(KEY, (7, 3))
    samples = disco.site_values("x", PRIOR, draws)
    predicted = Predictive(total, samples)(KEY)
    np.testing.assert_allclose(predicted["total"], draws.sum(-1), rtol=1e-5, atol=1e-6)
    assert predicted["y"].shape == (7,)
    observed = handlers.condition(total, {"y": 0.4})
    likelihood = log_likelihood(observed, samples)["y"]
    truth = dist.Normal(draws[:, 0], 0.5).log_prob(0.4)
    np.testing.assert_allclose(likelihood, truth, rtol=1e-5)


def test_relations_of_a_model_can_be_drawn():
    # What `render_model` draws, without graphviz.
    relations = get_model_relations(model, (PRIOR, 0.4))
    assert relations["sample_dist"]["x.a"] == "Coordinate"
    assert set(relations["sample_sample"]["y"]) >= {"x.a"}
    assert relations["observed"] if "observed" in relations else relations["observe"]


# -- plates ------------------------------------------------------------------------------------


def test_a_plate_has_a_vector_for_each_member():
    def plated(prior=PRIOR):
        with numpyro.plate("rows", 4):
            x = disco.sample("x", prior)
            numpyro.sample("y", dist.Normal(x[..., 0], 0.5), obs=jnp.zeros(4))
        numpyro.deterministic("x_whole", x)

    assert latents(plated) == {"x.a": (4,), "x.b": (4,), "x.c": (4,)}
    x = jax.random.normal(KEY, (4, 3))
    trace = traced(plated, disco.site_values("x", PRIOR, x))
    np.testing.assert_array_equal(trace["x_whole"]["value"], x)
    np.testing.assert_allclose(trace["x.log_prob"]["fn"].log_factor, PRIOR.log_prob(x), rtol=1e-5)
    # One number for all members.
    conditioned = handlers.condition(plated, {"x.b": jnp.asarray(0.7)})
    assert latents(conditioned) == {"x.a": (4,), "x.c": (4,)}
    values = disco.site_values("x", PRIOR, x) | {"x.b": jnp.asarray(0.7)}
    trace = traced(plated, values)
    np.testing.assert_array_equal(trace["x_whole"]["value"], x.at[:, 1].set(0.7))
    factor = trace["x.log_prob"]
    total = factor["fn"].log_prob(factor["value"]).sum()
    np.testing.assert_allclose(total, PRIOR.log_prob(x.at[:, 1].set(0.7)).sum(), rtol=1e-5)
    # A prior clamped to one value for each member.
    batch = PRIOR.clamp({"b": x[:, 1]})
    assert latents(plated, batch) == {"x.a": (4,), "x.c": (4,)}
    trace = traced(plated, disco.site_values("x", batch, x), batch)
    np.testing.assert_allclose(trace["x.log_prob"]["fn"].log_factor, PRIOR.log_prob(x), rtol=1e-5)


def test_one_conditioned_number_in_a_plate_counts_for_every_member():
    def plated():
        with numpyro.plate("rows", 4):
            disco.sample("x", PRIOR)

    whole = handlers.condition(plated, {f"x.{n}": POINT[i] for i, n in enumerate(NAMES)})
    with handlers.seed(rng_seed=0), handlers.trace() as trace:
        whole()
    factor = trace["x.log_prob"]
    total = factor["fn"].log_prob(factor["value"]).sum()
    np.testing.assert_allclose(total, 4 * PRIOR.log_prob(POINT), rtol=1e-5)


def test_nested_plates():
    def plated():
        with numpyro.plate("columns", 3, dim=-1), numpyro.plate("rows", 2, dim=-2):
            x = disco.sample("x", PRIOR)
        numpyro.deterministic("whole", x)

    assert latents(plated) == {"x.a": (2, 3), "x.b": (2, 3), "x.c": (2, 3)}
    x = jax.random.normal(KEY, (2, 3, 3))
    trace = traced(plated, disco.site_values("x", PRIOR, x))
    np.testing.assert_array_equal(trace["whole"]["value"], x)
    np.testing.assert_allclose(trace["x.log_prob"]["fn"].log_factor, PRIOR.log_prob(x), rtol=1e-5)


def test_subsampling_scales_the_factor():
    def plated():
        with numpyro.plate("rows", 10, subsample_size=2):
            disco.sample("x", PRIOR)

    x = jax.random.normal(KEY, (2, 3))
    assert traced(plated, disco.site_values("x", PRIOR, x))["x.log_prob"]["scale"] == 5.0


# -- one vector site ---------------------------------------------------------------------------


def test_a_vector_site_has_as_many_dimensions_as_free_coordinates():
    def vector(prior):
        numpyro.sample("x", prior)

    assert latents(vector, PRIOR) == {"x": (3,)}
    assert latents(vector, PRIOR.clamp({"b": 0.2})) == {"x": (2,)}
    assert latents(vector, PRIOR.clamp({"a": 0.1, "c": 0.3})) == {"x": (1,)}
    assert latents(vector, PRIOR.clamp({"b": np.zeros(4)})) == {"x": (4, 2)}
    info = started(vector, PRIOR.clamp({"b": 0.2}))
    clamped = PRIOR.clamp({"b": 0.2})
    free = np.array([0, 2])
    u = (POINT - PRIOR.loc)[free] / PRIOR.scale[free]
    got = info.potential_fn(clamped)({"x": u})
    expected = -(PRIOR.log_prob(POINT) + jnp.log(PRIOR.scale[free]).sum())
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    # Whole vectors come back, clamped coordinates at their values.
    whole = info.postprocess_fn(clamped)({"x": u})["x"]
    np.testing.assert_allclose(whole, POINT, rtol=1e-5)


# -- samplers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "strategy",
    [
        init_to_uniform,
        init_to_median(num_samples=3),
        init_to_sample,
        init_to_value(values=disco.site_values("x", PRIOR, POINT)),
    ],
    ids=["uniform", "median", "sample", "value"],
)
def test_where_samplers_start(strategy):
    info = started(model, PRIOR, 0.4, init_strategy=strategy)
    assert np.isfinite(info.param_info.potential_energy)
    start = info.postprocess_fn(PRIOR, 0.4)(info.param_info.z)
    x = np.stack([start[f"x.{name}"] for name in NAMES])
    # NumPyro draws from (-2, 2) in standardised units, the scale of the reference.
    assert (np.abs(x) <= 2 * 2.0).all()
    if getattr(strategy, "func", None) is init_to_value:
        np.testing.assert_allclose(x, POINT, rtol=1e-5)


def gaussian_posterior(y, observation_noise=0.5, mean=MEAN, covariance=COVARIANCE):
    """Mean and covariance of x given y = x_0 + noise."""
    gain = covariance[:, 0] / (covariance[0, 0] + observation_noise**2)
    return mean + gain * (y - mean[0]), covariance - np.outer(gain, covariance[0])


@pytest.fixture(scope="module")
def chains():
    """One compiled sampler; the prior is an argument of the model."""
    return MCMC(
        NUTS(model),
        num_warmup=150,
        num_samples=500,
        num_chains=8,
        chain_method="vectorized",
        progress_bar=False,
        jit_model_args=True,
    )


def chain_means(mcmc, names):
    """Means over chains and their standard error: chains are independent, draws are not."""
    samples = mcmc.get_samples(group_by_chain=True)
    means = np.stack([np.asarray(samples[name], float).mean(1) for name in names], axis=-1)
    return means.mean(0), means.std(0, ddof=1) / np.sqrt(len(means))


# Eight chains: Student's t with 7 degrees of freedom is beyond 15 as rarely as a Gaussian beyond 5.
CHAIN_SIGMAS = 15


def assert_posterior(mcmc, truth):
    estimate, error = chain_means(mcmc, ("x.a", "x.b", "x.c"))
    assert_within(
        estimate, truth, error, resolution=0.8, sigmas=CHAIN_SIGMAS, label="posterior mean"
    )


def test_nuts_with_the_prior_as_an_argument(chains):
    chains.run(KEY, PRIOR, jnp.asarray(2.0))
    assert set(chains.get_samples()) == {"x.a", "x.b", "x.c"}
    assert_posterior(chains, gaussian_posterior(2.0)[0])
    # Other weights and another observation, and the sampler that was compiled for the first.
    other = prior_of(MEAN + 1.0)
    chains.run(KEY, other, jnp.asarray(-1.0))
    assert_posterior(chains, gaussian_posterior(-1.0, mean=MEAN + 1.0)[0])
    with pytest.raises(AssertionError, match="is off"):
        assert_posterior(chains, gaussian_posterior(-1.0)[0])
    # The broken twin: the cross term of a and b with its sign flipped.
    flip = np.array([[1, -1, 1], [-1, 1, 1], [1, 1, 1]])
    broken = prior_of(precision=np.linalg.inv(COVARIANCE * flip))
    chains.run(KEY, broken, jnp.asarray(2.0))
    with pytest.raises(AssertionError, match="is off"):
        assert_posterior(chains, gaussian_posterior(2.0)[0])


@pytest.mark.parametrize("guide_class", [AutoNormal, AutoMultivariateNormal])
def test_variational_inference_finds_the_mean(guide_class):
    def prior_alone():
        disco.sample("x", PRIOR)

    guide = guide_class(prior_alone)
    svi = SVI(prior_alone, guide, numpyro.optim.Adam(0.02), Trace_ELBO(num_particles=4))
    run = jax.jit(lambda state: jax.lax.scan(lambda s, _: (svi.update(s)[0], 0), state, None, 300))
    state, _ = run(svi.init(KEY))
    means = []
    # Where a stochastic optimiser stands at a moment is off by its own jitter: stop at several
    # moments, far enough apart.
    for _ in range(10):
        state, _ = run(state)
        median = guide.median(svi.get_params(state))
        means.append([median[f"x.{name}"] for name in NAMES])
    estimate, error = np.mean(means, 0), np.std(means, 0, ddof=1) / np.sqrt(len(means))
    # Ten moments: as for chains, fewer than twenty repeats ask for wider gates.
    gates = dict(resolution=0.6, sigmas=10, label="variational mean")
    assert_within(estimate, MEAN, error, **gates)
    with pytest.raises(AssertionError, match="is off"):
        assert_within(estimate, -MEAN, error, **gates)


# -- tables with holes -------------------------------------------------------------------------

TABLE = np.array(
    [[1.0, np.nan, 0.5], [np.nan, 0.2, np.nan], [0.1, 0.2, 0.3], [np.nan, np.nan, np.nan]]
)
NUM_HOLES = int(np.isnan(TABLE).sum())


def with_table(table, prior=PRIOR):
    x = disco.sample("x", prior, obs=table)
    numpyro.deterministic("completed", x)


def test_each_hole_is_a_latent_and_nothing_else_is():
    assert latents(lambda: with_table(TABLE)) == {"x.missing": (NUM_HOLES,)}
    trace = traced(with_table, {"x.missing": jnp.arange(6.0)}, TABLE)
    completed = np.asarray(trace["completed"]["value"])
    there = ~np.isnan(TABLE)
    np.testing.assert_array_equal(completed[there], TABLE[there].astype(np.float32))
    np.testing.assert_array_equal(completed[~there], np.arange(6.0))
    site = trace["x.missing"]
    np.testing.assert_allclose(
        site["fn"].log_prob(site["value"]), PRIOR.log_prob(completed).sum(), rtol=1e-5
    )
    # Batches of values, as `Predictive` and ArviZ hand them over.
    batch = jnp.zeros((5, 2, NUM_HOLES))
    assert site["fn"].log_prob(batch).shape == (5, 2)


def test_a_table_of_several_axes():
    table = np.full((2, 2, 3), 0.5)
    table[0, 1, 2] = table[1, 0, 0] = np.nan
    trace = traced(with_table, {"x.missing": jnp.array([7.0, 8.0])}, table)
    completed = trace["completed"]["value"]
    assert completed.shape == (2, 2, 3)
    assert completed[0, 1, 2] == 7.0 and completed[1, 0, 0] == 8.0


def test_a_whole_table_has_no_latent():
    whole = np.random.default_rng(0).normal(size=(5, 3))
    trace = traced(with_table, {}, whole)
    assert list(trace) == ["x.log_prob", "completed"]
    np.testing.assert_allclose(
        trace["x.log_prob"]["fn"].log_factor, PRIOR.log_prob(whole).sum(), rtol=1e-5
    )


def plated(table, size=4, padded=None, subsample_size=None):
    with numpyro.plate("rows", size, subsample_size=subsample_size) as rows:
        taken = table if subsample_size is None else jnp.asarray(table)[rows]
        x = disco.sample("x", PRIOR, obs=taken, padded=padded)
    numpyro.deterministic("completed", x)


def test_a_table_inside_a_plate_counts_each_row_once():
    assert latents(plated, TABLE) == latents(with_table, TABLE)
    values = {"x.missing": jnp.arange(6.0)}
    inside, outside = traced(plated, values, TABLE), traced(with_table, values, TABLE)
    np.testing.assert_array_equal(inside["completed"]["value"], outside["completed"]["value"])
    site, there = inside["x.missing"], outside["x.missing"]
    assert site["cond_indep_stack"] == [] and site["scale"] is None
    np.testing.assert_allclose(
        site["fn"].log_prob(site["value"]), there["fn"].log_prob(there["value"]), rtol=1e-6
    )
    # A row without holes has a factor, and it too counts once.
    whole = np.zeros((4, 3))
    factor = traced(plated, {}, whole)["x.log_prob"]
    np.testing.assert_allclose(factor["fn"].log_factor, PRIOR.log_prob(whole).sum(), rtol=1e-6)
    assert factor["cond_indep_stack"] == []


def test_a_table_that_does_not_fit_its_plates():
    with pytest.raises(ValueError, match=r"table of shape \(5, 3\).*one row for each.*\(4, 3\)"):
        latents(plated, TABLE, 5)


def entries(table, value):
    """Where a padded latent is a hole, and the log density of all it holds."""
    there = ~np.isnan(table)
    completed = np.where(there, table, value)
    # The padding is normal with the location and scale of the prior's coordinates.
    padding = dist.Normal(PRIOR.loc, PRIOR.scale).log_prob(value)
    return completed, PRIOR.log_prob(completed) + np.where(there, padding, 0.0).sum(-1)


VALUE = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)


def test_a_traced_table_has_a_latent_for_each_entry_and_is_not_compiled_again():
    traces = 0

    @jax.jit
    def log_density_and_rows(table):
        nonlocal traces
        traces += 1
        trace = traced(with_table, {"x.missing": VALUE}, table)
        site = trace["x.missing"]
        return site["fn"].log_prob(site["value"]), trace["completed"]["value"]

    for table in (TABLE, TABLE[::-1], np.full((4, 3), np.nan), np.zeros((4, 3))):
        log_prob, rows = log_density_and_rows(table)
        completed, expected = entries(table, VALUE)
        np.testing.assert_allclose(rows, completed, rtol=1e-6)
        np.testing.assert_allclose(log_prob, expected.sum(), rtol=1e-5)
    assert traces == 1


def test_a_padded_table_in_a_subsampled_plate_is_scaled():
    table = np.concatenate([TABLE, TABLE])
    with handlers.trace() as trace, handlers.seed(rng_seed=0):
        with handlers.substitute(data={"x.missing": VALUE}):
            plated(table, size=8, subsample_size=4)
    site = trace["x.missing"]
    taken = np.asarray(trace["rows"]["value"])
    assert site["scale"] == 2.0 and site["fn"].batch_shape == (4,)
    _, expected = entries(table[taken], VALUE)
    np.testing.assert_allclose(site["fn"].log_prob(site["value"]), expected, rtol=1e-5)


def test_a_table_that_is_concrete_first_and_traced_later_has_to_say_so():
    def run(padded):
        mcmc = MCMC(
            NUTS(lambda table: disco.sample("x", PRIOR, obs=table, padded=padded)),
            num_warmup=1,
            num_samples=1,
            jit_model_args=True,
            progress_bar=False,
        )
        mcmc.run(KEY, jnp.asarray(TABLE))
        return mcmc.get_samples()["x.missing"].shape

    assert run(True) == (1, 4, 3)
    with pytest.raises(ValueError) as refusal:
        run(None)
    assert "padded=True" in refusal.value.__notes__[0]


def test_the_whole_table_as_a_deterministic_site():
    def recorded():
        disco.sample("x", PRIOR, obs=TABLE, deterministic=True)

    trace = traced(recorded, {"x.missing": jnp.arange(6.0)})
    assert trace["x"]["type"] == "deterministic" and trace["x"]["value"].shape == (4, 3)


def test_a_partly_missing_vector_in_condition_is_refused():
    """NaN under stock `condition` would be a NaN log density; the call to use is named."""
    conditioned = handlers.condition(lambda: numpyro.sample("x", PRIOR), {"x": TABLE[0]})

    def with_another():
        conditioned()
        numpyro.sample("z", dist.Normal())

    with pytest.raises(ValueError, match=r"without NaN.*numpyro_disco.sample\(name, prior, obs="):
        started(with_another)
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite numbers inside of the support of 'x.a'"):
            started(handlers.condition(model, {"x.a": value}), PRIOR)


def test_tables_that_make_no_sense():
    with pytest.raises(ValueError, match=r"last axis of 3 for `obs`.*got shape \(4, 2\)"):
        latents(lambda: with_table(TABLE[:, :2]))
    with pytest.raises(ValueError, match="concrete table.*`padded=False`"):
        jax.jit(lambda table: disco.sample("x", PRIOR, obs=table, padded=False))(TABLE)
    with pytest.raises(ValueError, match="unclamped prior with `obs`"):
        latents(lambda: with_table(TABLE, PRIOR.clamp({"a": 0.0})))
    with pytest.raises(ValueError, match="finite numbers, or NaN"):
        latents(lambda: with_table(np.where(np.isnan(TABLE), np.inf, TABLE)))


def test_holes_are_not_drawn_forward():
    with pytest.raises(NotImplementedError, match="`numpyro_disco.impute`"):
        handlers.trace(handlers.seed(with_table, 0)).get_trace(TABLE)


def test_a_table_as_an_argument_of_tempered_smc():
    settings = dict(num_particles=64, num_chains=1, progress_bar=False)
    smc = disco.TemperedSMC(with_table, jit_model_args=False, **settings)
    smc.run(KEY, TABLE)
    completed = np.asarray(smc.get_samples()["completed"])
    assert completed.shape == (64, 4, 3)
    there = ~np.isnan(TABLE)
    expected = np.broadcast_to(TABLE.astype(np.float32)[there], (64, there.sum()))
    np.testing.assert_array_equal(completed[:, there], expected)
    assert (completed.std(0)[~there] > 0.1).all()


@pytest.mark.statistics
def test_the_evidence_of_a_padded_table_is_that_of_the_table():
    """Closed form: the log density of what is there under the Gaussian, plus log Z."""
    smc = disco.TemperedSMC(with_table, num_particles=1024, num_chains=8, progress_bar=False)
    log_z = 0.5 * np.linalg.slogdet(2 * np.pi * COVARIANCE)[1]

    def truth(table):
        total = 0.0
        for row in table:
            seen = ~np.isnan(row)
            if seen.any():
                covariance = COVARIANCE[np.ix_(seen, seen)]
                total += stats.multivariate_normal.logpdf(row[seen], MEAN[seen], covariance)
        return total + len(table) * log_z

    tables = TABLE, TABLE[::-1] + 0.5
    for key, table in enumerate(tables):
        smc.run(jax.random.key(key), table)
        ratio = np.exp(np.asarray(smc.log_normalizer, np.float64) - truth(table))
        estimate, error = mean_and_error(ratio)
        assert_within(estimate, 1.0, error, sigmas=7.4, resolution=0.2, label="evidence ratio")
    # The holes of the other table lie elsewhere, and its evidence is another.
    with pytest.raises(AssertionError, match="is off"):
        ratio = np.exp(np.asarray(smc.log_normalizer, np.float64) - truth(TABLE))
        estimate, error = mean_and_error(ratio)
        assert_within(estimate, 1.0, error, sigmas=7.4, resolution=np.inf, label="twin")


def conditional_means(table):
    """Closed-form means of a Gaussian's holes given the rest of their rows, in table order."""
    completed = table.copy()
    for row in completed:
        free, seen = np.isnan(row), ~np.isnan(row)
        gain = COVARIANCE[np.ix_(free, seen)] @ np.linalg.inv(COVARIANCE[np.ix_(seen, seen)])
        row[free] = MEAN[free] + gain @ (row - MEAN)[seen]
    return completed[np.isnan(table)]


def test_holes_of_a_gaussian_under_nuts():
    def holes(prior):
        disco.sample("x", prior, obs=TABLE)

    mcmc = MCMC(
        NUTS(holes),
        num_warmup=150,
        num_samples=500,
        num_chains=8,
        chain_method="vectorized",
        progress_bar=False,
        jit_model_args=True,
    )

    def check():
        draws = np.asarray(mcmc.get_samples(group_by_chain=True)["x.missing"], float)
        means = draws.mean(1)
        error = means.std(0, ddof=1) / np.sqrt(len(means))
        assert_within(
            means.mean(0),
            conditional_means(TABLE),
            error,
            resolution=0.8,
            sigmas=CHAIN_SIGMAS,
            label="conditional mean",
        )

    mcmc.run(KEY, PRIOR)
    check()
    flip = np.array([[1, -1, 1], [-1, 1, 1], [1, 1, 1]])
    mcmc.run(KEY, prior_of(precision=np.linalg.inv(COVARIANCE * flip)))
    with pytest.raises(AssertionError, match="is off"):
        check()


def test_a_coordinate_conditioned_on_a_latent_is_refused():
    """The normaliser of the free coordinates would depend on it."""

    def model():
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        with handlers.condition(data={"x.a": a}):
            disco.sample("x", gaussian_prior())

    with pytest.raises(ValueError, match="is being inferred"):
        initialize_model(jax.random.key(0), model)


def test_many_values_for_one_vector_are_refused():
    conditioned = handlers.condition(
        lambda: disco.sample("x", gaussian_prior()), {"x.a": jnp.arange(3.0)}
    )
    with pytest.raises(ValueError, match="Expected one number for 'x.a'.*plate"):
        initialize_model(jax.random.key(0), conditioned)


def test_do_outside_of_a_scope_leaves_no_flat_latent_behind():
    scoped = handlers.scope(lambda: disco.sample("x", gaussian_prior()), prefix="s")
    done = handlers.do(scoped, {"s/x.a": 0.3})
    latent = initialize_model(jax.random.key(0), done).param_info.z
    assert set(latent) == {"s/x.b"}


def test_condition_of_a_table_names_its_sites():
    table = jnp.array([[0.5, jnp.nan]])
    model = handlers.condition(lambda: disco.sample("x", gaussian_prior(), obs=table), {"x.b": 2.0})
    with pytest.raises(ValueError, match="its sites are .'x.missing'"):
        initialize_model(jax.random.key(0), model)


def gaussian_prior():
    reference = disco.GaussianReference(jnp.zeros(2), 9 * jnp.eye(2))
    return disco.EnergyDistribution(lambda x: 0.5 * x @ x, reference, names=("a", "b"))
