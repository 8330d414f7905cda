"""Sites of a prior over variables with shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from helpers.variables import draws_of_variables, variables_prior
from numpyro import handlers
from numpyro.infer import Predictive
from numpyro.infer.util import initialize_model, log_density

import numpyro_disco as disco

PRIOR = variables_prior()
DRAWS = draws_of_variables(4)
POINT = {name: value[0] for name, value in DRAWS.items()}
SITES = {f"theta.{name}": value for name, value in POINT.items()}


def model(prior=PRIOR, **options):
    return disco.sample("theta", prior, **options)


def trace_of(model, **kwargs):
    seeded = handlers.seed(model, jax.random.key(0))
    started = handlers.substitute(seeded, substitute_fn=numpyro.infer.init_to_uniform)
    return handlers.trace(started).get_trace(**kwargs)


def values_of(trace):
    return {name: site["value"] for name, site in trace.items() if site["type"] == "sample"}


def test_each_variable_is_a_site_of_its_own_shape():
    trace = trace_of(model)
    shapes = {name: jnp.shape(value) for name, value in values_of(trace).items()}
    assert shapes == {
        "theta.b": (2,),
        "theta.s2": (),
        "theta.p": (3,),
        "theta.L": (2, 2),
        "theta.log_prob": (0,),
    }
    returned = handlers.substitute(handlers.seed(model, jax.random.key(0)), SITES)()
    assert list(returned) == ["b", "s2", "p", "L"]
    for name, value in POINT.items():
        np.testing.assert_array_equal(returned[name], value)


def test_the_joint_density_is_that_of_the_prior():
    log_joint, _ = log_density(model, (), {}, SITES)
    np.testing.assert_allclose(log_joint, PRIOR.log_prob(POINT), rtol=1e-6)


def test_elements_that_are_given_split_their_variable():
    conditioned = handlers.condition(model, {"theta.b[0]": 0.3})
    values = values_of(trace_of(conditioned))
    assert {"theta.b[0]", "theta.b[1]", "theta.p"} < set(values) and "theta.b" not in values
    recorded = trace_of(conditioned, deterministic=True)["theta.b"]
    assert recorded["type"] == "deterministic" and recorded["value"].shape == (2,)
    np.testing.assert_allclose(recorded["value"][0], 0.3, rtol=1e-6)


def test_whole_variables_are_given():
    given = {"theta.b": POINT["b"], "theta.p": POINT["p"]}
    for handler in (handlers.condition, handlers.do):
        trace = trace_of(handler(model, data=given))
        assert "theta.b[0]" not in trace and trace["theta.p"]["is_observed"]
    conditioned = handlers.condition(model, given)
    rest = {name: value for name, value in SITES.items() if name not in given}
    log_joint, _ = log_density(conditioned, (), {}, rest)
    np.testing.assert_allclose(log_joint, PRIOR.log_prob(POINT), rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"theta.p[0]": 0.2}, "coupled by its support \\(simplex\\)"),
        ({"theta.p.unconstrained[0]": 0.2}, "coupled by its support \\(simplex\\)"),
        ({"theta.b": 0.2}, r"array of shape \(2,\) for 'theta.b'"),
        ({"theta.b": jnp.ones((5, 2))}, "one array of shape .* into a plate"),
        ({"theta.b": jnp.array([0.2, jnp.nan])}, "finite numbers inside the support of 'theta.b'"),
        ({"theta.p": jnp.array([0.2, 0.2, 0.2])}, "inside the support of 'theta.p'"),
        ({"theta.b": POINT["b"], "theta.b[0]": 0.2}, "whole or by its elements"),
    ],
)
def test_what_cannot_be_given_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        trace_of(handlers.condition(model, given))


def test_an_unknown_name_may_be_a_site_of_the_users_own():
    with pytest.warns(UserWarning, match="'theta.c', which is not a site of 'theta'"):
        trace_of(handlers.condition(model, {"theta.c": 0.2}))


def test_clamped_elements_have_no_site():
    clamped = PRIOR.clamp({"b": [0.3, np.nan], "p": POINT["p"]})
    trace = trace_of(lambda: model(clamped))
    values = values_of(trace)
    assert set(values) == {"theta.b[1]", "theta.s2", "theta.L", "theta.log_prob"}
    assert np.isfinite(trace["theta.log_prob"]["fn"].log_factor)
    sites = disco.site_values("theta", clamped, DRAWS)
    assert {name: value.shape for name, value in sites.items()} == {
        "theta.b[1]": (4,),
        "theta.s2": (4,),
        "theta.L": (4, 2, 2),
    }


def test_site_values_take_dicts_and_vectors():
    x = PRIOR.variables.pack(DRAWS)
    for given in (x, DRAWS):
        sites = disco.site_values("theta", PRIOR, given)
        for name, value in DRAWS.items():
            np.testing.assert_allclose(sites[f"theta.{name}"], value, atol=1e-6)
    drawn = Predictive(model, disco.site_values("theta", PRIOR, DRAWS))(jax.random.key(0))
    assert drawn["theta.log_prob"].shape[0] == 4


def test_members_of_a_plate_have_variables_of_their_own():
    def many():
        with numpyro.plate("members", 3):
            return disco.sample("theta", PRIOR)

    three = {name: jnp.asarray(value[:3]) for name, value in DRAWS.items()}
    sites = {f"theta.{name}": value for name, value in three.items()}
    returned = handlers.substitute(handlers.seed(many, jax.random.key(0)), sites)()
    assert returned["L"].shape == (3, 2, 2)
    log_joint, _ = log_density(many, (), {}, sites)
    np.testing.assert_allclose(log_joint, PRIOR.log_prob(three).sum(), rtol=1e-5)


def test_samplers_start_at_the_location():
    for strategy in (numpyro.infer.init_to_median(), numpyro.infer.init_to_feasible()):
        info = initialize_model(jax.random.key(0), model, init_strategy=strategy)
        assert {name: z.shape for name, z in info.param_info.z.items()} == {
            "theta.b": (2,),
            "theta.s2": (),
            "theta.p": (2,),
            "theta.L": (1,),
        }
        assert np.isfinite(info.param_info.potential_energy)


def test_rows_with_missing_entries_come_back_as_variables():
    names = ("b", "s2")
    variables = PRIOR.variables
    plain = type(variables)(tuple(variables[name] for name in names))
    q = disco.GaussianReference(jnp.zeros(3), jnp.eye(3))
    prior = disco.EnergyDistribution(lambda x: 0.5 * (x @ x), q, names=plain.names)
    prior = prior.replace(variables=plain)
    rows = {"b": np.array([[0.1, np.nan], [0.2, 0.3]]), "s2": np.array([1.0, np.nan])}
    trace = trace_of(lambda: disco.sample("x", prior, obs=rows, deterministic=True))
    assert trace["x.missing"]["value"].shape == (2,)
    completed = trace["x.b"]["value"]
    np.testing.assert_allclose(completed[1], [0.2, 0.3], rtol=1e-6)
    assert np.isfinite(completed).all() and trace["x.s2"]["value"].shape == (2,)
    with pytest.raises(ValueError, match=r"joint supports with `obs`; \['p', 'L'\] have"):
        trace_of(lambda: disco.sample("x", PRIOR, obs=DRAWS))
