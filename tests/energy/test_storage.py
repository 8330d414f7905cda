"""Saving and loading: the loaded prior equals the saved one, also from older formats."""

import io
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.saved_priors import (
    NAMES,
    STATES,
    assert_equal_priors,
    change_description,
    members,
    mixed_prior,
    npy,
    quick_fit,
    rewrite,
    states_of,
)
from numpyro.distributions import constraints

import numpyro_disco as disco
from numpyro_disco.supports.coordinates import CoordinateSupports


@pytest.fixture(scope="module")
def fitted():
    return quick_fit()


@pytest.fixture(scope="module")
def prior(fitted):
    return fitted.distribution


@pytest.fixture(scope="module")
def states(prior):
    return states_of(prior)


@pytest.fixture
def path(tmp_path, states):
    path = tmp_path / "prior.npz"
    disco.save(path, states["plain"])
    return path


@pytest.mark.parametrize("state", STATES)
def test_the_loaded_prior_equals_the_saved_one(tmp_path, states, state):
    path = tmp_path / "prior.npz"
    saved = states[state]
    disco.save(path, saved)
    loaded = disco.load(path)
    assert_equal_priors(saved, loaded)
    # Structures agree too, so a program compiled for one serves the other.
    assert jax.tree.structure(saved) == jax.tree.structure(loaded)
    # Saving the loaded prior loses nothing either.
    disco.save(path, loaded)
    assert_equal_priors(saved, disco.load(path))


def test_the_comparison_detects_one_changed_weight(tmp_path, prior):
    path = tmp_path / "prior.npz"
    disco.save(path, prior)
    name = next(n for n in members(path) if n.startswith("weights") and "outlet" in n)
    array = np.load(io.BytesIO(members(path)[name]))
    array.ravel()[0] += 1.0
    rewrite(path, {name: npy(array)})
    with pytest.raises(AssertionError):
        assert_equal_priors(prior, disco.load(path))


def test_discrete_coordinates_are_kept(tmp_path):
    path, saved = tmp_path / "prior.npz", mixed_prior()
    disco.save(path, saved)
    loaded = disco.load(path)
    assert loaded.coordinate_supports.num_levels == (0, 3, 0)
    x = np.array([[0.3, 2.0, 1.5], [-1.0, 4.0, 0.2], [0.0, 5.0, 1.0]])
    np.testing.assert_array_equal(saved.energy(x), loaded.energy(x))
    assert np.isfinite(loaded.energy(x)).tolist() == [True, True, False]


def test_a_component_of_tiny_weight_is_kept(tmp_path, states):
    path = tmp_path / "prior.npz"
    cold = states["cold mixture"]
    disco.save(path, cold)
    loaded = disco.load(path)
    assert cold.joint_reference.log_weights.min() < -110
    np.testing.assert_allclose(
        loaded.joint_reference.log_weights, cold.joint_reference.log_weights, rtol=1e-5
    )


def test_version_2_has_no_supports(tmp_path, states):
    path = tmp_path / "old.npz"
    disco.save(path, states["plain"])
    change_description(path, format_version=2, supports=...)
    assert disco.load(path).coordinate_supports.real


def test_version_4_has_no_defensive_share(tmp_path, states):
    path = tmp_path / "old.npz"
    disco.save(path, states["plain"])
    network = json.loads(members(path)["description.json"])["network"]
    assert network.pop("defensive_share") == 0
    change_description(path, format_version=4, network=network)
    x = jnp.zeros(len(NAMES))
    assert disco.load(path).log_prob(x) == states["plain"].log_prob(x)


def test_version_5_with_a_defensive_share_is_refused(tmp_path, states):
    path = tmp_path / "old.npz"
    disco.save(path, states["plain"])
    network = json.loads(members(path)["description.json"])["network"]
    change_description(path, format_version=5)
    assert disco.load(path).names == states["plain"].names
    change_description(path, format_version=5, network={**network, "defensive_share": 0.1})
    with pytest.raises(disco.LoadError, match="version 5 and a defensive share.*Fit and save"):
        disco.load(path)


def test_a_support_that_is_not_numpyros_own(tmp_path, prior):
    odd = prior.replace(coordinate_supports=CoordinateSupports((constraints.circular,) * 3))
    with pytest.raises(ValueError, match="NumPyro's own constraints.*cannot be saved"):
        disco.save(tmp_path / "odd.npz", odd)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "supports",
    [[{"kind": "real"}], [{"kind": "os.system"}] * 3, [{"kind": "sinh_arcsinh", "map": [1]}] * 3],
)
def test_invalid_supports(path, supports):
    change_description(path, supports=supports)
    with pytest.raises(disco.LoadError, match="damaged"):
        disco.load(path)


def test_user_defined_energies_are_not_saved(tmp_path):
    reference = disco.GaussianReference(np.zeros(2), np.eye(2))
    own = disco.EnergyDistribution(lambda x: x @ x, reference)
    with pytest.raises(ValueError, match="a prior made by `fit`.*code is not saved as data"):
        disco.save(tmp_path / "prior.npz", own)
    assert os.listdir(tmp_path) == []


def test_saving_something_else(tmp_path):
    with pytest.raises(ValueError, match="Expected an `EnergyDistribution`.*got dict"):
        disco.save(tmp_path / "prior.npz", {})
    assert os.listdir(tmp_path) == []
