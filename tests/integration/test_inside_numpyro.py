"""What works with a built-in distribution works with a learned prior, or raises and says why not.

`docs/inside_numpyro.md` lists NumPyro's features; each of its rows names a test, here or in
`test_sites.py`. Where the claim is about a model, its density and gradients are compared with a
formula, exactly. Chains are run where the claim is about a kernel. The energies are Gaussian, so
that every posterior is known.
"""

import os
import subprocess
import sys
import textwrap
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.statistics import assert_within, mean_and_error
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import transforms
from numpyro.infer import (
    AIES,
    ESS,
    HMC,
    HMCECS,
    MCMC,
    NUTS,
    SA,
    SVI,
    BarkerMH,
    DiscreteHMCGibbs,
    HMCGibbs,
    MixedHMC,
    Predictive,
    Trace_ELBO,
    init_to_feasible,
    init_to_mean,
    init_to_sample,
    init_to_uniform,
    init_to_value,
    log_likelihood,
)
from numpyro.infer.autoguide import (
    AutoBNAFNormal,
    AutoDelta,
    AutoLaplaceApproximation,
    AutoMultivariateNormal,
)
from numpyro.infer.inspect import get_model_relations
from numpyro.infer.reparam import (
    ExplicitReparam,
    LocScaleReparam,
    NeuTraReparam,
    TransformReparam,
)
from numpyro.infer.util import initialize_model, log_density
from scipy.special import logsumexp

import numpyro_disco as disco

KEY = jax.random.key(5)
NAMES = ("a", "b")
MEAN = np.array([0.5, -0.3])
COVARIANCE = np.array([[1.0, 0.6], [0.6, 1.5]])
NOISE = 0.5
POINT = jnp.array([0.1, 0.7])
Y = 2.0


def energy(parameters, x):
    mean, precision = parameters
    return 0.5 * (x - mean) @ precision @ (x - mean)


def prior_of(mean=MEAN, covariance=COVARIANCE):
    parameters = (jnp.asarray(mean), jnp.asarray(np.linalg.inv(covariance)))
    # Neither zero nor one, so that a forgotten unit shows.
    reference = disco.GaussianReference(np.array([0.2, -0.1]), np.diag([4.0, 2.25]))
    return disco.EnergyDistribution(
        jax.tree_util.Partial(energy, parameters), reference, names=NAMES
    )


PRIOR = prior_of()
# Of the correlation with its sign flipped: what the broken twins have for a prior.
TWIN = prior_of(covariance=COVARIANCE * np.array([[1, -1], [-1, 1]]))
LOG_Z = float(0.5 * np.linalg.slogdet(2 * np.pi * COVARIANCE)[1])


def put(name, prior, vector):
    """The two ways in: a site for each coordinate, or one vector site."""
    return numpyro.sample(name, prior) if vector else disco.sample(name, prior)


def sites_of(name, x, vector):
    return {name: x} if vector else disco.site_values(name, PRIOR, x)


def standardized(name, x, vector, prior=PRIOR):
    """What a sampler moves."""
    u = (x - prior.loc) / prior.scale
    return {name: u} if vector else disco.site_values(name, prior, u)


LOG_SCALES = float(jnp.log(PRIOR.scale).sum())
both_ways = pytest.mark.parametrize("vector", [False, True], ids=["coordinates", "vector"])


def model(prior=PRIOR, y=Y, vector=False):
    x = put("x", prior, vector)
    numpyro.sample("y", dist.Normal(x[..., 0], NOISE), obs=y)


def potential(model, *args, **kwargs):
    """The potential energy that NumPyro's samplers see, once they have found where to start."""
    info = initialize_model(KEY, model, model_args=args, model_kwargs=kwargs, dynamic_args=True)
    assert np.isfinite(info.param_info.potential_energy)
    return info.potential_fn(*args, **kwargs)


def assert_same(got, expected, at, other=None):
    """Two functions agree at a point, and so do their gradients; a broken one does not."""
    value, gradient = jax.value_and_grad(got)(at)
    true_value, true_gradient = jax.value_and_grad(expected)(at)
    np.testing.assert_allclose(value, true_value, rtol=2e-5)
    assert gradient.keys() == true_gradient.keys()
    for name, entry in gradient.items():
        np.testing.assert_allclose(entry, true_gradient[name], rtol=2e-4, atol=2e-5, err_msg=name)
    if other is not None:
        assert abs(other(at) - value) > 0.01


def posterior(y=Y, mean=MEAN, covariance=COVARIANCE):
    """Mean and covariance of x given y = x_a + noise, and the log density of y."""
    variance = covariance[0, 0] + NOISE**2
    gain = covariance[:, 0] / variance
    evidence = -0.5 * ((y - mean[0]) ** 2 / variance + np.log(2 * np.pi * variance))
    return mean + gain * (y - mean[0]), covariance - np.outer(gain, covariance[0]), evidence


# -- densities ---------------------------------------------------------------------------------


@both_ways
def test_log_density_compiled_and_mapped_with_the_prior_as_an_argument(vector):
    def joint(prior, x):
        return log_density(model, (prior,), {"vector": vector}, sites_of("x", x, vector))[0]

    def expected(prior, x):
        return prior.log_prob(x) + dist.Normal(x[0], NOISE).log_prob(Y)

    points = jax.random.normal(KEY, (4, 2))
    mapped = jax.jit(jax.vmap(joint, in_axes=(None, 0)))
    for prior in (PRIOR, TWIN):
        np.testing.assert_allclose(
            mapped(prior, points), jax.vmap(expected, in_axes=(None, 0))(prior, points), rtol=1e-5
        )
    assert (np.abs(mapped(PRIOR, points) - mapped(TWIN, points)) > 0.01).any()


def test_priors_can_be_mapped_over():
    """A stack of priors, as `jax.vmap` makes it, gives each point its own weights."""
    means = jnp.array([[0.5, -0.3], [1.0, 0.0], [-2.0, 0.4]])
    priors = [prior_of(mean) for mean in means]
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *priors)
    points = jax.random.normal(KEY, (3, 2))
    expected = [prior.log_prob(x) for prior, x in zip(priors, points, strict=True)]
    mapped = jax.vmap(lambda prior, x: prior.log_prob(x))(stack, points)
    np.testing.assert_allclose(mapped, expected, rtol=1e-5)
    # Without a map around it, as for NumPyro's own distributions.
    np.testing.assert_allclose(stack.log_prob(points), expected, rtol=1e-5)
    scores = [prior.score(x) for prior, x in zip(priors, points, strict=True)]
    np.testing.assert_allclose(stack.score(points), scores, rtol=1e-5, atol=1e-6)


def unknown_map():
    loc = numpyro.sample("loc", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    return loc, numpyro.sample("scale", dist.LogNormal(0.0, 0.5))


def of_unknown_map(u):
    """Log density of `unknown_map` in unconstrained space, location and scale."""
    scale = jnp.exp(u["scale"])
    log_prob = dist.Normal(0.0, 3.0).log_prob(u["loc"]).sum()
    return log_prob + dist.LogNormal(0.0, 0.5).log_prob(scale) + u["scale"], u["loc"], scale


UNKNOWN_MAP = {"loc": jnp.array([0.3, -0.2]), "scale": jnp.array(0.4)}


@both_ways
def test_a_draw_under_an_unknown_location_and_scale(vector):
    """Non-centred: the prior is over x, and the data are of loc + scale x."""

    def hierarchy(prior):
        loc, scale = unknown_map()
        w = loc + scale * put("x", prior, vector)
        numpyro.sample("y", dist.Normal(w[..., 0], NOISE), obs=Y)

    def expected(u, prior=PRIOR):
        log_prob, loc, scale = of_unknown_map(u)
        x = u["x"] if vector else jnp.stack([u["x.a"], u["x.b"]])
        x = prior.loc + prior.scale * x
        w = loc + scale * x
        log_prob += prior.log_prob(x) + LOG_SCALES
        return -(log_prob + dist.Normal(w[0], NOISE).log_prob(Y))

    at = UNKNOWN_MAP | standardized("x", POINT, vector)
    assert_same(potential(hierarchy, PRIOR), expected, at, lambda u: expected(u, TWIN))


def transformed(prior):
    """Centred: the density of w = loc + scale x, whose normaliser depends on neither."""
    loc, scale = unknown_map()
    affine = transforms.AffineTransform(loc, scale)
    return numpyro.sample("w", dist.TransformedDistribution(prior, affine))


def of_transformed(u, w, jacobian=True):
    log_prob, loc, scale = of_unknown_map(u)
    log_prob += PRIOR.log_prob((w - loc) / scale)
    return -(log_prob - 2 * jnp.log(scale) if jacobian else log_prob)


def test_an_affine_map_with_inferred_parameters_as_a_likelihood():
    observed = handlers.condition(transformed, {"w": POINT})
    got = potential(observed, PRIOR)
    assert_same(
        got,
        lambda u: of_transformed(u, POINT),
        UNKNOWN_MAP,
        lambda u: of_transformed(u, POINT, jacobian=False),
    )


def test_an_affine_map_with_inferred_parameters_of_a_latent():
    at = UNKNOWN_MAP | {"w": POINT}
    assert_same(
        potential(transformed, PRIOR),
        lambda u: of_transformed(u, u["w"]),
        at,
        lambda u: of_transformed(u, u["w"], jacobian=False),
    )


@pytest.mark.parametrize("what", ["energy", "temperature"])
def test_weights_that_are_inferred_are_refused(what):
    """The other side of the same coin: here the normaliser does depend on the unknown."""

    def weighted():
        w = numpyro.sample("w", dist.LogNormal())
        prior = PRIOR.temper(w)
        if what == "energy":
            parameters = jax.tree.map(lambda leaf: w * leaf, PRIOR.energy_fn)
            prior = PRIOR.replace(energy_fn=parameters)
        affine = transforms.AffineTransform(jnp.ones(2), 2.0)
        numpyro.sample("x", dist.TransformedDistribution(prior, affine))

    with pytest.raises(ValueError, match="is being inferred"):
        initialize_model(KEY, weighted)


# -- discrete latents --------------------------------------------------------------------------

SHIFT, WEIGHT = 1.5, 0.3


def switched(prior=PRIOR, vector=False):
    z = numpyro.sample("z", dist.Bernoulli(WEIGHT))
    x = put("x", prior, vector)
    numpyro.sample("y", dist.Normal(x[..., 0] + SHIFT * z, NOISE), obs=Y)


def posterior_switched():
    """Probability of z, and mean of x, given y."""
    states = [posterior(Y), posterior(Y - SHIFT)]
    log_joint = np.log([1 - WEIGHT, WEIGHT]) + [evidence for *_, evidence in states]
    weights = np.exp(log_joint - logsumexp(log_joint))
    return np.array([weights[1], *(weights @ [mean for mean, *_ in states])])


@both_ways
def test_a_discrete_latent_is_summed_out_beside_an_energy(vector):
    def plated(prior, y):
        w = numpyro.sample("w", dist.Beta(2.0, 3.0))
        with numpyro.plate("rows", 3):
            z = numpyro.sample("z", dist.Bernoulli(w), infer={"enumerate": "parallel"})
            x = put("x", prior, vector)
            numpyro.sample("y", dist.Normal(x[..., 0] + SHIFT * z, NOISE), obs=y)

    y = jnp.array([0.0, 2.0, 1.0])
    x = jax.random.normal(KEY, (3, 2))

    def expected(u, prior=PRIOR):
        w = jax.nn.sigmoid(u["w"])
        x = u["x"] if vector else jnp.stack([u["x.a"], u["x.b"]], axis=-1)
        x = prior.loc + prior.scale * x
        log_prob = dist.Beta(2.0, 3.0).log_prob(w) + jnp.log(w * (1 - w))
        log_prob += prior.log_prob(x).sum() + 3 * LOG_SCALES
        off = jnp.log1p(-w) + dist.Normal(x[:, 0], NOISE).log_prob(y)
        on = jnp.log(w) + dist.Normal(x[:, 0] + SHIFT, NOISE).log_prob(y)
        return -(log_prob + jnp.logaddexp(off, on).sum())

    at = {"w": jnp.array(0.2)} | standardized("x", x, vector)
    assert_same(potential(plated, PRIOR, y), expected, at, lambda u: expected(u, TWIN))


# -- handlers ----------------------------------------------------------------------------------


@both_ways
def test_reparameterising_another_site(vector):
    def centred(prior):
        x = put("x", prior, vector)
        t = numpyro.sample("t", dist.Normal(x[..., 0], 0.3))
        numpyro.sample("y", dist.Normal(t, NOISE), obs=Y)

    def expected(u, prior=PRIOR):
        x = u["x"] if vector else jnp.stack([u["x.a"], u["x.b"]])
        x = prior.loc + prior.scale * x
        log_prob = prior.log_prob(x) + LOG_SCALES + dist.Normal(0, 1).log_prob(u["t_decentered"])
        t = x[0] + 0.3 * u["t_decentered"]
        return -(log_prob + dist.Normal(t, NOISE).log_prob(Y))

    got = potential(handlers.reparam(centred, {"t": LocScaleReparam(0)}), PRIOR)
    at = {"t_decentered": jnp.array(0.7)} | standardized("x", POINT, vector)
    assert_same(got, expected, at, lambda u: expected(u, TWIN))


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (LocScaleReparam(0), "only supports distributions with real support.*Standardized"),
        (TransformReparam(), "does not automatically work with .*TransformedDistribution"),
    ],
)
@both_ways
def test_reparameterisations_that_know_no_energy_say_so(strategy, message, vector):
    reparameterised = handlers.reparam(model, {"x" if vector else "x.a": strategy})
    with pytest.raises(ValueError, match=message):
        initialize_model(KEY, reparameterised, model_kwargs={"vector": vector})


def test_reparameterising_by_an_explicit_transform():
    # The base is 1 + 2 x; the Jacobian is a constant, but it is there.
    explicit = ExplicitReparam(transforms.AffineTransform(1.0, 2.0))
    got = potential(handlers.reparam(model, {"x": explicit}), vector=True)

    def expected(u, stretch=2.0):
        x = (u["x_base"] - 1.0) / 2.0
        log_prob = PRIOR.log_prob(x) + dist.Normal(x[0], NOISE).log_prob(Y)
        return -(log_prob - 2 * np.log(stretch))

    assert_same(got, expected, {"x_base": 1.0 + 2.0 * POINT}, lambda u: expected(u, 1.0))


def test_reparameterising_a_transformed_prior():
    """What is centred becomes non-centred: the prior's own x is what a sampler moves."""
    got = potential(handlers.reparam(transformed, {"w": TransformReparam()}), PRIOR)

    def expected(u, prior=PRIOR):
        x = prior.loc + prior.scale * u["w_base"]
        return -(of_unknown_map(u)[0] + prior.log_prob(x) + LOG_SCALES)

    at = UNKNOWN_MAP | standardized("w_base", POINT, True)
    assert_same(got, expected, at, lambda u: expected(u, TWIN))


@both_ways
def test_neural_transport(vector):
    start = sites_of("x", jnp.array([0.4, 0.1]), vector)
    guide = AutoMultivariateNormal(model, init_loc_fn=init_to_value(values=start))
    svi = SVI(model, guide, numpyro.optim.Adam(0.1), Trace_ELBO())
    params = svi.get_params(svi.init(KEY, vector=vector))
    neutra = NeuTraReparam(guide, params)
    transported = potential(neutra.reparam(model), vector=vector)
    plain = potential(model, vector=vector)
    z = jnp.array([0.6, -1.1])
    u = params["auto_loc"] + params["auto_scale_tril"] @ z
    u = {"x": u} if vector else {"x.a": u[0], "x.b": u[1]}
    log_det = jnp.log(jnp.diag(params["auto_scale_tril"])).sum()
    np.testing.assert_allclose(
        transported({"auto_shared_latent": z}), plain(u) - log_det, rtol=1e-5
    )


def test_a_parameter_lifted_to_a_learned_prior():
    def with_parameter():
        w = numpyro.param("w", jnp.zeros(2))
        numpyro.sample("y", dist.Normal(w[0], NOISE), obs=Y)

    got = potential(handlers.lift(with_parameter, {"w": PRIOR}))
    at = standardized("w", POINT, True)
    expected = -(PRIOR.log_prob(POINT) + LOG_SCALES + dist.Normal(POINT[0], NOISE).log_prob(Y))
    np.testing.assert_allclose(got(at), expected, rtol=1e-5)


def test_conjugate_sites_collapse_beside_an_energy():
    def conjugate():
        x = disco.sample("x", PRIOR)
        with handlers.collapse():
            w = numpyro.sample("w", dist.Beta(2.0, 3.0))
            numpyro.sample("k", dist.Binomial(5, probs=w), obs=jnp.array(4))
        numpyro.sample("y", dist.Normal(x[..., 0], NOISE), obs=Y)

    log_prob = PRIOR.log_prob(POINT) + dist.Normal(POINT[0], NOISE).log_prob(Y) + LOG_SCALES
    log_prob += dist.BetaBinomial(2.0, 3.0, 5).log_prob(4)
    got = potential(conjugate)(standardized("x", POINT, False))
    np.testing.assert_allclose(got, -log_prob, rtol=1e-5)


# -- time series -------------------------------------------------------------------------------

SERIES = jnp.array([0.1, 0.5, 1.0, 0.3, -0.2])
INNOVATIONS = jax.random.normal(jax.random.key(1), (5, 2))


def series(prior, y, vector=False, length=5):
    """A level that forgets, moved by innovations from the prior and seen in its first entry."""

    def step(level, seen):
        level = 0.8 * level + put("e", prior, vector)
        numpyro.sample("y", dist.Normal(level[..., 0], NOISE), obs=seen)
        return level, level

    _, levels = scan(step, jnp.zeros(2), y, length=length)
    return levels


def unrolled(u, vector, forget=0.8):
    """The same as a plain loop."""
    e = u["e"] if vector else jnp.stack([u["e.a"], u["e.b"]], axis=-1)
    e = PRIOR.loc + PRIOR.scale * e
    level, log_prob = jnp.zeros(2), len(SERIES) * LOG_SCALES
    for innovation, seen in zip(e, SERIES, strict=True):
        level = forget * level + innovation
        log_prob += PRIOR.log_prob(innovation) + dist.Normal(level[0], NOISE).log_prob(seen)
    return -log_prob


@both_ways
def test_innovations_of_a_scan(vector):
    got = potential(series, PRIOR, SERIES, vector)
    at = standardized("e", INNOVATIONS, vector)
    assert_same(got, lambda u: unrolled(u, vector), at, lambda u: unrolled(u, vector, forget=0.7))


def test_an_energy_of_elementwise_weights_in_a_scan():
    """`scan` stacks the weights along time; here their shapes would broadcast in silence."""

    def elementwise(weights, x):
        return jnp.sum(weights * x**2)

    weights = jax.tree_util.Partial(elementwise, jnp.array([0.5, 2.0]))
    prior = disco.EnergyDistribution(weights, PRIOR.reference, names=NAMES)
    innovations = {"e": INNOVATIONS}
    joint = log_density(series, (prior, SERIES, True), {}, innovations)[0]
    of_series = log_density(series, (PRIOR, SERIES, True), {}, innovations)[0]
    expected = of_series - PRIOR.log_prob(INNOVATIONS).sum() + prior.log_prob(INNOVATIONS).sum()
    np.testing.assert_allclose(joint, expected, rtol=1e-5)


@both_ways
def test_a_plate_inside_of_a_scan(vector):
    def panel(prior):
        def step(level, _):
            with numpyro.plate("members", 3):
                return level + put("e", prior, vector), None

        scan(step, jnp.zeros((3, 2)), None, length=4)

    x = jax.random.normal(KEY, (4, 3, 2))
    got = potential(panel, PRIOR)(standardized("e", x, vector))
    expected = -(PRIOR.log_prob(x).sum() + 12 * LOG_SCALES)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@both_ways
def test_a_prior_clamped_anew_at_each_step_of_a_scan(vector):
    def given(a):
        def step(total, a):
            return total + put("e", PRIOR.clamp({"a": a}), vector)[..., 1], None

        scan(step, 0.0, a)

    u = standardized("e", INNOVATIONS, True)["e"][:, 1]
    at = {"e": u[:, None]} if vector else {"e.b": u}
    got = potential(given, INNOVATIONS[:, 0])(at)
    expected = -(PRIOR.log_prob(INNOVATIONS).sum() + 5 * jnp.log(PRIOR.scale[1]))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_prior_clamped_to_the_carry_of_a_scan_is_refused():
    def chained():
        def step(b, _):
            return disco.sample("e", PRIOR.clamp({"a": b}))[..., 1], None

        scan(step, 0.0, None, length=3)

    with pytest.raises(ValueError, match="is being inferred"):
        initialize_model(KEY, chained)


def test_conditioning_on_a_coordinate_along_a_scan():
    known = handlers.condition(series, {"e.a": INNOVATIONS[:, 0]})
    got = potential(known, PRIOR, SERIES, False)
    at = standardized("e", INNOVATIONS, False)
    # The Jacobian of the coordinate that is known is not there.
    expected = unrolled(at, False) + 5 * jnp.log(PRIOR.scale[0])
    np.testing.assert_allclose(got({"e.b": at["e.b"]}), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="'e.z'.*not a site of 'e'"):
        potential(handlers.condition(series, {"e.z": SERIES}), PRIOR, SERIES, False)


@both_ways
def test_likelihood_along_a_scan(vector):
    innovations = jnp.stack([INNOVATIONS, 2 * INNOVATIONS])
    found = log_likelihood(
        series, sites_of("e", innovations, vector), PRIOR, SERIES, vector=vector
    )["y"]
    forget = 0.8 ** np.abs(np.subtract.outer(range(5), range(5)))
    levels = np.tril(forget) @ np.asarray(innovations[..., 0]).T
    truth = dist.Normal(levels.T, NOISE).log_prob(SERIES)
    np.testing.assert_allclose(found, truth, rtol=1e-4, atol=1e-5)


@pytest.mark.statistics
def test_a_forecast_draws_from_a_vector_site_and_says_why_not_from_coordinates():
    def predict(vector):
        innovations = sites_of("e", jnp.stack([INNOVATIONS, 2 * INNOVATIONS]), vector)
        return Predictive(series, innovations)(KEY, PRIOR, None, vector, length=6)

    forecast = predict(True)["y"]
    assert forecast.shape == (2, 6) and np.isfinite(forecast).all()
    with pytest.raises(NotImplementedError, match="'a'.*cannot be drawn on its own"):
        predict(False)


@pytest.mark.parametrize("what", ["learned", "built in"])
def test_discrete_states_along_a_scan_are_numpyros_to_support(what):
    """NumPyro sums states out of a `scan` with sites of real support only, and so do we not."""

    def states():
        def step(z, seen):
            chances = jnp.array([[0.8, 0.2], [0.3, 0.7]])[z]
            z = numpyro.sample("z", dist.Categorical(chances), infer={"enumerate": "parallel"})
            if what == "learned":
                e = numpyro.sample("e", PRIOR)[..., 0]
            else:
                e = numpyro.sample("e", dist.Uniform(-3.0, 4.0))
            numpyro.sample("y", dist.Normal(e + z, NOISE), obs=seen)
            return z, None

        scan(step, 0, SERIES)

    with pytest.raises(AssertionError):
        initialize_model(KEY, states)


# -- what happens without gradients ------------------------------------------------------------


@both_ways
def test_a_normaliser_that_is_inferred_is_not_seen_without_gradients(vector):
    """Documents a limit: kernels that differentiate nothing are not warned, and one line warns."""

    def clamped_to_a_latent():
        a = numpyro.sample("a", dist.Normal())
        put("x", PRIOR.clamp({"a": a}), vector)

    info = initialize_model(KEY, clamped_to_a_latent, validate_grad=False, dynamic_args=False)
    name = "x" if vector else "x.b"
    u = (POINT[1] - PRIOR.loc[1]) / PRIOR.scale[1]
    u = u[None] if vector else u

    def joint(a):
        return -info.potential_fn({"a": a, name: u}) - jnp.log(PRIOR.scale[1])

    def conditional(a):
        """What was meant: the density of b given a."""
        marginal = dist.Normal(MEAN[0], np.sqrt(COVARIANCE[0, 0])).log_prob(a)
        log_prob = PRIOR.log_prob(jnp.stack([a, POINT[1]])) - LOG_Z
        return dist.Normal().log_prob(a) + log_prob - marginal

    gap = np.array([joint(a) - conditional(a) for a in jnp.array([-1.0, 0.0, 2.0])])
    # What is missing varies with the latent: the marginal of a has been counted as well.
    marginal = dist.Normal(MEAN[0], np.sqrt(COVARIANCE[0, 0])).log_prob(np.array([-1.0, 0.0, 2.0]))
    np.testing.assert_allclose(gap - gap[0], marginal - marginal[0], atol=1e-4)
    # The line to try before AIES, ESS or SA. It computes nothing.
    with pytest.raises(ValueError, match="is being inferred"):
        jax.eval_shape(jax.grad(info.potential_fn), info.param_info.z)


def test_tempering_without_gradients_refuses_a_normaliser_that_is_inferred():
    def clamped_to_a_latent():
        a = numpyro.sample("a", dist.Normal())
        disco.sample("x", PRIOR.clamp({"a": a}))

    settings = dict(num_particles=32, num_chains=1, progress_bar=False, kernel="random_walk")
    with pytest.raises(ValueError, match="is being inferred.*Keep one joint site"):
        disco.TemperedSMC(clamped_to_a_latent, **settings).run(KEY)


def test_a_normaliser_that_depends_on_a_discrete_latent_is_not_seen():
    """Documents a limit: there is no derivative by a number of states."""

    def clamped_to_a_state():
        z = numpyro.sample("z", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        numpyro.sample("x", PRIOR.clamp({"a": jnp.asarray(z, float)}))

    def tied_to_a_state():
        """What to write instead: one joint site, tied to the state by a likelihood."""
        z = numpyro.sample("z", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        x = numpyro.sample("x", PRIOR)
        numpyro.sample("tie", dist.Normal(x[..., 0], 0.1), obs=z)

    assert np.isfinite(potential(clamped_to_a_state)({"x": jnp.zeros(1)}))
    assert np.isfinite(potential(tied_to_a_state)({"x": jnp.zeros(2)}))


# -- where samplers start, and go on -----------------------------------------------------------


@pytest.mark.parametrize(
    "strategy",
    [
        init_to_uniform,
        init_to_feasible,
        init_to_value(values={"x": POINT}),
        init_to_mean,
        # Draws, and so a run of tempered SMC: tens of seconds to compile.
        pytest.param(init_to_sample, marks=pytest.mark.statistics),
    ],
    ids=["uniform", "feasible", "value", "mean", "sample"],
)
def test_where_samplers_of_a_vector_site_start(strategy):
    info = initialize_model(
        KEY, model, init_strategy=strategy, model_kwargs={"vector": True}, dynamic_args=True
    )
    assert np.isfinite(info.param_info.potential_energy)
    start = info.postprocess_fn(vector=True)(info.param_info.z)["x"]
    if strategy is init_to_feasible:
        np.testing.assert_allclose(start, PRIOR.loc, atol=1e-6)
    if getattr(strategy, "keywords", {}).get("values"):
        np.testing.assert_allclose(start, POINT, rtol=1e-6)


@both_ways
def test_a_run_goes_on_where_another_ended(vector):
    kernel = HMC(model, trajectory_length=None, num_steps=3)
    mcmc = MCMC(kernel, num_warmup=20, num_samples=10, progress_bar=False)
    mcmc.warmup(KEY, vector=vector)
    warm = mcmc.post_warmup_state
    mcmc.run(warm.rng_key, vector=vector)
    first = jax.tree.map(np.asarray, mcmc.get_samples())
    # Again from the same state, and then on from where that ended.
    for state, same in ((warm, True), (mcmc.last_state, False)):
        mcmc.post_warmup_state = state
        mcmc.run(state.rng_key, vector=vector)
        for name, draws in mcmc.get_samples().items():
            assert np.array_equal(draws, first[name]) == same
        step_size = mcmc.last_state.adapt_state.step_size
        np.testing.assert_array_equal(step_size, warm.adapt_state.step_size)


# -- draws of the posterior and from the prior -------------------------------------------------


@both_ways
def test_likelihoods_of_draws(vector):
    draws = jax.random.normal(KEY, (3, 7, 2))
    samples = sites_of("x", draws, vector)
    found = log_likelihood(model, samples, vector=vector, batch_ndims=2)
    truth = dist.Normal(draws[..., 0], NOISE).log_prob(Y)
    np.testing.assert_allclose(found["y"], truth, rtol=1e-5)
    # The coordinates' joint factor is listed, as any `numpyro.factor` is: no likelihood of data.
    assert set(found) == ({"y"} if vector else {"y", "x.log_prob"})
    if not vector:
        np.testing.assert_allclose(found["x.log_prob"], PRIOR.log_prob(draws), rtol=1e-5)


def unobserved(vector=False, prior=PRIOR):
    x = put("x", prior, vector)
    numpyro.sample("y", dist.Normal(x[..., 0] - x[..., 1], NOISE))


@both_ways
def test_predictive_takes_draws_of_several_chains(vector):
    draws = jax.random.normal(KEY, (3, 7, 2))
    predicted = Predictive(unobserved, sites_of("x", draws, vector), batch_ndims=2)(KEY, vector)
    assert predicted["y"].shape == (3, 7)
    assert np.abs(predicted["y"] - (draws[..., 0] - draws[..., 1])).max() < 5 * NOISE


@pytest.mark.statistics
def test_simulating_forward():
    """From many draws at once; or one at a time, each a run of tempered SMC, right and slow."""
    variance = COVARIANCE[0, 0] + COVARIANCE[1, 1] - 2 * COVARIANCE[0, 1] + NOISE**2
    truth = np.array([MEAN[0] - MEAN[1], variance])

    def check(prior):
        samples = {"x": prior.sample(KEY, (4000,))}
        y = np.asarray(Predictive(unobserved, samples)(KEY, True)["y"], np.float64)
        estimate, error = mean_and_error(np.stack([y, (y - truth[0]) ** 2], axis=-1))
        # Draws of one call share their particles, so they tell less than as many independent ones.
        assert_within(estimate, truth, 2 * error, resolution=[0.5, 1.5], label="simulated y")

    check(PRIOR)
    with pytest.raises(AssertionError, match="is off"):
        check(TWIN)
    drawn = Predictive(unobserved, num_samples=2)(KEY, vector=True)
    assert drawn["x"].shape == (2, 2) and drawn["y"].shape == (2,)
    assert np.isfinite(drawn["x"]).all() and (drawn["x"][0] != drawn["x"][1]).all()


def test_relations_of_a_vector_site_can_be_drawn():
    relations = get_model_relations(model, model_kwargs={"vector": True})
    assert relations["sample_dist"] == {"x": "EnergyDistribution", "y": "Normal"}
    assert relations["sample_sample"]["y"] == ["x"]


@both_ways
def test_rendering_a_model(vector):
    pytest.importorskip("graphviz")
    source = numpyro.render_model(model, model_kwargs={"vector": vector}).source
    assert ("x" if vector else "x.b") in source


# -- variational inference ---------------------------------------------------------------------


def exact_guide(vector, flip=1.0):
    """The posterior itself, by hand; with `flip=-1` its correlation is of the wrong sign."""
    mean, covariance, _ = posterior()
    covariance = covariance * np.array([[1, flip], [flip, 1]])

    def guide(prior=PRIOR, y=Y, vector=vector):
        if vector:
            numpyro.sample("x", dist.MultivariateNormal(mean, covariance))
            return
        a = numpyro.sample("x.a", dist.Normal(mean[0], np.sqrt(covariance[0, 0])))
        slope = covariance[1, 0] / covariance[0, 0]
        rest = np.sqrt(covariance[1, 1] - slope * covariance[0, 1])
        numpyro.sample("x.b", dist.Normal(mean[1] + slope * (a - mean[0]), rest))

    return guide


@both_ways
def test_the_bound_is_the_evidence_where_a_hand_written_guide_is_the_posterior(vector):
    """There the bound has no variance: each draw gives the evidence, times the prior's Z."""

    def loss(guide):
        return Trace_ELBO(num_particles=5).loss(KEY, {}, model, guide, vector=vector)

    truth = -(posterior()[2] + LOG_Z)
    np.testing.assert_allclose(loss(exact_guide(vector)), truth, rtol=1e-4)
    assert abs(loss(exact_guide(vector, flip=-1.0)) - truth) > 0.05


@both_ways
def test_the_bound_is_the_evidence_where_a_guide_in_unconstrained_space_is_the_posterior(vector):
    mean, covariance, evidence = posterior()
    guide = AutoMultivariateNormal(model, init_loc_fn=init_to_uniform)
    svi = SVI(model, guide, numpyro.optim.Adam(0.1), Trace_ELBO(num_particles=5))
    svi.init(KEY, vector=vector)
    scale = np.asarray(PRIOR.scale, np.float64)
    params = {
        "auto_loc": jnp.asarray((mean - np.asarray(PRIOR.loc)) / scale),
        "auto_scale_tril": jnp.asarray(np.linalg.cholesky(covariance / np.outer(scale, scale))),
    }
    loss = Trace_ELBO(num_particles=5).loss(KEY, params, model, guide, vector=vector)
    # A forgotten Jacobian would be off by the log of the scales, which is no rounding.
    assert abs(LOG_SCALES) > 0.5
    np.testing.assert_allclose(loss, -(evidence + LOG_Z), rtol=1e-4)
    draws = guide.sample_posterior(KEY, params, sample_shape=(6,))
    assert {name: value.shape for name, value in draws.items()} == (
        {"x": (6, 2)} if vector else {"x.a": (6,), "x.b": (6,)}
    )


def minimise(guide, vector, steps=1000):
    svi = SVI(model, guide, numpyro.optim.Adam(0.02), Trace_ELBO())
    return svi.run(KEY, steps, progress_bar=False, vector=vector).params


@both_ways
def test_the_mode_and_the_curvature_there(vector):
    """Of a Gaussian, `AutoDelta` finds the mean and `AutoLaplaceApproximation` everything."""
    mean, covariance, _ = posterior()
    guide = AutoDelta(model, init_loc_fn=init_to_uniform)
    median = guide.median(minimise(guide, vector))
    mode = median["x"] if vector else np.stack([median["x.a"], median["x.b"]])
    np.testing.assert_allclose(mode, mean, atol=1e-3)
    laplace = AutoLaplaceApproximation(model, init_loc_fn=init_to_uniform)
    found = laplace.get_posterior(minimise(laplace, vector))
    scale = np.asarray(PRIOR.scale)
    np.testing.assert_allclose(PRIOR.loc + scale * found.loc, mean, atol=1e-3)
    found_covariance = np.asarray(found.covariance_matrix) * np.outer(scale, scale)
    np.testing.assert_allclose(found_covariance, covariance, atol=1e-3)


@pytest.mark.statistics
@both_ways
def test_a_flow_as_a_guide_comes_close_to_the_evidence(vector):
    guide = AutoBNAFNormal(model, num_flows=1, init_loc_fn=init_to_uniform)
    svi = SVI(model, guide, numpyro.optim.Adam(0.01), Trace_ELBO(num_particles=4))
    untrained = svi.get_params(svi.init(KEY, vector=vector))
    trained = svi.run(KEY, 600, progress_bar=False, vector=vector).params
    loss = jax.jit(
        jax.vmap(
            lambda key, params: Trace_ELBO().loss(key, params, model, guide, vector=vector),
            in_axes=(0, None),
        )
    )
    keys = jax.random.split(KEY, 400)

    def check(params):
        estimate, error = mean_and_error(loss(keys, params))
        # What the flow still lacks is counted as resolution, the rest as noise.
        truth = -(posterior()[2] + LOG_Z)
        assert_within(estimate, truth, error + 0.04, resolution=0.5, label="negative bound")

    check(trained)
    with pytest.raises(AssertionError, match="is off|is too noisy"):
        check(untrained)


# -- kernels -----------------------------------------------------------------------------------

# Ten replications: Student's t with 9 degrees of freedom is beyond 10 about as rarely as a
# Gaussian beyond 5.
REPLICATIONS, SIGMAS = 10, 10


def replications(mcmc, names, interacting):
    """Means of independent chains; of walkers that interact, means of long stretches of time."""
    samples = mcmc.get_samples(group_by_chain=True)
    columns = []
    for name in names:
        draws = np.asarray(samples[name], np.float64)
        columns.append(draws if draws.ndim == 3 else draws[..., None])
    draws = np.concatenate(columns, axis=-1)
    if interacting:
        draws = draws.mean(0).reshape(REPLICATIONS, -1, draws.shape[-1])
    return draws.mean(1)


def check_chains(mcmc, names, truth, resolution=0.5, interacting=False):
    estimate, error = mean_and_error(replications(mcmc, names, interacting))
    assert_within(
        estimate, truth, error, resolution=resolution, sigmas=SIGMAS, label="posterior mean"
    )


def mcmc_of(kernel, *, num_samples, interacting=False):
    return MCMC(
        kernel,
        num_warmup=500,
        num_samples=num_samples,
        num_chains=2 * REPLICATIONS if interacting else REPLICATIONS,
        chain_method="vectorized" if interacting else jax.vmap,
        progress_bar=False,
        # The ensemble kernels of NumPyro keep the first run's arguments in what is compiled.
        jit_model_args=not interacting,
    )


KERNELS = {
    "HMC": (lambda model: HMC(model, trajectory_length=2.0), 1000),
    "BarkerMH": (lambda model: BarkerMH(model), 4000),
    "SA": (lambda model: SA(model), 40000),
    "AIES": (lambda model: AIES(model, moves={AIES.DEMove(): 0.5, AIES.StretchMove(): 0.5}), 2000),
    "ESS": (lambda model: ESS(model, moves={ESS.DifferentialMove(): 1.0}), 2000),
}


@pytest.mark.statistics
@pytest.mark.parametrize(
    ("kernel", "vector"),
    [("HMC", True), ("BarkerMH", False), ("SA", True), ("AIES", False), ("ESS", True)],
)
def test_kernels_find_the_posterior(kernel, vector):
    make, num_samples = KERNELS[kernel]
    interacting = kernel in ("AIES", "ESS")
    mcmc = mcmc_of(
        make(partial(model, vector=vector)), num_samples=num_samples, interacting=interacting
    )
    names = ["x"] if vector else ["x.a", "x.b"]
    truth, *_ = posterior()
    mcmc.run(KEY, PRIOR, Y)
    check_chains(mcmc, names, truth, interacting=interacting)
    # Under the twin y = x_a pulls b the other way.
    mcmc.run(KEY, TWIN, Y)
    with pytest.raises(AssertionError, match="is off"):
        check_chains(mcmc, names, truth, interacting=interacting)


def draw_the_state(vector):
    """A Gibbs step for z given x."""

    def step(rng_key, gibbs_sites, hmc_sites):
        a = hmc_sites["x"][0] if vector else hmc_sites["x.a"]
        logit = jnp.log(WEIGHT / (1 - WEIGHT))
        logit += dist.Normal(a + SHIFT, NOISE).log_prob(Y) - dist.Normal(a, NOISE).log_prob(Y)
        return {"z": dist.Bernoulli(logits=logit).sample(rng_key)}

    return step


GIBBS = {
    "HMCGibbs": lambda model, vector: HMCGibbs(
        NUTS(model), gibbs_fn=draw_the_state(vector), gibbs_sites=["z"]
    ),
    "DiscreteHMCGibbs": lambda model, vector: DiscreteHMCGibbs(NUTS(model)),
    "MixedHMC": lambda model, vector: MixedHMC(HMC(model, trajectory_length=1.5)),
}


@pytest.mark.statistics
@pytest.mark.parametrize(
    ("kernel", "vector"), [("HMCGibbs", False), ("DiscreteHMCGibbs", True), ("MixedHMC", False)]
)
def test_kernels_for_a_discrete_latent_find_the_posterior(kernel, vector):
    mcmc = mcmc_of(GIBBS[kernel](partial(switched, vector=vector), vector), num_samples=2000)
    names = ["z", "x"] if vector else ["z", "x.a", "x.b"]
    mcmc.run(KEY, PRIOR)
    check_chains(mcmc, names, posterior_switched(), [0.2, 0.4, 0.6])
    mcmc.run(KEY, TWIN)
    with pytest.raises(AssertionError, match="is off"):
        check_chains(mcmc, names, posterior_switched(), [0.2, 0.4, 0.6])


@pytest.mark.statistics
def test_subsampled_likelihoods_with_energy_conserving_subsampling():
    """Many rows share one vector, and each step of the chain looks at a few of them."""
    rows = np.asarray(1.0 + 0.5 * np.random.default_rng(0).standard_normal(40), np.float32)

    def shared(prior):
        x = numpyro.sample("x", prior)
        with numpyro.plate("rows", 40, subsample_size=8):
            seen = numpyro.subsample(jnp.asarray(rows), event_dim=0)
            numpyro.sample("y", dist.Normal(x[0], 1.5), obs=seen)

    precision = np.linalg.inv(COVARIANCE) + np.diag([40 / 1.5**2, 0.0])
    pull = np.linalg.inv(COVARIANCE) @ MEAN + [rows.sum(dtype=float) / 1.5**2, 0.0]
    proxy = HMCECS.taylor_proxy({"x": jnp.asarray(MEAN)})
    mcmc = mcmc_of(HMCECS(NUTS(shared), num_blocks=4, proxy=proxy), num_samples=1000)
    mcmc.run(KEY, PRIOR)
    check_chains(mcmc, ["x"], np.linalg.solve(precision, pull))
    mcmc.run(KEY, TWIN)
    with pytest.raises(AssertionError, match="is off"):
        check_chains(mcmc, ["x"], np.linalg.solve(precision, pull))


CHAIN_METHODS = """
    import jax, numpy as np, sys
    from numpyro.infer import MCMC, NUTS
    from test_inside_numpyro import KEY, PRIOR, Y, model

    assert jax.local_device_count() == 2
    drawn = {}
    for method in ("sequential", "parallel", "vectorized"):
        mcmc = MCMC(NUTS(model), num_warmup=30, num_samples=20, num_chains=2,
                    chain_method=method, progress_bar=False)
        mcmc.run(KEY, PRIOR, Y)
        drawn[method] = mcmc.get_samples()
    for name, draws in drawn["sequential"].items():
        assert np.isfinite(draws).all()
        np.testing.assert_allclose(drawn["parallel"][name], draws, rtol=1e-5)
        assert drawn["vectorized"][name].shape == draws.shape
"""


@pytest.mark.statistics
def test_chains_one_after_another_on_two_devices_and_side_by_side():
    """In a process of its own: the number of devices is settled when JAX starts."""
    here = os.path.dirname(__file__)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    settings = {
        "XLA_FLAGS": flags.strip(),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": path,
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        # Rounding differs by device, and in single precision a chain soon makes it a difference.
        "JAX_ENABLE_X64": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHAIN_METHODS)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.statistics
@both_ways
def test_tempering_of_a_series(vector):
    """The evidence of a linear Gaussian model of time, with the prior's Z in it."""
    forget = np.tril(0.8 ** np.abs(np.subtract.outer(range(5), range(5))))
    truth = dist.MultivariateNormal(
        forget @ np.full(5, MEAN[0]), forget @ forget.T * COVARIANCE[0, 0] + NOISE**2 * np.eye(5)
    ).log_prob(SERIES)
    truth = float(truth) + 5 * LOG_Z
    smc = disco.TemperedSMC(
        partial(series, vector=vector), num_particles=300, num_chains=8, progress_bar=False
    )

    def check(prior):
        smc.run(KEY, prior, SERIES)
        ratio = np.exp(np.asarray(smc.log_normalizer, np.float64) - truth)
        # Eight runs: Student's t with 7 degrees of freedom.
        assert_within(*_and_one(ratio), resolution=0.8, sigmas=15, label="evidence over truth")

    check(PRIOR)
    with pytest.raises(AssertionError, match="is off"):
        check(prior_of(MEAN + 1.0))


@pytest.mark.statistics
def test_tempering_of_a_series_with_a_built_in_distribution():
    """Each step starts from a draw of its own."""

    def built_in(y, mean):
        def step(level, seen):
            level = 0.8 * level + numpyro.sample("e", dist.Normal(mean, 1.0))
            numpyro.sample("y", dist.Normal(level, NOISE), obs=seen)
            return level, None

        scan(step, 0.0, y)

    forget = np.tril(0.8 ** np.abs(np.subtract.outer(range(5), range(5))))
    covariance = forget @ forget.T + NOISE**2 * np.eye(5)
    truth = float(dist.MultivariateNormal(forget @ np.full(5, 0.5), covariance).log_prob(SERIES))
    smc = disco.TemperedSMC(built_in, num_particles=300, num_chains=8, progress_bar=False)

    def check(mean):
        smc.run(KEY, SERIES, mean)
        ratio = np.exp(np.asarray(smc.log_normalizer, np.float64) - truth)
        assert_within(*_and_one(ratio), resolution=0.8, sigmas=15, label="evidence over truth")

    check(0.5)
    with pytest.raises(AssertionError, match="is off"):
        check(1.5)


def _and_one(ratio):
    estimate, error = mean_and_error(ratio)
    return estimate, 1.0, error
