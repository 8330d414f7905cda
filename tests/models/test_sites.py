"""`disco.sample` inside NumPyro models: its sites, and what NumPyro makes of them.

What a sampler would start from is read with `initialize_model`, which NUTS itself calls, and the
potential energy that it returns is compared with a formula. Tables are in `test_missing.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.models import KEY, latents, started, traced
from helpers.three_coordinates import (
    AT_POINT,
    NAMES,
    POINT,
    PRIOR,
    model,
    prior_of,
)
from numpyro import handlers
from numpyro.infer import (
    Predictive,
    init_to_median,
    init_to_sample,
    init_to_uniform,
    init_to_value,
    log_likelihood,
)
from numpyro.infer.inspect import get_model_relations
from numpyro.infer.util import initialize_model

import numpyro_disco as disco


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


def test_a_distribution_that_is_not_learned_is_refused():
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


# -- handlers -----------------------------------------------------------------------------------


def test_running_forward_names_the_remedy():
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
    return jax.jit(info.potential_fn(*args))(unconstrained)


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


@pytest.mark.parametrize("name", ["x.z", "x.A", "x.a.b"])
def test_conditioning_on_an_unknown_coordinate(name):
    with pytest.warns(UserWarning, match=rf"{name}'.*not a site of 'x'.*'x.a', 'x.b', 'x.c'"):
        latents(handlers.condition(model, {name: 0.2}))


def test_conditioning_on_the_prefix():
    with pytest.raises(ValueError, match="'x', which is not a site of 'x'.*'x.a', 'x.b', 'x.c'"):
        latents(handlers.condition(model, {"x": jnp.zeros(3)}))


def test_conditioning_on_a_clamped_coordinate():
    clamped = PRIOR.clamp({"b": 0.2})
    with pytest.raises(ValueError, match=r"names 'x.b', which is not a site.*\['x.a', 'x.c'\]"):
        latents(handlers.condition(model, {"x.b": 0.2}), clamped)


def test_a_coordinate_conditioned_on_a_latent_is_refused():
    """The normaliser of the free coordinates would depend on it."""

    def model():
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        with handlers.condition(data={"x.a": a}):
            disco.sample("x", PRIOR)

    with pytest.raises(ValueError, match="is being inferred"):
        initialize_model(jax.random.key(0), model)


def test_many_values_for_one_vector_are_refused():
    conditioned = handlers.condition(lambda: disco.sample("x", PRIOR), {"x.a": jnp.arange(3.0)})
    with pytest.raises(ValueError, match="Expected one number for 'x.a'.*plate"):
        initialize_model(jax.random.key(0), conditioned)


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


def test_do_outside_of_a_scope_leaves_no_flat_latent_behind():
    scoped = handlers.scope(lambda: disco.sample("x", PRIOR), prefix="s")
    done = handlers.do(scoped, {"s/x.a": 0.3})
    latent = initialize_model(jax.random.key(0), done).param_info.z
    assert set(latent) == {"s/x.b", "s/x.c"}


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


# -- plates -------------------------------------------------------------------------------------


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


# -- one vector site ----------------------------------------------------------------------------


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
    got = jax.jit(info.potential_fn(clamped))({"x": u})
    expected = -(PRIOR.log_prob(POINT) + jnp.log(PRIOR.scale[free]).sum())
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    # Whole vectors come back, clamped coordinates at their values.
    whole = info.postprocess_fn(clamped)({"x": u})["x"]
    np.testing.assert_allclose(whole, POINT, rtol=1e-5)


# -- where samplers start -----------------------------------------------------------------------


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
