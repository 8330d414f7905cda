"""Learning in stages: a second one where draws of the reference are too far from the rows.

A contrast learns the ratio of two densities from rows and draws that lie among each other. Where
some columns are nearly functions of others, or only a small share of the reference's draws is
effective under what was learned, it has had little to learn from. The density is then also learned
by maximum likelihood, which needs no draws, and held-out rows choose. The result is one energy with
the same reference in either case.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from numpyro_disco._random import host_generator
from numpyro_disco._statistics import selected
from numpyro_disco._typing import Array
from numpyro_disco.energy.learned import LearnedEnergy
from numpyro_disco.references.base import host_draws
from numpyro_disco.training.determined import find_determined
from numpyro_disco.training.evidence import FitEvidence
from numpyro_disco.training.learning import Task, learn
from numpyro_disco.training.network import MLP
from numpyro_disco.training.objectives import Contrastive, Likelihood
from numpyro_disco.training.result import FitResult
from numpyro_disco.training.settings import NUM_STEPS, STRICT_STEPS

SMALL_SHARE = 0.05
"""Effective share of the reference's draws below which there is a second stage."""
NUM_POINTS = 8192
"""Draws that tell the effective share, and most held-out rows that choose."""
SECOND = "_likelihood"
"""What the second stage adds to the name of its part of the checkpoint."""


def learn_in_stages(task: Task, name: str, resume: FitResult | None) -> FitResult:
    """Learn from complete rows, in two stages where the reference is far.

    Args:
        task: what to learn from, and how.
        name: the part of the checkpoint that this training owns.
        resume: an earlier result to continue, or None.

    Returns:
        The result of the stage under which held-out rows are likelier.
    """
    first = learn(task, name, resume)
    objective, network = first.settings.objective, task.settings.network
    goes_on = isinstance(objective, Contrastive) and objective.stages and isinstance(network, MLP)
    if first.interrupted or not goes_on:
        return first
    weights = _weights_of_draws(task.keys.train, first.evidence.energy)
    if weights.share > SMALL_SHARE and not _some_are_determined(task.prepared.rows):
        return first
    settings = dataclasses.replace(
        task.settings,
        objective=Likelihood(),
        reference=first.distribution.joint_reference,
        num_steps=task.settings.num_steps * NUM_STEPS // STRICT_STEPS,
    )
    second = learn(task._replace(settings=settings), name + SECOND, None)
    # Mass that the draws have found beyond one is no gain.
    before = _mean_log_density(first.evidence) - max(0.0, weights.log_mean)
    if not second.interrupted and _mean_log_density(second.evidence) > before:
        return dataclasses.replace(second, components=first.components)
    return first


def _some_are_determined(rows: np.ndarray) -> bool:
    """True if some columns are nearly functions of others, which a contrast may not notice."""
    return bool(find_determined(rows, np.arange(rows.shape[1])))


class _Weights(NamedTuple):
    """The weights exp(-f) of draws of the reference."""

    share: float
    """Effective number of the draws over their number."""
    log_mean: float
    """Log of the mean weight, an estimate of log Z."""


def _weights_of_draws(rng_key: Array, energy: LearnedEnergy) -> _Weights:
    draws = host_draws(host_generator(rng_key), energy.reference.components(), NUM_POINTS)
    corrections = _at_points(lambda energy, z: energy.parts(z)[1], energy, draws)
    total = logsumexp(-corrections)
    share = np.exp(2 * total - logsumexp(-2 * corrections)) / NUM_POINTS
    return _Weights(float(share), float(total - np.log(NUM_POINTS)))


def _mean_log_density(evidence: FitEvidence) -> float:
    """Mean log density of held-out rows, as far as it is normalised, in unconstrained space."""
    energies = _at_points(LearnedEnergy.standardized, evidence.energy, evidence.held_out)
    weights = selected(evidence.held_out_weights, slice(NUM_POINTS))
    mean = np.average(energies[:NUM_POINTS], weights=weights)
    return float(np.asarray(evidence.model.log_det) - mean)


def _at_points(
    function: Callable[[LearnedEnergy, Array], Array], energy: LearnedEnergy, points: np.ndarray
) -> np.ndarray:
    """A function of the energy and of one point at the first `NUM_POINTS` points (n, D)."""
    z = jnp.asarray(points[:NUM_POINTS], jnp.result_type(float))

    @jax.jit
    def every(energy: LearnedEnergy, z: Array) -> Array:
        return jax.lax.map(lambda one: function(energy, one), z, batch_size=1024)

    return np.asarray(every(energy, z), np.float64)
