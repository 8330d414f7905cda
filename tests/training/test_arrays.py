import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from numpyro.distributions import biject_to
from numpyro.infer import MCMC, NUTS

import numpyro_disco as disco
from numpyro_disco.training.arrays import is_stack_of_arrays, read_arrays

SHAPE = (4, 4)
SMALL = {
    "network": disco.UNet(width=4, num_scales=2, num_octaves=0),
    "num_steps": 50,
    "batch_size": 32,
    "progress_bar": False,
}


def stack(num_arrays=300, shape=SHAPE):
    """Smooth random arrays, one of whose elements never varies."""
    noise = np.random.default_rng(0).normal(size=(num_arrays, *shape))
    smooth = noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2)
    smooth[:, 0, 0] = 2.0
    return smooth


@pytest.fixture(scope="module")
def fit():
    return disco.fit(jax.random.key(0), stack(), noise_scale=0.3, **SMALL)


def half(image):
    observed = np.array(image)
    observed[:, 2:] = np.nan
    return observed


def test_defaults_of_arrays(fit):
    objective = fit.settings.objective
    assert isinstance(objective, disco.Disco) and objective.partial_noise == 0.5
    assert objective.target == "row" and objective.density_weight == 30
    # All elements share one unit.
    np.testing.assert_allclose(fit.distribution.scale, fit.distribution.scale[0])
    assert fit.distribution.names[:2] == ("[0,0]", "[0,1]")


def test_a_mixture_may_be_the_reference():
    """It is that of the smoothed arrays, as the Gaussian is."""
    settings = SMALL | {"network": disco.MLP(width=4, num_blocks=1, num_octaves=0)}
    fit = disco.fit(jax.random.key(0), stack(), noise_scale=0.3, reference="mixture", **settings)
    reference, scale = fit.distribution.joint_reference, float(fit.distribution.scale[0])
    assert isinstance(reference, disco.MixtureReference) and 1 in fit.components
    # One element never varies, so its variance is that of the noise in 4 copies of 9 in 10 arrays.
    standard_error = (2 / (4 * 270)) ** 0.5
    np.testing.assert_allclose(reference.variance[0], (0.3 * scale) ** 2, rtol=5 * standard_error)
    assert fit.distribution.event_shape == SHAPE


def test_shapes_are_those_of_the_array(fit):
    prior, images = fit.distribution, stack(5)
    assert prior.event_shape == SHAPE
    assert prior.log_prob(images).shape == prior.energy(images).shape == (5,)
    assert prior.score(images).shape == fit.score(images).shape == (5, *SHAPE)
    np.testing.assert_allclose(prior.score(images), fit.score(images), rtol=1e-3, atol=1e-3)
    flat = prior.as_vector
    assert flat.event_shape == (16,)
    np.testing.assert_array_equal(flat.log_prob(images.reshape(5, 16)), prior.log_prob(images))
    with pytest.raises(ValueError, match=r"last axes are \(4, 4\)"):
        prior.log_prob(np.zeros(16))
    with pytest.raises(ValueError, match=r"last axes are \(4, 4\)"):
        fit.score(np.zeros((2, 8)))


def test_conditioning_keeps_what_is_observed(fit):
    prior, image = fit.distribution, stack(1)[0]
    clamped = prior.clamp(half(image))
    assert clamped.event_shape == SHAPE and sum(clamped.observed) == 8
    draws = disco.sample_conditional(jax.random.key(1), prior, half(image), num_samples=3)
    assert draws.shape == (3, *SHAPE)
    np.testing.assert_allclose(draws[:, :, :2], np.broadcast_to(image[:, :2], (3, 4, 2)), rtol=1e-6)
    named = prior.clamp({"[0,1]": 0.3})
    assert named.observed.index(True) == 1


def test_stacks_of_arrays_are_imputed(fit):
    images = np.stack([half(image) for image in stack(2)])
    filled = disco.impute(jax.random.key(1), fit.distribution, images, num_imputations=3)
    assert filled.shape == (3, 2, *SHAPE) and np.isfinite(filled).all()
    masked = np.ma.masked_invalid(images)
    again = disco.impute(jax.random.key(1), fit.distribution, masked, num_imputations=3)
    np.testing.assert_array_equal(filled, again)


def test_saved_and_loaded(fit, tmp_path):
    disco.save(tmp_path / "prior.npz", fit.distribution)
    loaded = disco.load(tmp_path / "prior.npz")
    assert loaded.event_shape == SHAPE
    np.testing.assert_array_equal(loaded.log_prob(stack(3)), fit.distribution.log_prob(stack(3)))


def model_of(prior):
    def model(obs):
        x = disco.sample("image", prior)
        numpyro.sample("obs", dist.Normal(x[:, :2], 0.1).to_event(2), obs=obs)

    return model


def test_one_site_of_a_model(fit):
    seeded = numpyro.handlers.seed(model_of(fit.distribution), 0)
    image = stack(1)[0]
    substituted = numpyro.handlers.substitute(seeded, {"image": jnp.asarray(image)})
    site = numpyro.handlers.trace(substituted).get_trace(image[:, :2])["image"]
    assert site["value"].shape == SHAPE and site["fn"].event_shape == SHAPE
    u = biject_to(site["fn"].support).inv(site["value"])
    assert u.shape == (16,)


def test_elements_of_an_image_are_no_sites(fit):
    model = numpyro.handlers.seed(model_of(fit.distribution), 0)
    for handler in (numpyro.handlers.condition, numpyro.handlers.do):
        with pytest.raises(ValueError, match=r"the whole array 'image'.*clamp\(\{'\[0,0\]'"):
            handler(model, {"image.[0,0]": 1.0})(None)
    image = stack(1)[0]
    given = numpyro.handlers.condition(model, {"image": jnp.asarray(image), "image.note": 0.0})
    assert numpyro.handlers.trace(given).get_trace(None)["image"]["is_observed"]


def test_values_of_the_site_of_images(fit):
    values = disco.site_values("image", fit.distribution, stack(3))
    assert list(values) == ["image"] and values["image"].shape == (3, *SHAPE)


def test_missing_elements_are_refused_in_compiled_code(fit):
    image = half(stack(1)[0])
    with pytest.raises(ValueError, match="without NaN"):
        jax.jit(lambda: fit.distribution.log_prob(image))()


@pytest.mark.slow
def test_nuts_moves_whole_arrays(fit):
    mcmc = MCMC(NUTS(model_of(fit.distribution)), num_warmup=5, num_samples=5, progress_bar=False)
    mcmc.run(jax.random.key(0), stack(1)[0][:, :2])
    assert mcmc.get_samples()["image"].shape == (5, *SHAPE)


def test_missing_elements_of_a_stack_are_latent(fit):
    images = np.stack([half(image) for image in stack(2)])

    def model():
        return disco.sample("images", fit.distribution, obs=images)

    seeded = numpyro.handlers.substitute(model, {"images.missing": jnp.zeros(16)})
    trace = numpyro.handlers.trace(seeded).get_trace()
    assert trace["images.missing"]["value"].shape == (16,)
    assert numpyro.handlers.substitute(model, {"images.missing": jnp.zeros(16)})().shape == (
        2,
        *SHAPE,
    )


def test_score_only_fits_have_no_density():
    objective = disco.DiscoScore(noise_scale=0.3)
    fit = disco.fit(jax.random.key(0), stack(100), objective=objective, **SMALL)
    with pytest.raises(ValueError, match="learns a score only"):
        fit.distribution  # noqa: B018
    draws = disco.sample_langevin(
        jax.random.key(0), fit.score_function, 3, sampler=disco.Heun(num_steps=3)
    )
    assert draws.shape == (3, *SHAPE)
    np.testing.assert_allclose(
        fit.score_function.score(stack(2)), fit.score(stack(2)), rtol=1e-5, atol=1e-5
    )


def test_reading():
    assert is_stack_of_arrays(jnp.zeros((3, 4, 5)))
    assert not is_stack_of_arrays(np.zeros((3, 4)))
    images = stack(20)
    images[3] = np.nan
    weights = np.ones(20)
    weights[5] = 0.0
    table, variables = read_arrays(images, None, weights)
    assert table.values.shape == (18, 16) and variables.array.shape == SHAPE
    with pytest.raises(ValueError, match="no `names`"):
        read_arrays(images, ("a",), None)
    corner = stack(20)
    corner[:, 3, 3] = np.nan
    with pytest.raises(ValueError, match=r"1 are in none: \[3,3\]"):
        read_arrays(corner, None, None)
    draws = xr.DataArray(np.zeros((2, 9, 3)), dims=("chain", "draw", "b"))
    with pytest.raises(ValueError, match="to_dataset"):
        is_stack_of_arrays(draws)
    with pytest.raises(ValueError, match="at least 10 arrays"):
        read_arrays(images[:9], None, None)
    with pytest.raises(ValueError, match="that vary"):
        read_arrays(np.ones((20, 4, 4)), None, None)
    with pytest.raises(ValueError, match="Expected finite numbers"):
        read_arrays(np.full((20, 4, 4), np.inf), None, None)
    with pytest.raises(ValueError, match="real numbers for `data`"):
        read_arrays(np.full((20, 4, 4), "a"), None, None)


def test_settings_that_arrays_cannot_have_are_refused():
    refused = {"objective": "contrastive", "transform": "sinh_arcsinh"}
    for settings in ({name: value} for name, value in refused.items()):
        with pytest.raises(ValueError, match="for arrays"):
            disco.fit(jax.random.key(0), stack(50), **settings, **SMALL)
    images = stack(50)
    images[5:, 0, 1] = np.nan
    with (
        pytest.warns(UserWarning, match="45 of 50"),
        pytest.raises(ValueError, match="at least 10 complete arrays"),
    ):
        disco.fit(jax.random.key(0), images, missing="complete", **SMALL)
