"""The record behind a report: conversion of units, and fits without a density."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.priors import gaussian_prior
from numpyro.distributions import constraints

import numpyro_disco as disco
from numpyro_disco.energy.learned import LearnedEnergy, LearnedScore
from numpyro_disco.training.loop import History
from numpyro_disco.training.report.evidence import FitEvidence
from numpyro_disco.training.settings import requested_settings

LOC, WHITENER = np.array([300.0, -1.0]), np.array([[0.01, 0.0], [0.4, 2.0]])
PRIOR = gaussian_prior(np.zeros(2), np.eye(2))


def evidence(prior, kind=LearnedEnergy):
    reference = disco.GaussianReference(np.zeros(2), np.eye(2))
    model = kind({}, reference, jnp.asarray(LOC), jnp.asarray(WHITENER), jnp.asarray(0.0), None)
    settings = requested_settings(
        None, objective=None, noise_scale=None, reference=None, network=None, optimizer=None
    )
    return FitEvidence(
        distribution=prior,
        model=model,
        coordinate_supports=(prior or PRIOR).coordinate_supports,
        names=("a", "b"),
        columns=(disco.Real(),) * 2,
        rows=np.zeros((4, 2)),
        held_out=np.zeros((2, 2)),
        history=History(*np.zeros((4, 1))),
        best_step=0,
        settings=settings,
        noise_scales={},
    )


def test_standardising_can_be_undone():
    x = np.array([[310.0, -0.5], [250.0, 2.0]])
    found = evidence(PRIOR)
    z = np.asarray(found.standardize(x))
    np.testing.assert_allclose(z, (x - LOC) @ WHITENER.T, rtol=1e-4)
    np.testing.assert_allclose(found.unstandardize(z), x, rtol=1e-5)
    assert found.coordinate_supports.real and found.energy is found.model and found.density is PRIOR


def test_columns_with_a_support_are_standardised_in_unconstrained_space():
    prior = disco.EnergyDistribution(
        lambda x: 0.5 * (x @ x),
        disco.GaussianReference(np.zeros(2), np.eye(2)),
        names=("a", "b"),
        supports={"b": constraints.positive},
    )
    x = np.array([[310.0, 0.5], [250.0, 2.0]])
    unconstrained = np.stack([x[:, 0], np.log(x[:, 1])], axis=1)
    found = evidence(prior)
    z = np.asarray(found.standardize(x))
    np.testing.assert_allclose(z, (unconstrained - LOC) @ WHITENER.T, rtol=1e-4)
    np.testing.assert_allclose(found.unstandardize(z), x, rtol=1e-5)
    assert not found.coordinate_supports.real


def test_a_score_network_has_no_density():
    found = evidence(None, LearnedScore)
    for attribute in ("density", "energy"):
        with pytest.raises(ValueError, match="score network, which learns a score only"):
            getattr(found, attribute)
