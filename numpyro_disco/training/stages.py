"""Learning in stages: a second one where draws of the reference are too far from the rows.

A contrast learns the ratio of two densities from rows and draws that lie among each other. Where
held-out rows and draws of the reference are told apart almost always, there is little left to learn
it from. The contrast then ends early, and the density is learned by maximum likelihood. The result
is one energy with the same reference, whichever stage it comes from.
"""

from __future__ import annotations

import dataclasses

from numpyro_disco.training.learning import Task, learn
from numpyro_disco.training.network import MLP
from numpyro_disco.training.objectives import Likelihood
from numpyro_disco.training.result import FitResult
from numpyro_disco.training.settings import NUM_STEPS, STRICT_STEPS

SECOND = "_likelihood"
"""What the second stage adds to the name of its part of the checkpoint."""


def learn_in_stages(task: Task, name: str, resume: FitResult | None) -> FitResult:
    """Learn from complete rows, in two stages where the reference is far.

    Args:
        task: what to learn from, and how.
        name: the part of the checkpoint that this training owns.
        resume: an earlier result to continue, or None.

    Returns:
        The result of the last stage.
    """
    first = learn(task, name, resume)
    steps, losses = first.history.step, first.history.held_out_loss
    objective = first.settings.objective
    if first.interrupted or not objective.is_too_far(int(steps[-1]), float(losses[-1])):
        return first
    settings = dataclasses.replace(
        task.settings,
        objective=Likelihood(),
        network=task.settings.network if isinstance(task.settings.network, MLP) else MLP(),
        reference=first.distribution.joint_reference,
        num_steps=task.settings.num_steps * NUM_STEPS // STRICT_STEPS,
    )
    second = learn(task._replace(settings=settings), name + SECOND, None)
    return dataclasses.replace(second, components=first.components)
