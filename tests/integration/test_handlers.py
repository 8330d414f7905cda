"""NumPyro's handlers on models with learned priors: reparameterisation, `lift` and `collapse`.

The potential energies that NumPyro's samplers see are compared with formulas, exactly. Handlers
that observe or substitute sites are tested in `tests/models/test_sites.py`.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.two_coordinates import (
    KEY,
    LOG_SCALES,
    NOISE,
    POINT,
    PRIOR,
    TWIN,
    UNKNOWN_MAP,
    Y,
    assert_same,
    both_ways,
    model,
    potential,
    put,
    sites_of,
    standardized,
    transformed,
    unknown_map_density,
)
from numpyro import handlers
from numpyro.distributions import transforms
from numpyro.infer import SVI, Trace_ELBO, init_to_value
from numpyro.infer.autoguide import AutoMultivariateNormal
from numpyro.infer.reparam import (
    ExplicitReparam,
    LocScaleReparam,
    NeuTraReparam,
    TransformReparam,
)
from numpyro.infer.util import initialize_model

import numpyro_disco as disco


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
def test_unsupported_reparameterisations_are_refused(strategy, message, vector):
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
    """The centred site becomes non-centred: a sampler moves a draw of the prior itself."""
    got = potential(handlers.reparam(transformed, {"w": TransformReparam()}), PRIOR)

    def expected(u, prior=PRIOR):
        x = prior.loc + prior.scale * u["w_base"]
        return -(unknown_map_density(u)[0] + prior.log_prob(x) + LOG_SCALES)

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
