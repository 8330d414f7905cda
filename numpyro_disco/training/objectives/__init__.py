"""Training objectives.

`Contrastive` is the default. It learns the density of the rows, masses of modes included, as far as
draws of the reference reach. `Disco` learns the density of the rows smoothed by Gaussian noise,
by score matching, and needs no reference near the rows. `Likelihood` maximises the likelihood of a
normalised density, for thin structure far from every mixture. The others are for comparison and
teaching: `Denoising`, `Implicit`, `Hutchinson` and `Sliced` are classical score matching;
`Multiscale` and `Diffusion` learn averages of several scores; `DiscoScore` trains a score network
instead of an energy; `Joint` adds the contrastive and the DISCO loss.

All share the protocol `Objective` (`base.py`): a source of batches, the loss of one example, and
the loss of one held-out row.
"""

from numpyro_disco.training.objectives.base import Objective
from numpyro_disco.training.objectives.contrastive import Contrastive
from numpyro_disco.training.objectives.denoising import Denoising
from numpyro_disco.training.objectives.disco import Disco, DiscoScore
from numpyro_disco.training.objectives.implicit import Hutchinson, Implicit, Sliced
from numpyro_disco.training.objectives.joint import Joint
from numpyro_disco.training.objectives.likelihood import Likelihood
from numpyro_disco.training.objectives.multiscale import Diffusion, Multiscale

OBJECTIVES: dict[str, type[Objective]] = {
    "contrastive": Contrastive,
    "disco": Disco,
    "disco_score": DiscoScore,
    "joint": Joint,
    "likelihood": Likelihood,
    "denoising": Denoising,
    "multiscale": Multiscale,
    "diffusion": Diffusion,
    "implicit": Implicit,
    "hutchinson": Hutchinson,
    "sliced": Sliced,
}
"""Objectives by the names that `fit` accepts for objectives with default settings."""

__all__ = [
    "OBJECTIVES",
    "Contrastive",
    "Denoising",
    "Diffusion",
    "Disco",
    "DiscoScore",
    "Hutchinson",
    "Implicit",
    "Joint",
    "Likelihood",
    "Multiscale",
    "Objective",
    "Sliced",
]
