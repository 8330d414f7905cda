"""The names borrowed from NumPyro mean what this package relies on, one test for each."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import biject_to, constraints
from numpyro.infer import MCMC, NUTS, Predictive, init_to_median, init_to_sample, init_to_uniform
from numpyro.infer.util import initialize_model

from numpyro_disco import _numpyro

KEY = jax.random.key(0)


def model(y=0.4):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Normal(0.0, scale), obs=y)
    numpyro.deterministic("twice", 2 * scale)


# -- handlers ----------------------------------------------------------------------------------


def test_active_handlers_are_listed_from_the_outermost():
    assert _numpyro.active_handlers() == []
    with handlers.seed(rng_seed=0), numpyro.plate("rows", 3):
        outer, inner = _numpyro.active_handlers()
    assert isinstance(outer, handlers.seed) and isinstance(inner, numpyro.plate)
    assert _numpyro.active_handlers() == []


def test_other_handlers_are_inactive_inside_only_handlers():
    with handlers.trace() as trace, handlers.seed(rng_seed=0):
        with numpyro.plate("rows", 3):
            kept = [h for h in _numpyro.active_handlers() if not isinstance(h, numpyro.plate)]
            with _numpyro.only_handlers(kept):
                numpyro.sample("x", dist.Normal())
            numpyro.sample("y", dist.Normal())
    assert trace["x"]["value"].shape == () and trace["y"]["value"].shape == (3,)


def test_observing_handlers_use_the_scoped_name_of_a_site():
    found = []

    def inner():
        found.extend(_numpyro.handlers_that_observe("x"))

    conditioned = handlers.condition(inner, {"x": 1.0})
    scoped = handlers.scope(conditioned, prefix="s", divider=".")
    done = handlers.do(handlers.substitute(scoped, {"s.x": 2.0}), {"s.x": 3.0})
    done()
    assert [(type(h).__name__, h.data, name) for h, name in found] == [
        ("condition", {"x": 1.0}, "x"),
        ("do", {"s.x": 3.0}, "s.x"),
    ]


def test_active_plates_have_their_size_and_subsample_size():
    with handlers.seed(rng_seed=0), handlers.trace() as trace:
        with numpyro.plate("rows", 6, subsample_size=2, dim=-2):
            (plate,) = [h for h in _numpyro.active_handlers() if isinstance(h, numpyro.plate)]
    assert (plate.size, plate.subsample_size, plate.dim) == (6, 2, -2)
    assert trace["rows"]["args"][0] == 6 and len(trace["rows"]["value"]) == 2


# -- models ------------------------------------------------------------------------------------


def test_unconstrained_values_are_mapped_and_leave_their_jacobian_as_a_factor():
    substitute_fn = partial(_numpyro.unconstrain_reparam, {"scale": jnp.array(0.3)})
    seeded = handlers.seed(model, KEY)
    trace = handlers.trace(handlers.substitute(seeded, substitute_fn=substitute_fn)).get_trace()
    np.testing.assert_allclose(trace["scale"]["value"], np.exp(0.3), rtol=1e-6)
    factor = trace[_numpyro.jacobian_factor("scale")]
    np.testing.assert_allclose(factor["fn"].log_prob(factor["value"]), 0.3, rtol=1e-6)


def test_potential_energy_is_minus_the_log_joint_with_the_jacobian():
    u = jnp.array(0.3)
    scale = jnp.exp(u)
    log_joint = dist.HalfNormal(1.0).log_prob(scale) + dist.Normal(0.0, scale).log_prob(0.4) + u
    got = _numpyro.potential_energy(handlers.seed(model, KEY), (0.4,), {}, {"scale": u})
    np.testing.assert_allclose(got, -log_joint, rtol=1e-6)


def test_discrete_sites_are_summed_out_of_an_enumerated_model():
    pytest.importorskip("funsor")

    def switched():
        with numpyro.plate("rows", 2):
            z = numpyro.sample("z", dist.Bernoulli(0.3))
            numpyro.sample("y", dist.Normal(z, 1.0), obs=jnp.array([0.1, 0.8]))

    seeded = handlers.seed(switched, KEY)
    sites = handlers.trace(seeded).get_trace()
    got = _numpyro.potential_energy(_numpyro.enumerated(seeded, sites), (), {}, {}, enum=True)
    y = np.array([0.1, 0.8])
    parts = [np.log(p) + dist.Normal(z, 1.0).log_prob(y) for z, p in ((0, 0.7), (1, 0.3))]
    np.testing.assert_allclose(got, -jnp.logaddexp(*parts).sum(), rtol=1e-5)


def test_constrained_values_come_with_deterministic_sites():
    u = {"scale": jnp.zeros((2, 5))}
    seeded = handlers.seed(model, KEY)
    draws = _numpyro.constrain_fn(seeded, (), {}, u, return_deterministic=True, batch_ndims=2)
    np.testing.assert_allclose(draws["scale"], jnp.ones((2, 5)))
    np.testing.assert_allclose(draws["twice"], 2 * jnp.ones((2, 5)))


def test_a_site_without_a_bijection_is_named_in_the_error():
    site = {"name": "k", "type": "sample", "fn": dist.Poisson(1.0)}
    with pytest.raises(Exception, match="k"):
        with _numpyro.helpful_support_errors(site):
            biject_to(site["fn"].support)


def test_sites_in_a_scan_know_their_step():
    steps = []

    def step(carry, _):
        numpyro.sample("e", dist.Normal())
        return carry, None

    def spy(site):
        if site["type"] == "sample":
            steps.append(_numpyro.scan_step(site))
        return None

    def series():
        scan(step, 0.0, None, length=3)
        numpyro.sample("outside", dist.Normal())

    handlers.seed(handlers.substitute(series, substitute_fn=spy), KEY)()
    assert any(isinstance(found, jax.core.Tracer) for found in steps)
    assert steps[-1] is None


# -- distributions -----------------------------------------------------------------------------


def test_constraints_lose_their_event_axes():
    entry = _numpyro.event_constraint(dist.HalfNormal().expand([2, 3]).to_event(2).support)
    assert entry is constraints.positive
    assert _numpyro.event_constraint(constraints.real_vector) is constraints.real
    assert _numpyro.event_constraint(constraints.real) is constraints.real


def test_a_distribution_gets_another_batch_shape():
    normal = dist.Normal(jnp.zeros(3), 1.0)
    assert _numpyro.with_batch_shape(normal, (1, 3)) is normal
    assert normal.batch_shape == (1, 3)


def test_the_axis_along_which_leaves_are_stacked_becomes_a_batch_axis():
    stacked = jax.vmap(lambda loc: dist.Normal(loc, 1.0))(jnp.zeros(4))
    assert stacked.batch_shape == ()
    assert _numpyro.promote_batch_shape(stacked).batch_shape == (4,)


def test_values_outside_the_support_are_detected_if_validation_is_on():
    class Positive(dist.Distribution):
        support = constraints.positive

        @_numpyro.validate_sample
        def log_prob(self, value):
            return -value

    with pytest.warns(UserWarning, match="Out-of-support"):
        Positive(validate_args=True).log_prob(jnp.array(-1.0))


# -- samplers ----------------------------------------------------------------------------------


def test_model_and_arguments_of_a_finished_sampler():
    mcmc = MCMC(NUTS(model), num_warmup=2, num_samples=2, progress_bar=False)
    mcmc.run(KEY, y=0.7)
    assert _numpyro.model_and_arguments(mcmc) == (model, (), {"y": 0.7})
    flat = MCMC(NUTS(potential_fn=lambda x: x**2), num_warmup=2, num_samples=2, progress_bar=False)
    flat.run(KEY, init_params=jnp.array(0.1))
    assert _numpyro.model_and_arguments(flat)[0] is None


def test_stored_draws_are_what_an_mcmc_returns():
    mcmc = MCMC(
        _numpyro.ModelHolder(model),
        num_warmup=0,
        num_samples=3,
        num_chains=2,
        chain_method="vectorized",
    )
    draws, energy = {"scale": jnp.arange(6.0).reshape(2, 3)}, jnp.ones((2, 3))
    _numpyro.store_draws(mcmc, (0.4,), {}, draws, {"potential_energy": energy})
    np.testing.assert_array_equal(mcmc.get_samples()["scale"], jnp.arange(6.0))
    np.testing.assert_array_equal(mcmc.get_samples(group_by_chain=True)["scale"], draws["scale"])
    assert set(mcmc.get_extra_fields()) == {"potential_energy"}
    assert _numpyro.model_and_arguments(mcmc) == (model, (0.4,), {})
    # A second run replaces the flattened draws of the first.
    _numpyro.store_draws(mcmc, (), {}, {"scale": jnp.zeros((2, 3))}, {})
    np.testing.assert_array_equal(mcmc.get_samples()["scale"], jnp.zeros(6))


def test_leaves_have_one_order_in_every_process():
    code = (
        "from numpyro_disco import EnergyDistribution, MixtureReference;"
        "kinds = MixtureReference, EnergyDistribution;"
        "print(*(kind.gather_pytree_data_fields() for kind in kinds))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2)
    }
    assert len(printed) == 1 and "log_weights" in printed.pop()


@pytest.mark.parametrize("strategy", [init_to_uniform, init_to_median, init_to_sample])
def test_a_sampler_that_chooses_a_start_is_told_from_simulation(strategy):
    found = []

    def model():
        found.append(_numpyro.chooses_start(jax.random.key(0)))

    initialize_model(jax.random.key(0), model, init_strategy=strategy)
    assert found[0]
    found.clear()
    Predictive(model, {"z": jnp.zeros(3)})(jax.random.key(0))
    Predictive(model, num_samples=2)(jax.random.key(0))
    model()
    assert not any(found)


def test_plates_are_found_while_discrete_sites_are_enumerated():
    found = []

    def model():
        with numpyro.plate("rows", 3):
            found.append([(plate.name, plate.dim) for plate in _numpyro.active_plates()])
            numpyro.sample("z", dist.Bernoulli(0.3))

    seeded = handlers.seed(model, KEY)
    sites = handlers.trace(seeded).get_trace()
    _numpyro.potential_energy(_numpyro.enumerated(seeded, sites), (), {}, {}, enum=True)
    assert found == [[("rows", -1)]] * 2
