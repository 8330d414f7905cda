"""Sizes of the network, and the Gaussian from which training starts."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

import numpyro_disco as disco
from numpyro_disco.training.network import MLP, check_network, gaussian_start
from numpyro_disco.training.rows.batches import TrainingRows

GAUSSIAN = disco.GaussianReference(np.zeros(2), np.eye(2))
MIXTURE = disco.MixtureReference(np.ones(2), np.zeros((2, 2)), np.stack([np.eye(2)] * 2))


@pytest.mark.parametrize("resolution", [0.05, 0.5])
def test_the_network_starts_from_the_gaussian_of_the_smoothed_rows(resolution):
    """Reference times exp(-|A z|^2 / 2) has the shape of N(0, covariance + resolution^2 I)."""
    rows = np.random.default_rng(0).multivariate_normal([0, 0], [[1.0, 0.6], [0.6, 1.0]], 500)
    reference, linear = gaussian_start(TrainingRows(rows), resolution)
    z = np.random.default_rng(1).normal(size=(50, 2))
    found = reference.log_prob(z) - 0.5 * ((z @ np.asarray(linear).T) ** 2).sum(1)
    covariance = np.cov(rows, rowvar=False) + resolution**2 * np.eye(2)
    difference = np.asarray(found) - multivariate_normal([0, 0], covariance).logpdf(z)
    np.testing.assert_allclose(difference, difference[0], atol=1e-4)
    # Broken twin: without the smoothing the shape is another one.
    unsmoothed = multivariate_normal([0, 0], np.cov(rows, rowvar=False)).logpdf(z)
    assert np.ptp(np.asarray(found) - unsmoothed) > 1e-3


@pytest.mark.parametrize(
    ("objective", "reference", "octaves"),
    [
        (disco.Contrastive(), MIXTURE, 1),
        (disco.Contrastive(), GAUSSIAN, 5),
        (disco.Disco(noise_scale=0.05), MIXTURE, 5),
        (disco.Disco(noise_scale=0.4), GAUSSIAN, 2),
        (disco.Disco(noise_scale=1.0), GAUSSIAN, 1),
    ],
)
def test_default_number_of_octaves(objective, reference, octaves):
    assert MLP().resolved(objective, reference).num_octaves == octaves
    assert MLP(num_octaves=3).resolved(objective, reference).num_octaves == 3


@pytest.mark.parametrize("name", ["width", "num_blocks", "num_octaves"])
@pytest.mark.parametrize("wrong", [-1, 1.5, "8", True])
def test_sizes_must_be_counts(name, wrong):
    with pytest.raises(ValueError, match=f"`{name}`; got"):
        MLP(**{name: wrong})


def test_any_integer_type_is_a_size():
    assert MLP(width=np.int64(32)) == MLP(width=32)


def test_convolutions_need_axes_to_move_over():
    check_network(disco.MLP(), None)
    check_network(disco.UNet(num_spatial_axes=1), (8, 2))
    with pytest.raises(ValueError, match="rows of `data` are not arrays"):
        check_network(disco.UNet(), None)
    with pytest.raises(ValueError, match="`num_spatial_axes` of at most 2.*got 3"):
        check_network(disco.UNet(num_spatial_axes=3), (8, 2))
