"""Tables with missing entries: one latent for each of them, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.models import CHAIN_SIGMAS, KEY, chain_means, latents, nuts, started, traced
from helpers.priors import FLIP, log_mass
from helpers.smc import QUICK, tempered
from helpers.statistics import assert_within, mean_and_error
from helpers.three_coordinates import (
    COVARIANCE,
    MEAN,
    NUM_MISSING,
    PRIOR,
    TABLE,
    model,
    prior_of,
    with_table,
)
from numpyro import handlers
from numpyro.infer import (
    MCMC,
    NUTS,
)
from numpyro.infer.util import initialize_model
from scipy import stats

import numpyro_disco as disco
from numpyro_disco.models.missing import MissingEntries, PaddedEntries
from numpyro_disco.supports.rows import RowsTransform


def test_exactly_the_missing_entries_are_latent():
    assert latents(lambda: with_table(TABLE)) == {"x.missing": (NUM_MISSING,)}
    trace = traced(with_table, {"x.missing": jnp.arange(6.0)}, TABLE)
    completed = np.asarray(trace["completed"]["value"])
    there = ~np.isnan(TABLE)
    np.testing.assert_array_equal(completed[there], TABLE[there].astype(np.float32))
    np.testing.assert_array_equal(completed[~there], np.arange(6.0))
    site = trace["x.missing"]
    np.testing.assert_allclose(
        site["fn"].log_prob(site["value"]), PRIOR.log_prob(completed).sum(), rtol=1e-5
    )
    # Batches of values, as `Predictive` and ArviZ hand them over.
    batch = jnp.zeros((5, 2, NUM_MISSING))
    assert site["fn"].log_prob(batch).shape == (5, 2)


def test_a_table_of_several_axes():
    table = np.full((2, 2, 3), 0.5)
    table[0, 1, 2] = table[1, 0, 0] = np.nan
    trace = traced(with_table, {"x.missing": jnp.array([7.0, 8.0])}, table)
    completed = trace["completed"]["value"]
    assert completed.shape == (2, 2, 3)
    assert completed[0, 1, 2] == 7.0 and completed[1, 0, 0] == 8.0


def test_a_whole_table_has_no_latent():
    whole = np.random.default_rng(0).normal(size=(5, 3))
    trace = traced(with_table, {}, whole)
    assert list(trace) == ["x.log_prob", "completed"]
    np.testing.assert_allclose(
        trace["x.log_prob"]["fn"].log_factor, PRIOR.log_prob(whole).sum(), rtol=1e-5
    )


def test_the_whole_table_as_a_deterministic_site():
    def recorded():
        disco.sample("x", PRIOR, obs=TABLE, deterministic=True)

    trace = traced(recorded, {"x.missing": jnp.arange(6.0)})
    assert trace["x"]["type"] == "deterministic" and trace["x"]["value"].shape == (4, 3)


# -- plates -------------------------------------------------------------------------------------


def plated(table, size=4, padded=None, subsample_size=None):
    with numpyro.plate("rows", size, subsample_size=subsample_size) as rows:
        taken = table if subsample_size is None else jnp.asarray(table)[rows]
        x = disco.sample("x", PRIOR, obs=taken, padded=padded)
    numpyro.deterministic("completed", x)


def test_a_table_inside_a_plate_counts_each_row_once():
    assert latents(plated, TABLE) == latents(with_table, TABLE)
    values = {"x.missing": jnp.arange(6.0)}
    inside, outside = traced(plated, values, TABLE), traced(with_table, values, TABLE)
    np.testing.assert_array_equal(inside["completed"]["value"], outside["completed"]["value"])
    site, there = inside["x.missing"], outside["x.missing"]
    assert site["cond_indep_stack"] == [] and site["scale"] is None
    np.testing.assert_allclose(
        site["fn"].log_prob(site["value"]), there["fn"].log_prob(there["value"]), rtol=1e-6
    )
    # A row without missing entries has a factor, and it too counts once.
    whole = np.zeros((4, 3))
    factor = traced(plated, {}, whole)["x.log_prob"]
    np.testing.assert_allclose(factor["fn"].log_factor, PRIOR.log_prob(whole).sum(), rtol=1e-6)
    assert factor["cond_indep_stack"] == []


def test_a_table_that_does_not_fit_its_plates():
    with pytest.raises(ValueError, match=r"table of shape \(5, 3\).*one row for each.*\(4, 3\)"):
        latents(plated, TABLE, 5)


# -- padding ------------------------------------------------------------------------------------


def entries(table, value):
    """The completed rows of a padded latent, and the log density of each row and its padding."""
    there = ~np.isnan(table)
    completed = np.where(there, table, value)
    # The padding is normal with the location and scale of the prior's coordinates.
    padding = dist.Normal(PRIOR.loc, PRIOR.scale).log_prob(value)
    return completed, PRIOR.log_prob(completed) + np.where(there, padding, 0.0).sum(-1)


VALUE = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)


def test_a_traced_table_has_a_latent_for_each_entry_and_does_not_compile_again():
    traces = 0

    @jax.jit
    def log_density_and_rows(table):
        nonlocal traces
        traces += 1
        trace = traced(with_table, {"x.missing": VALUE}, table)
        site = trace["x.missing"]
        return site["fn"].log_prob(site["value"]), trace["completed"]["value"]

    for table in (TABLE, TABLE[::-1], np.full((4, 3), np.nan), np.zeros((4, 3))):
        log_prob, rows = log_density_and_rows(table)
        completed, expected = entries(table, VALUE)
        np.testing.assert_allclose(rows, completed, rtol=1e-6)
        np.testing.assert_allclose(log_prob, expected.sum(), rtol=1e-5)
    assert traces == 1


def test_a_padded_table_in_a_subsampled_plate_is_scaled():
    table = np.concatenate([TABLE, TABLE])
    with handlers.trace() as trace, handlers.seed(rng_seed=0):
        with handlers.substitute(data={"x.missing": VALUE}):
            plated(table, size=8, subsample_size=4)
    site = trace["x.missing"]
    taken = np.asarray(trace["rows"]["value"])
    assert site["scale"] == 2.0 and site["fn"].batch_shape == (4,)
    _, expected = entries(table[taken], VALUE)
    np.testing.assert_allclose(site["fn"].log_prob(site["value"]), expected, rtol=1e-5)


def test_a_table_that_is_concrete_first_and_traced_later_needs_padded():
    def run(padded):
        mcmc = MCMC(
            NUTS(lambda table: disco.sample("x", PRIOR, obs=table, padded=padded)),
            num_warmup=1,
            num_samples=1,
            jit_model_args=True,
            progress_bar=False,
        )
        mcmc.run(KEY, jnp.asarray(TABLE))
        return mcmc.get_samples()["x.missing"].shape

    assert run(True) == (1, 4, 3)
    with pytest.raises(ValueError) as refusal:
        run(None)
    assert "padded=True" in refusal.value.__notes__[0]


# -- refusals -----------------------------------------------------------------------------------


def test_a_partly_missing_vector_in_condition_is_refused():
    """NaN in `condition` would give a NaN log density; the error names the call to use."""
    conditioned = handlers.condition(lambda: numpyro.sample("x", PRIOR), {"x": TABLE[0]})

    def with_another():
        conditioned()
        numpyro.sample("z", dist.Normal())

    with pytest.raises(ValueError, match=r"without NaN.*numpyro_disco.sample\(name, prior, obs="):
        started(with_another)
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite numbers inside the support of 'x.a'"):
            started(handlers.condition(model, {"x.a": value}), PRIOR)


def test_tables_that_are_refused():
    with pytest.raises(ValueError, match=r"last axis of 3 for `obs`.*got shape \(4, 2\)"):
        latents(lambda: with_table(TABLE[:, :2]))
    with pytest.raises(ValueError, match="concrete table.*`padded=False`"):
        jax.jit(lambda table: disco.sample("x", PRIOR, obs=table, padded=False))(TABLE)
    with pytest.raises(ValueError, match="unclamped prior with `obs`"):
        latents(lambda: with_table(TABLE, PRIOR.clamp({"a": 0.0})))
    with pytest.raises(ValueError, match="finite numbers, or NaN"):
        latents(lambda: with_table(np.where(np.isnan(TABLE), np.inf, TABLE)))


def test_condition_of_a_table_names_its_sites():
    table = jnp.array([[0.5, jnp.nan, 0.1]])
    model = handlers.condition(lambda: disco.sample("x", PRIOR, obs=table), {"x.b": 2.0})
    with pytest.raises(ValueError, match="its sites are .'x.missing'"):
        initialize_model(jax.random.key(0), model)


def test_missing_entries_are_not_drawn_forward():
    with pytest.raises(NotImplementedError, match="`numpyro_disco.impute`"):
        handlers.trace(handlers.seed(with_table, 0)).get_trace(TABLE)


# -- coordinates ---------------------------------------------------------------------------------

# A prior that equals its reference.
Q = disco.GaussianReference(MEAN, COVARIANCE)
EQUAL = disco.EnergyDistribution(lambda x: -Q.log_prob(x), Q, names=("a", "b", "c"))


def excess(padded, table=TABLE):
    """Log joint density in unconstrained space minus that of standard normals, at five points."""
    info = started(lambda: disco.sample("x", EQUAL, obs=table, padded=padded))
    shape = info.param_info.z["x.missing"].shape
    u = jnp.asarray(np.random.default_rng(0).normal(size=(5, *shape)), jnp.float32)
    log_joint = -jax.jit(jax.vmap(info.potential_fn()))({"x.missing": u})
    return log_joint - stats.norm.logpdf(u).reshape(5, -1).sum(-1)


def log_observed(table):
    """Log density of the observed entries, in closed form."""
    total = 0.0
    for row in table:
        seen = ~np.isnan(row)
        if seen.any():
            covariance = COVARIANCE[np.ix_(seen, seen)]
            total += stats.multivariate_normal.logpdf(row[seen], MEAN[seen], covariance)
    return total


@pytest.mark.parametrize("padded", [False, True])
def test_unconstrained_entries_are_standard_normal_if_the_reference_is_the_prior(padded):
    """What is left over is the evidence, so log determinants count exactly."""
    np.testing.assert_allclose(excess(padded), log_observed(TABLE), rtol=1e-4)


def test_a_dropped_log_determinant_is_detected(monkeypatch):
    monkeypatch.setattr(
        RowsTransform, "log_abs_det_jacobian", lambda self, x, y, i=None: jnp.zeros(y.shape[:-1])
    )
    assert (abs(excess(False) - log_observed(TABLE)) > 0.1).all()


# -- draws --------------------------------------------------------------------------------------


def test_a_table_as_an_argument_of_tempered_smc():
    smc = tempered(with_table, TABLE, jit_model_args=False, **QUICK)
    completed = np.asarray(smc.get_samples()["completed"])
    assert completed.shape == (80, 4, 3)
    there = ~np.isnan(TABLE)
    expected = np.broadcast_to(TABLE.astype(np.float32)[there], (80, there.sum()))
    np.testing.assert_array_equal(completed[:, there], expected)
    assert (completed.std(0)[~there] > 0.1).all()


@pytest.mark.statistics
def test_the_evidence_of_a_padded_table_is_that_of_the_table():
    """Closed form: the log density of the observed entries under the Gaussian, plus log Z."""
    smc = disco.TemperedSMC(with_table, num_particles=1024, num_chains=8, progress_bar=False)
    log_z = log_mass(COVARIANCE)

    def truth(table):
        return log_observed(table) + len(table) * log_z

    tables = TABLE, TABLE[::-1] + 0.5
    for key, table in enumerate(tables):
        smc.run(jax.random.key(key), table)
        ratio = np.exp(np.asarray(smc.log_normalizer, np.float64) - truth(table))
        estimate, error = mean_and_error(ratio)
        assert_within(estimate, 1.0, error, sigmas=7.4, resolution=0.2, label="evidence ratio")
    # The other table has other missing entries, and another evidence.
    with pytest.raises(AssertionError, match="is off"):
        ratio = np.exp(np.asarray(smc.log_normalizer, np.float64) - truth(TABLE))
        estimate, error = mean_and_error(ratio)
        assert_within(estimate, 1.0, error, sigmas=7.4, resolution=np.inf, label="twin")


def conditional_means(table):
    """Closed-form means of missing entries given the rest of their rows, in table order."""
    completed = table.copy()
    for row in completed:
        free, seen = np.isnan(row), ~np.isnan(row)
        gain = COVARIANCE[np.ix_(free, seen)] @ np.linalg.inv(COVARIANCE[np.ix_(seen, seen)])
        row[free] = MEAN[free] + gain @ (row - MEAN)[seen]
    return completed[np.isnan(table)]


@pytest.mark.statistics
def test_missing_entries_of_a_gaussian_under_nuts():
    def rows(prior):
        disco.sample("x", prior, obs=TABLE)

    mcmc = nuts(rows, num_warmup=150, num_samples=500, num_chains=8, jit_model_args=True)

    def check():
        estimate, error = chain_means(mcmc, ["x.missing"])
        assert_within(
            estimate,
            conditional_means(TABLE),
            error,
            resolution=0.8,
            sigmas=CHAIN_SIGMAS,
            label="conditional mean",
        )

    mcmc.run(KEY, PRIOR)
    check()
    mcmc.run(KEY, prior_of(covariance=COVARIANCE * FLIP))
    with pytest.raises(AssertionError, match="is off"):
        check()


# -- references ----------------------------------------------------------------------------------


@pytest.mark.parametrize("padded", [False, True])
def test_the_reference_is_the_conditional_of_each_row(padded):
    """Draws keep the observed entries, and their density is that of the rows' reference."""
    observed, values = ~np.isnan(TABLE), np.nan_to_num(TABLE)
    if padded:
        fn = PaddedEntries(PRIOR, jnp.asarray(values), jnp.asarray(observed))
    else:
        fn = MissingEntries(PRIOR, jnp.asarray(values), observed)
    draws = fn.reference.sample(KEY, (5,))
    assert draws.shape == (5, *fn.batch_shape, *fn.event_shape)
    completed = fn.complete(draws)
    expected_values = np.broadcast_to(values.astype(np.float32)[observed], (5, observed.sum()))
    np.testing.assert_array_equal(completed[:, observed], expected_values)
    log_prob = PRIOR.reference_given(values, observed).log_prob(completed)
    if padded:
        log_prob += fn.padding(draws)
    else:
        log_prob = log_prob.sum(-1)
    np.testing.assert_allclose(fn.reference.log_prob(draws), log_prob, rtol=1e-5)
    assert fn.labels == (["0", "1", "1", "3", "3", "3"], ["b", "a", "c", "a", "b", "c"])
