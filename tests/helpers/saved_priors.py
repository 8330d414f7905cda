"""Priors of quick fits in every state, and tools to read and damage archives."""

import io
import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpyro.distributions import constraints

import numpyro_disco as disco
from numpyro_disco.energy.learned import LearnedEnergy
from numpyro_disco.energy.networks import EnergyNetwork
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.supports.sinh_arcsinh import SinhArcsinhReal

NAMES = ("z", "u", "g")
SUPPORTS = CoordinateSupports(
    (constraints.positive, constraints.interval(-2.0, 3.0), constraints.real)
)
BENT = CoordinateSupports((SinhArcsinhReal(1.0, 0.5, 0.3, 0.7), *SUPPORTS.supports[1:]))
X = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)


def mixture_reference():
    means = np.array([[-1.0, 0.0, 1.0], [1.0, 0.5, -1.0]])
    covariances = np.stack([np.eye(3), 0.5 * np.eye(3) + 0.2])
    return disco.MixtureReference(np.array([0.01, 0.99]), means, covariances)


def quick_fit(reference=None):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 3)) + rng.exponential(size=(300, 3))
    return disco.fit(
        jax.random.key(0),
        rows,
        names=NAMES,
        reference=reference,
        noise_scale=0.05,
        network=disco.MLP(width=16, num_blocks=1),
        num_steps=50,
        batch_size=64,
        progress_bar=False,
    )


def untrained_prior():
    """A prior as `fit` makes it, but with random weights in its network."""
    graph, weights = nnx.split(EnergyNetwork(3, width=16, num_blocks=1, rngs=nnx.Rngs(0)))
    leaves, structure = jax.tree.flatten(weights)
    rng = np.random.default_rng(0)
    leaves = [leaf + jnp.float32(0.1 * rng.normal(size=leaf.shape)) for leaf in leaves]
    reference = mixture_reference()
    energy = LearnedEnergy(
        weights=jax.tree.unflatten(structure, leaves),
        reference=reference,
        loc=jnp.zeros(3),
        whitener=jnp.eye(3),
        log_det=jnp.zeros(()),
        graph=graph,
    )
    return disco.EnergyDistribution(energy, reference, names=NAMES, noise_scale=0.05)


def mixed_prior():
    """A prior as `fit` makes it for a real, a categorical and a real column, untrained."""
    num_levels = (0, 3, 0)
    network = EnergyNetwork(3, width=16, num_blocks=1, num_levels=num_levels, rngs=nnx.Rngs(0))
    graph, weights = nnx.split(network)
    mixture = mixture_reference()
    masses = np.full((2, 3, 3), -np.inf)
    masses[:, 1] = np.log([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    reference = disco.MixedReference(
        mixture.weights, mixture.means, mixture.covariances, masses, num_levels=num_levels
    )
    energy = LearnedEnergy(
        weights=weights,
        reference=reference,
        loc=jnp.zeros(3),
        whitener=jnp.eye(3),
        log_det=jnp.zeros(()),
        graph=graph,
    )
    supports = {"u": constraints.integer_interval(2, 4), "g": constraints.positive}
    return disco.EnergyDistribution(energy, reference, names=NAMES, supports=supports)


def states_of(prior):
    """The prior of a fit in every state that a user can produce."""
    mixture = quick_fit(mixture_reference()).distribution
    return {
        "plain": prior,
        "clamped": prior.clamp({"u": 0.3}),
        "batch": prior.clamp({"u": np.linspace(-1.0, 1.0, 6)}),
        "tempered": prior.temper(0.7),
        "cooled": prior.cool(0.03),
        "supported": prior.replace(coordinate_supports=SUPPORTS),
        "bent": prior.replace(coordinate_supports=BENT),
        # In the form that `normalize` returns, with arbitrary numbers.
        "normalized": prior.replace(
            log_normalizer=jnp.asarray(1.25), log_normalizer_error=jnp.asarray(0.02)
        ),
        "mixture": mixture,
        # Tempering reduces the weight of the light component below the range of float32.
        "cold mixture": mixture.temper(30.0),
        "everything": mixture.clamp({"z": 0.5, "u": -0.5}).temper(2.0),
    }


STATES = (
    "plain supported bent clamped batch tempered cooled normalized mixture everything".split()
    + ["cold mixture"]
)


def assert_equal_priors(one, other):
    assert one.names == other.names and one.observed == other.observed
    assert one.batch_shape == other.batch_shape and one.event_shape == other.event_shape
    assert one.coordinate_supports == other.coordinate_supports
    x = np.asarray(one.coordinate_supports.constrain(X))
    x = x if one.values is None else np.where(one.observed, one.values, x)
    np.testing.assert_array_equal(one.energy(x), other.energy(x))
    np.testing.assert_array_equal(one.log_prob(x), other.log_prob(x))
    np.testing.assert_array_equal(one.score(x), other.score(x))
    assert one.support(x).all() and other.support(x).all()
    for field in ("loc", "scale", "inverse_temperature"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    for field in ("values", "log_normalizer", "log_normalizer_error", "noise_scale"):
        a, b = getattr(one, field), getattr(other, field)
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)
    assert type(one.reference) is type(other.reference)
    # Mixture weights pass through a logarithm, so only there the last bit may differ.
    np.testing.assert_allclose(
        one.reference.log_prob(x), other.reference.log_prob(x), rtol=1e-5, atol=1e-5
    )


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=array.dtype == object)
    return buffer.getvalue()


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path, changes):
    """Replace some members of an archive; a member whose change is None is left out."""
    contents = members(path) | changes
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            if content is not None:
                archive.writestr(name, content)


def change_description(path, **changes):
    description = json.loads(members(path)["description.json"]) | changes
    description = {key: value for key, value in description.items() if value is not ...}
    rewrite(path, {"description.json": json.dumps(description).encode()})
