"""Densities of models with learned priors: maps, discrete latents, and normalisers.

The potential energies that NumPyro's samplers see are compared with formulas, exactly.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.two_coordinates import (
    COVARIANCE,
    KEY,
    LOG_SCALES,
    LOG_Z,
    MEAN,
    NOISE,
    POINT,
    PRIOR,
    SHIFT,
    TWIN,
    UNKNOWN_MAP,
    Y,
    assert_same,
    both_ways,
    model,
    potential,
    prior_of,
    put,
    sites_of,
    standardized,
    transformed,
    unknown_map,
    unknown_map_density,
)
from numpyro import handlers
from numpyro.distributions import transforms
from numpyro.infer.util import initialize_model, log_density

import numpyro_disco as disco


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
    """A stack of priors, as `jax.vmap` makes it, evaluates each point with its own weights."""
    means = jnp.array([[0.5, -0.3], [1.0, 0.0], [-2.0, 0.4]])
    priors = [prior_of(mean) for mean in means]
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *priors)
    points = jax.random.normal(KEY, (3, 2))
    expected = [prior.log_prob(x) for prior, x in zip(priors, points, strict=True)]
    mapped = jax.vmap(lambda prior, x: prior.log_prob(x))(stack, points)
    np.testing.assert_allclose(mapped, expected, rtol=1e-5)
    # Without an enclosing `vmap`, as for NumPyro's own distributions.
    np.testing.assert_allclose(stack.log_prob(points), expected, rtol=1e-5)
    scores = [prior.score(x) for prior, x in zip(priors, points, strict=True)]
    np.testing.assert_allclose(stack.score(points), scores, rtol=1e-5, atol=1e-6)


# -- an unknown location and scale --------------------------------------------------------------


@both_ways
def test_a_draw_with_inferred_location_and_scale(vector):
    """Non-centred: the prior is over x, and loc + scale x is observed."""

    def hierarchy(prior):
        loc, scale = unknown_map()
        w = loc + scale * put("x", prior, vector)
        numpyro.sample("y", dist.Normal(w[..., 0], NOISE), obs=Y)

    def expected(u, prior=PRIOR):
        log_prob, loc, scale = unknown_map_density(u)
        x = u["x"] if vector else jnp.stack([u["x.a"], u["x.b"]])
        x = prior.loc + prior.scale * x
        w = loc + scale * x
        log_prob += prior.log_prob(x) + LOG_SCALES
        return -(log_prob + dist.Normal(w[0], NOISE).log_prob(Y))

    at = UNKNOWN_MAP | standardized("x", POINT, vector)
    assert_same(potential(hierarchy, PRIOR), expected, at, lambda u: expected(u, TWIN))


def transformed_potential(u, w, jacobian=True):
    log_prob, loc, scale = unknown_map_density(u)
    log_prob += PRIOR.log_prob((w - loc) / scale)
    return -(log_prob - 2 * jnp.log(scale) if jacobian else log_prob)


def test_an_affine_map_with_inferred_parameters_as_a_likelihood():
    observed = handlers.condition(transformed, {"w": POINT})
    got = potential(observed, PRIOR)
    assert_same(
        got,
        lambda u: transformed_potential(u, POINT),
        UNKNOWN_MAP,
        lambda u: transformed_potential(u, POINT, jacobian=False),
    )


def test_an_affine_map_with_inferred_parameters_of_a_latent():
    at = UNKNOWN_MAP | {"w": POINT}
    assert_same(
        potential(transformed, PRIOR),
        lambda u: transformed_potential(u, u["w"]),
        at,
        lambda u: transformed_potential(u, u["w"], jacobian=False),
    )


# -- discrete latents ---------------------------------------------------------------------------


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


# -- normalisers that depend on a latent --------------------------------------------------------


@pytest.mark.parametrize("what", ["energy", "temperature"])
def test_inferred_weights_are_refused(what):
    """The normaliser depends on the unknown here, unlike under an affine map."""

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


@both_ways
def test_an_inferred_normaliser_is_not_detected_without_gradients(vector):
    """A limitation: such kernels do not raise an error, but one line before the run does."""

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
        """The intended density: that of b given a."""
        marginal = dist.Normal(MEAN[0], np.sqrt(COVARIANCE[0, 0])).log_prob(a)
        log_prob = PRIOR.log_prob(jnp.stack([a, POINT[1]])) - LOG_Z
        return dist.Normal().log_prob(a) + log_prob - marginal

    gap = np.array([joint(a) - conditional(a) for a in jnp.array([-1.0, 0.0, 2.0])])
    # The error varies with the latent, because the marginal of a is counted as well.
    marginal = dist.Normal(MEAN[0], np.sqrt(COVARIANCE[0, 0])).log_prob(np.array([-1.0, 0.0, 2.0]))
    np.testing.assert_allclose(gap - gap[0], marginal - marginal[0], atol=1e-4)
    # The line to run before AIES, ESS or SA. It only traces.
    with pytest.raises(ValueError, match="is being inferred"):
        jax.eval_shape(jax.grad(info.potential_fn), info.param_info.z)


def test_tempering_without_gradients_refuses_an_inferred_normaliser():
    def clamped_to_a_latent():
        a = numpyro.sample("a", dist.Normal())
        disco.sample("x", PRIOR.clamp({"a": a}))

    settings = dict(num_particles=32, num_chains=1, progress_bar=False, kernel="random_walk")
    with pytest.raises(ValueError, match="is being inferred.*Keep one joint site"):
        disco.TemperedSMC(clamped_to_a_latent, **settings).run(KEY)


def test_a_normaliser_that_depends_on_a_discrete_latent_is_not_detected():
    """A limitation: there is no derivative with respect to a discrete state."""

    def clamped_to_a_state():
        z = numpyro.sample("z", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        numpyro.sample("x", PRIOR.clamp({"a": jnp.asarray(z, float)}))

    def tied_to_a_state():
        """The remedy: one joint site, tied to the state by a likelihood."""
        z = numpyro.sample("z", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        x = numpyro.sample("x", PRIOR)
        numpyro.sample("tie", dist.Normal(x[..., 0], 0.1), obs=z)

    assert np.isfinite(potential(clamped_to_a_state)({"x": jnp.zeros(1)}))
    assert np.isfinite(potential(tied_to_a_state)({"x": jnp.zeros(2)}))
