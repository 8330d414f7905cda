"""Numbers for a fixed set of seeds, which a change of structure must not change.

Draws, evidences and held-out losses are compared with `fixed_seeds.json`, which was written before
the package was divided into folders. They are computed in double precision, so that rounding,
which differs between machines and which Adam amplifies, stays below the tolerance. Draws are those
of energies in closed form: over the many trajectories of a tempered run, the last digits of
trained weights decide which proposals are accepted. After a change that is meant to change
numbers, rewrite the file: `python tests/integration/test_fixed_seeds.py`.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from numpyro.infer import MCMC, NUTS

import numpyro_disco as disco

pytestmark = pytest.mark.training

FILE = Path(__file__).with_name("fixed_seeds.json")
KEY = jax.random.key(1)
POINTS = np.array([[-1.0, 0.5], [2.0, 2.0], [0.3, -0.4]])
TABLE = np.array([[0.1, np.nan, 0.2], [np.nan, 1.0, np.nan], [0.5, 2.0, 0.3]])
SMALL = {"batch_size": 64, "num_steps": 100, "progress_bar": False}
NETWORK = {"width": 16, "num_blocks": 1}
EFFECTS = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
ERRORS = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])


def two_clusters(num_rows=300):
    rng = np.random.default_rng(0)
    cluster = rng.random(num_rows) < 0.3
    a = np.where(cluster, 2.0, -1.0) + 0.5 * rng.normal(size=num_rows)
    b = 0.5 * a**2 + 0.3 * rng.normal(size=num_rows)
    return np.stack([a, b], axis=1)


def fitted(rows, max_components=2, **settings):
    objective = settings.get("objective")
    if "reference" not in settings and (objective is None or objective.is_contrastive):
        settings["reference"] = disco.MixtureFit(max_components=max_components)
    return disco.fit(KEY, rows, network=disco.MLP(**NETWORK), **SMALL, **settings)


def numbers_of(fit):
    return {
        "held_out_loss": fit.history.held_out_loss,
        "loss": fit.history.loss[1:],
        "best_step": fit.best_step,
        "score": fit.score(POINTS),
    }


def contrastive_fit():
    fit = fitted(two_clusters(), max_components=4, names=("a", "b"))
    return numbers_of(fit) | {
        "energy": fit.distribution.energy(POINTS),
        "components": list(fit.components.values()),
    }


def disco_fit():
    fit = disco.fit(KEY, two_clusters(), noise_scale=0.1, network=disco.MLP(**NETWORK), **SMALL)
    return numbers_of(fit) | {
        "energy": fit.distribution.energy(POINTS),
    }


def disco_fit_with_a_chosen_noise_scale():
    objective = disco.Disco(
        noise_scale="auto", undo_smoothing=True, target="draw", posterior_rows=128
    )
    reference = disco.MixtureFit(max_components=2)
    fit = fitted(two_clusters(), objective=objective, reference=reference)
    # The last digits of the posterior over rows move trained weights by more than the tolerance.
    return {
        "noise_scale": fit.settings.objective.noise_scale,
        "held_out_loss": fit.history.held_out_loss,
    }


def other_objectives():
    objectives = {
        "diffusion": disco.Diffusion(noise_scale=0.1),
        "sliced": disco.Sliced(),
    }
    found = {n: numbers_of(fitted(two_clusters(), objective=o)) for n, o in objectives.items()}
    gaussian = fitted(two_clusters(), objective=disco.Contrastive(), reference="gaussian")
    return found | {"contrastive_from_gaussian": numbers_of(gaussian)}


def fit_of_a_table():
    rows = two_clusters()
    table = {
        "count": np.round(3 * rows[:, 1]).clip(0),
        "mass": np.exp(rows[:, 0]),
        "c": rows[:, 1] + 2.0 * np.sinh(rows[:, 0]),
    }
    table["c"] = np.where(np.arange(300) % 7 == 0, np.nan, table["c"])
    supports = {"count": constraints.integer_interval(0, 99), "mass": constraints.positive}
    fit = fitted(
        table,
        supports=supports,
        transform="sinh_arcsinh",
        missing=disco.Refit(num_refits=1),
        objective=disco.Disco(noise_scale=0.2),
    )
    points = np.array([[2.0, 0.5, -1.0], [5.0, 3.0, 4.0]])
    return {
        "held_out_loss": fit.history.held_out_loss,
        "log_prob": fit.distribution.log_prob(points),
    }


def prior():
    q = disco.MixtureReference(
        jnp.array([0.7, 0.3]),
        jnp.array([[-1.0, 0.5, 0.0], [2.0, 2.0, 0.5]]),
        jnp.stack([jnp.eye(3), 0.5 * jnp.eye(3)]),
    )

    def energy(y):
        return -q.log_prob(y) + 0.5 * (y[1] - 0.5 * y[0] ** 2) ** 2 + jnp.cos(y[2])

    supports = {"b": constraints.positive}
    return disco.EnergyDistribution(energy, q, names=("a", "b", "c"), supports=supports)


def conditionals():
    p, key = prior(), jax.random.key(3)
    marginal = disco.log_marginal(key, p, TABLE, num_particles=64, num_chains=3)
    normalized = p.normalize(key, num_particles=64, num_chains=3)
    calibration = disco.calibration(key, p, TABLE, num_samples=9, num_particles=64)
    check = disco.check_conditional(key, p, TABLE[:2], num_samples=20, num_particles=64)
    return {
        "sample": p.sample(key, (3,)),
        "sample_conditional": disco.sample_conditional(key, p, TABLE, 2, num_particles=64),
        "impute": disco.impute(key, p, TABLE, 2),
        "log_marginal": marginal.log_density,
        "log_marginal_error": marginal.error,
        "log_normalizer": normalized.log_normalizer,
        "log_normalizer_error": normalized.log_normalizer_error,
        "clamped": p.clamp({"a": jnp.array([0.3, 1.0])}).temper(1.5).sample(key, (2,)),
        "check_conditional": check.percentile,
        "calibration": np.concatenate([calibration.ranks[name] for name in "abc"]),
    }


def schools(effects, errors):
    average = numpyro.sample("average", dist.Normal(0.0, 10.0))
    spread = numpyro.sample("spread", dist.LogNormal(1.0, 1.0))
    true = numpyro.sample("effects", dist.Normal(average, spread).expand([8]).to_event(1))
    numpyro.sample("y", dist.Normal(true, errors).to_event(1), obs=effects)


def regression(prior, table, y):
    x = disco.sample("x", prior, obs=table)
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(slope * x[..., 0], 0.5), obs=y)


def measured(prior, y):
    x = disco.sample("x", prior)
    numpyro.sample("y", dist.Normal(x[..., 0] + x[..., 2], 0.5), obs=y)


def tempered(model, *args, **settings):
    smc = disco.TemperedSMC(
        model, num_particles=64, num_chains=2, progress_bar=False, throw=False, **settings
    )
    smc.run(jax.random.key(4), *args)
    return smc


def plain_models():
    found = {}
    for kernel in ("hmc", "random_walk"):
        smc = tempered(schools, EFFECTS, ERRORS, kernel=kernel)
        found[kernel] = {
            "log_normalizer": smc.log_normalizer,
            "error": smc.log_normalizer_error,
            "mean": smc.get_samples(True)["effects"].mean((1, 2)),
            "path": smc.log_path_normalizer,
        }
    smc = tempered(
        schools,
        EFFECTS,
        ERRORS,
        chain_length=4,
        num_sweeps=0,
        target_ess=0.8,
        resampling="residual",
        dense_mass=False,
        base={"average": np.random.default_rng(0).normal(5, 5, 100)},
    )
    found["waste_free"] = {
        "log_normalizer": smc.log_normalizer,
        "average": smc.get_samples()["average"][:4],
    }
    return found


def models_with_a_learned_prior():
    p, y = prior(), np.array([0.2, 0.1, 0.4])
    conditioned = numpyro.handlers.condition(measured, {"x.b": 1.3})
    smc = tempered(regression, p, jnp.asarray(TABLE), y)
    found = {
        "missing": {
            "log_normalizer": smc.log_normalizer,
            "slope": smc.get_samples()["slope"][:4],
        }
    }
    smc = tempered(conditioned, p, 0.7)
    found["conditioned"] = {
        "log_normalizer": smc.log_normalizer,
        "a": smc.get_samples()["x.a"][:4],
    }
    settings = {"num_warmup": 20, "num_samples": 5, "progress_bar": False}
    mcmc = MCMC(NUTS(lambda y: regression(p, TABLE, y)), **settings)
    mcmc.run(jax.random.key(4), y)
    found["nuts_missing"] = {"slope": mcmc.get_samples()["slope"]}
    return found


CASES = {
    case.__name__: case
    for case in (
        contrastive_fit,
        disco_fit,
        disco_fit_with_a_chosen_noise_scale,
        other_objectives,
        fit_of_a_table,
        conditionals,
        plain_models,
        models_with_a_learned_prior,
    )
}


def numbers(case):
    with jax.enable_x64(True):
        return jax.tree.map(lambda leaf: np.asarray(leaf, float).tolist(), CASES[case]())


DEFAULT = ("contrastive_fit", "disco_fit")


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=() if c in DEFAULT else pytest.mark.slow) for c in CASES]
)
@pytest.mark.filterwarnings("ignore:.*rarer than one in:UserWarning")
def test_numbers_are_those_of_the_file(case):
    expected = json.loads(FILE.read_text())[case]
    found = numbers(case)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (place, one), other in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        name = jax.tree_util.keystr(place)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, err_msg=name)


if __name__ == "__main__":
    stored = json.loads(FILE.read_text()) | {case: numbers(case) for case in sys.argv[1:] or CASES}
    FILE.write_text(json.dumps({case: stored[case] for case in CASES}, indent=1) + "\n")
