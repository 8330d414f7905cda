"""A small program of a user: it runs from a wheel, and its types hold under `mypy --strict`.

`assert_type` refuses `Any`, so it stands where a user writes no annotation. Run it as
`python .ci/program.py FOLDER`; it leaves the file of a prior in the folder.
"""

import pathlib
import sys
from typing import Any, assert_type

import jax
import numpy as np
import numpy.typing as npt
import numpyro
import numpyro.distributions as dist

import numpyro_disco as disco

Rows = npt.NDArray[np.floating[Any]]


def learn(rows: Rows) -> disco.FitResult:
    """Learn a prior, with every choice as an object."""
    fit = disco.fit(
        jax.random.key(0),
        rows,
        names=("height", "weight"),
        objective=disco.Contrastive(),
        network=disco.MLP(width=8, num_blocks=1),
        reference=disco.MixtureFit(max_components=2),
        optimizer=disco.AdamW(),
        num_steps=20,
        batch_size=64,
        progress_bar=False,
    )
    assert_type(fit, disco.FitResult)
    assert_type(fit.distribution, disco.EnergyDistribution)
    assert_type(fit.history, disco.History)
    return fit


def ask(prior: disco.EnergyDistribution, rows: Rows) -> None:
    """Draw, condition, impute and weigh."""
    assert_type(prior.names, tuple[str, ...])
    assert_type(prior.log_prob(rows), jax.Array)
    assert_type(prior.score(rows), jax.Array)
    assert_type(prior.sample(jax.random.key(1), (10,)), jax.Array)
    assert_type(prior.clamp({"height": 1.7}).temper(2.0), disco.EnergyDistribution)
    assert_type(prior.normalize(jax.random.key(2)), disco.EnergyDistribution)
    draws = disco.sample_conditional(jax.random.key(3), prior, {"height": 1.7}, num_samples=10)
    assert draws.shape == (10, 2)
    marginal = disco.log_marginal(jax.random.key(4), prior, rows[:3])
    assert_type(marginal, disco.LogMarginal)


def infer(prior: disco.EnergyDistribution) -> None:
    """Put the prior into a model, and draw from its posterior."""

    def model(weight: float) -> None:
        person = disco.sample("person", prior)
        numpyro.sample("weight", dist.Normal(person[..., 1], 1.0), obs=weight)

    smc = disco.TemperedSMC(model, num_particles=64, num_chains=2, progress_bar=False)
    smc.run(jax.random.key(5), weight=70.0)
    assert_type(smc, disco.TemperedSMC)
    assert_type(smc.get_samples(), dict[str, jax.Array])
    assert_type(smc.log_normalizer, jax.Array)


def store(fit: disco.FitResult, path: pathlib.Path) -> None:
    """Save a prior, and read it."""
    disco.save(path, fit.distribution)
    prior = disco.load(path)
    assert isinstance(prior, disco.EnergyDistribution)
    assert_type(prior.names, tuple[str, ...])


if __name__ == "__main__":
    rows = np.random.default_rng(0).normal([1.7, 70.0], [0.1, 10.0], (300, 2))
    fit = learn(rows)
    ask(fit.distribution, rows)
    infer(fit.distribution)
    store(fit, pathlib.Path(sys.argv[1]) / "prior.npz")
    print(f"numpyro_disco {disco.__version__} from {disco.__file__}")
