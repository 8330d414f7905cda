"""Labelled ArviZ objects from runs of models with learned priors, in ArviZ 0.x and 1.x."""

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr
from helpers.models import nuts
from helpers.smc import QUICK, tempered
from helpers.three_coordinates import NAMES, PRIOR, prior_of
from numpyro.infer import MCMC, NUTS, DiscreteHMCGibbs

import numpyro_disco as disco
from numpyro_disco.tables.variable import Variable
from numpyro_disco.tables.variables import Variables

TABLE = pd.DataFrame(
    [[1.0, np.nan, 0.5], [np.nan, 0.2, np.nan], [0.1, 0.2, 0.3]],
    index=["x", "y", "z"],
    columns=NAMES,
)
ENTRIES = ["x.b", "y.a", "y.c"]


def nuts_run(model, *args):
    mcmc = nuts(model, num_warmup=20, num_samples=25, num_chains=2)
    mcmc.run(jax.random.key(0), *args)
    return mcmc


def with_table(table, padded=None):
    x = disco.sample("rows", PRIOR, obs=table, padded=padded, deterministic=True)
    numpyro.sample("y", dist.Normal(x[:, 0].sum(), 1.0), obs=0.3)


def check_entries(data, whole, labels):
    """Each label is beside the draws of that entry of the completed table."""
    posterior = data["posterior"]
    missing = posterior["rows.missing"]
    assert (
        missing.dims[-1] == "rows.entry" and missing.coords["rows.entry"].values.tolist() == labels
    )
    rows, columns = (posterior.coords[f"rows.{what}"].values for what in ("row", "column"))
    assert [f"{r}.{c}" for r, c in zip(rows, columns, strict=True)] == labels
    index = [list(TABLE.index).index(r) if r in TABLE.index else int(r) for r in rows]
    place = [NAMES.index(column) for column in columns]
    np.testing.assert_array_equal(missing.values, whole[..., index, place])


def test_missing_entries_are_labelled_by_row_and_column():
    mcmc = nuts_run(with_table, TABLE)
    data = disco.to_arviz(mcmc)
    whole = np.asarray(mcmc.get_samples(group_by_chain=True)["rows"])
    check_entries(data, whole, ENTRIES)
    assert list(az.summary(data, var_names=["rows.missing"]).index) == [
        f"rows.missing[{label}]" for label in ENTRIES
    ]


@pytest.mark.parametrize("sampler", ["NUTS", "TemperedSMC"])
def test_padding_is_left_out(sampler):
    table = TABLE.to_numpy()
    if sampler == "NUTS":
        run = nuts_run(lambda: with_table(jnp.asarray(table), padded=True))
    else:
        run = tempered(with_table, table, **QUICK)
    whole = np.asarray(run.get_samples(group_by_chain=True)["rows"])
    assert run.get_samples()["rows.missing"].shape[1:] == ((3, 3) if sampler == "NUTS" else (3,))
    check_entries(disco.to_arviz(run), whole, ["0.b", "1.a", "1.c"])


def test_vectors_are_labelled_and_constants_left_out():
    clamped = PRIOR.clamp({"b": 0.4})

    def model():
        numpyro.sample("whole", PRIOR)
        numpyro.sample("part", clamped)
        with numpyro.plate("member", 2):
            numpyro.sample("many", PRIOR)
            z = numpyro.sample("z", dist.Normal())
            numpyro.deterministic("twice", 2 * z)

    data = disco.to_arviz(nuts_run(model), dims={"unknown": ["k"]})
    posterior = data["posterior"]
    assert posterior["whole"].coords["whole.coordinate"].values.tolist() == list(NAMES)
    assert posterior["part"].coords["part.coordinate"].values.tolist() == ["a", "c"]
    assert posterior["many"].dims == ("chain", "draw", "member", "many.coordinate")
    # Plates are found as ArviZ finds them.
    assert posterior["z"].dims == posterior["twice"].dims == ("chain", "draw", "member")
    assert not az.summary(data).isna().any(axis=None)


def test_draws_of_categories_have_labels():
    cuts = ("fair", "good", "ideal")
    reference = disco.MixedReference(
        jnp.ones(1), jnp.zeros((1, 2)), jnp.eye(2)[None], jnp.zeros((1, 2, 3)), num_levels=(3, 0)
    )
    prior = disco.EnergyDistribution(
        lambda x: 0.5 * x[1] ** 2,
        reference,
        names=("cut", "price"),
        columns={"cut": disco.Categories(cuts)},
    )
    mcmc = MCMC(
        DiscreteHMCGibbs(NUTS(lambda: disco.sample("x", prior))),
        num_warmup=2,
        num_samples=30,
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0))
    posterior = disco.to_arviz(mcmc)["posterior"]
    drawn = posterior["x.cut.level"][posterior["x.cut"]]
    assert drawn.dims == ("chain", "draw")
    assert set(drawn.values.ravel()) == set(cuts)
    np.testing.assert_array_equal(np.array(cuts)[posterior["x.cut"].values], drawn.values)


def test_a_potential_function_is_refused():
    mcmc = MCMC(NUTS(potential_fn=lambda x: x**2), num_warmup=5, num_samples=5, progress_bar=False)
    mcmc.run(jax.random.key(0), init_params=jnp.array(0.1))
    with pytest.raises(ValueError, match="a sampler with a `model`"):
        disco.to_arviz(mcmc)


def test_names_with_slashes_are_mapped_without_clashes():
    prior = prior_of(names=("a/b", "a_b", "c"))

    def model(y):
        x = disco.sample("x", prior)
        numpyro.sample("y", dist.Normal(x[0], 1.0), obs=y)

    run = nuts_run(model, 0.3)
    with pytest.warns(UserWarning, match="cannot store names with '/'.*'x.a/b': 'x.a_b_'"):
        data = disco.to_arviz(run, log_likelihood=True)
    assert set(data["posterior"].data_vars) == {"x.a_b_", "x.a_b", "x.c"}
    draws = run.get_samples(group_by_chain=True)
    np.testing.assert_array_equal(data["posterior"]["x.a_b_"], draws["x.a/b"])
    np.testing.assert_array_equal(data["posterior"]["x.a_b"], draws["x.a_b"])
    assert data["log_likelihood"]["y"].shape == (2, 25)


def test_the_evidence_of_a_run():
    def model(y):
        numpyro.sample("y", dist.Normal(numpyro.sample("m", dist.Normal(0, 1)), 1), obs=y)

    run = tempered(model, 0.3, **QUICK | {"num_particles": 64, "num_chains": 3})
    data = disco.to_arviz(run)
    found = data["sample_stats"]["log_normalizer"]
    assert found.dims == ("chain",)
    np.testing.assert_array_equal(found, run.log_normalizer)
    for group in ("posterior", "sample_stats"):
        attributes = data[group].attrs
        error = float(run.log_normalizer_error)
        assert attributes["log_normalizer_error"] == pytest.approx(error)
        assert abs(attributes["log_normalizer"] - float(found.mean())) < 0.1
        assert attributes["impossible_share"] == 0
    # ArviZ's own converter repeats it for each draw.
    whole = az.from_numpyro(run)["sample_stats"]["log_normalizer"]
    np.testing.assert_array_equal(whole, np.repeat(found.values[:, None], 64, axis=1))


def test_a_frame_at_a_vector_site_is_stored_in_the_order_of_the_prior():
    frame = TABLE.fillna(0.4)

    def model():
        numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("x", PRIOR, obs=frame[list(NAMES[::-1])])

    observed = disco.to_arviz(nuts_run(model))["observed_data"]["x"]
    np.testing.assert_allclose(observed, frame, rtol=1e-6)


def test_an_observed_image_keeps_its_shape():
    prior = prior_of(names=None).over(Variables((Variable("", (1, 3)),)))

    def model():
        numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("image", prior, obs=xr.DataArray([[0.1, 0.2, 0.3]]))

    observed = disco.to_arviz(nuts_run(model))["observed_data"]["image"]
    np.testing.assert_allclose(observed, [[0.1, 0.2, 0.3]], rtol=1e-6)
