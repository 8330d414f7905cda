"""TemperedSMC on a skewed target with unequal modes, and broken twins that must fail the checks."""

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.models import nuts
from helpers.priors import gaussian_prior, log_mass
from helpers.smc import RUN_SIGMAS, tempered
from helpers.statistics import assert_within, mean_and_error
from scipy.special import gammaln
from scipy.stats import norm

import numpyro_disco as disco
from numpyro_disco.tempering import kernels, moves, program, resampling, status, sweep
from numpyro_disco.tempering.program import tempered_smc
from numpyro_disco.tempering.proposals import fit_proposal
from numpyro_disco.tempering.settings import TemperingSettings

RUNS = 20
WEIGHTS, MEANS, DEVIATIONS = np.array([0.25, 0.75]), np.array([-2.5, 1.5]), np.array([0.4, 0.7])
SHAPE = 2.5
LOG_MASS = 3.7


def skewed_energy(x):
    """Energy of mass e^3.7: the log of a Gamma variable and, given it, two unequal modes.

    The first coordinate has density exp(a u - e^u) / Gamma(a). The second follows a mixture that
    the first shifts, which does not change the mass.
    """
    u, v = x[0], x[1] - 0.3 * x[0]
    log_gamma = SHAPE * u - jnp.exp(u) - gammaln(SHAPE)
    log_modes = jax.scipy.special.logsumexp(
        jnp.log(WEIGHTS) + dist.Normal(MEANS, DEVIATIONS).log_prob(v)
    )
    return -(LOG_MASS + log_gamma + log_modes)


def skewed_prior():
    reference = disco.GaussianReference(jnp.array([0.5, 0.5]), 9 * jnp.eye(2))
    return disco.EnergyDistribution(skewed_energy, reference, names=("u", "v"))


def skewed_model():
    disco.sample("x", skewed_prior())


def skewed_draws(rng, num_draws):
    u = np.log(rng.gamma(SHAPE, size=num_draws))
    mode = rng.choice(2, num_draws, p=WEIGHTS)
    v = MEANS[mode] + DEVIATIONS[mode] * rng.standard_normal(num_draws)
    return u, v + 0.3 * u, mode


def check_evidence(log_estimates, log_truth, label, resolution=0.25):
    """Check mean(Z-hat / Z) = 1 within 5 standard errors of independent runs, each at most 0.05."""
    ratio = np.exp(np.asarray(log_estimates, np.float64) - log_truth)
    error = ratio.std(ddof=1) / np.sqrt(len(ratio))
    print(f"{label}: mean(Z-hat / Z) = {ratio.mean():.4f} +- {error:.4f} over {len(ratio)} runs")
    assert_within(ratio.mean(), 1.0, error, resolution=resolution, label=f"{label}: Z-hat / Z")


def run(model, *args, num_particles=1024, num_chains=RUNS, **settings):
    return tempered(model, *args, num_particles=num_particles, num_chains=num_chains, **settings)


@pytest.fixture(scope="module")
def skewed():
    return run(skewed_model)


@pytest.mark.statistics
def test_evidence_of_a_skewed_target_with_unequal_modes(skewed):
    check_evidence(skewed.log_normalizer, LOG_MASS, "skewed, unequal modes")


def statistics(draws):
    """Per run: means, spread, third moment of the skewed coordinate, mass of the smaller mode."""
    u, v = np.asarray(draws["x.u"], np.float64), np.asarray(draws["x.v"], np.float64)
    lower = v - 0.3 * u < -0.7
    return np.stack([u.mean(1), v.mean(1), u.var(1), (u**3).mean(1), lower.mean(1)], axis=-1)


def check_draws(draws, resolution=(0.05, 0.25, 0.1, 0.3, 0.06)):
    runs = statistics(draws)
    mean, error = mean_and_error(runs)
    exact = np.random.default_rng(0)
    u, v, _ = skewed_draws(exact, 4_000_000)
    truth = statistics({"x.u": u[None], "x.v": v[None]})[0]
    print("draws: z scores", np.round((mean - truth) / error, 2).tolist())
    assert_within(mean, truth, error, resolution=resolution, sigmas=RUN_SIGMAS, label="draws")


def test_draws_of_a_skewed_target_with_unequal_modes(skewed):
    check_draws(skewed.get_samples(group_by_chain=True))


# -- broken twins -------------------------------------------------------------------------------


def test_wrong_sign_of_the_evidence_increment_fails(monkeypatch):
    monkeypatch.setattr(program, "log_mean_exp", lambda w: -resampling.log_mean_exp(w))
    smc = run(skewed_model, num_sweeps=0)
    with pytest.raises(AssertionError, match="is off"):
        check_evidence(smc.log_normalizer, LOG_MASS, "sign of the increment", np.inf)


def test_moves_without_an_accept_step_fail(monkeypatch):
    """Four in five trajectories are accepted whatever their error."""
    monkeypatch.setattr(kernels, "accept_probability", lambda x: jnp.full_like(x, 0.8))
    smc = run(skewed_model, throw=False, num_sweeps=0)
    with pytest.raises(AssertionError, match="is off"):
        check_draws(smc.get_samples(group_by_chain=True), np.inf)


def test_moves_towards_the_wrong_temperature_fail(monkeypatch):
    """Moves at a smaller inverse temperature leave another density invariant."""
    find_level = moves.find_level

    def too_early(*args):
        level = find_level(*args)
        return level._replace(inverse_temperature=0.6 * level.inverse_temperature)

    monkeypatch.setattr(moves, "find_level", too_early)
    smc = run(skewed_model, throw=False, num_sweeps=0)
    with pytest.raises(AssertionError, match="is off"):
        check_draws(smc.get_samples(group_by_chain=True), np.inf)


@pytest.mark.statistics
def test_dropped_jacobian_fails(monkeypatch):
    """A positive site moves on the log scale; without the Jacobian it has another density."""

    def model():
        numpyro.sample("s", dist.Gamma(3.0, 2.0))

    def check():
        draws = run(model, num_particles=512).get_samples(group_by_chain=True)["s"]
        mean, error = mean_and_error(np.asarray(draws, np.float64).mean(1))
        assert_within(mean, 1.5, error, resolution=0.1, sigmas=RUN_SIGMAS, label="mean of a Gamma")

    check()
    # NumPyro enters the Jacobian of a transformed site as a factor.
    monkeypatch.setattr(numpyro, "factor", lambda name, value: None)
    with pytest.raises(AssertionError, match="is off"):
        check()


# -- evidence -----------------------------------------------------------------------------------


@pytest.mark.statistics
@pytest.mark.slow
def test_error_of_the_path_shrinks_with_the_root_of_the_particles():
    """Sixteen times as many particles give a quarter of the error (each known to a sixth)."""

    def deviation(num_particles):
        smc = run(skewed_model, num_particles=num_particles, num_sweeps=0)
        return float(np.std(np.asarray(smc.log_normalizer), ddof=1))

    ratio = deviation(128) / deviation(2048)
    print(f"error at 128 particles over that at 2048: {ratio:.2f}")
    assert 2.0 < ratio < 8.0


def test_a_mixture_that_lacks_a_mode_does_not_bias_the_evidence(monkeypatch):
    """The weights of the mixture's own draws show half of the mass; the particles show the rest."""

    def model():
        x = numpyro.sample("x", dist.Normal(0.0, 3.0))
        both = jnp.logaddexp(dist.Normal(-4, 0.5).log_prob(x), dist.Normal(4, 0.5).log_prob(x))
        numpyro.factor("f", both - dist.Normal(0.0, 3.0).log_prob(x))

    def one_sided(position, free):
        return fit_proposal(-jnp.abs(position), free)

    monkeypatch.setattr(sweep, "fit_proposal", one_sided)
    check_evidence(run(model).log_normalizer, np.log(2), "half a mixture")


@jax.jit
def runs_with_edges(keys, share):
    """Runs from N(0, 2) to 3 N(0.5, 1), with a share of the draws of the base on an edge."""

    def draw_base(rng_key):
        edge_key, draw_key = jax.random.split(rng_key)
        edge = jax.random.uniform(edge_key) < share
        return jnp.where(edge, -jnp.inf, 2 * jax.random.normal(draw_key, (2,)))

    def log_densities(u):
        base = dist.Normal(0.0, 2.0).log_prob(u).sum()
        return base, dist.Normal(0.5, 1.0).log_prob(u).sum() + jnp.log(3.0)

    settings = TemperingSettings(num_particles=512)

    return jax.lax.map(lambda key: tempered_smc(key, draw_base, log_densities, settings), keys)


@pytest.mark.parametrize("share", [1e-4, 0.01])
def test_draws_of_the_base_on_the_edge_are_dropped_if_few_and_refused_if_many(share):
    """A few, caused by rounding, get weight zero; many would bias the evidence and are refused."""
    result = runs_with_edges(jax.random.split(jax.random.key(0), RUNS), share)
    if share < program.MOST_EDGES:
        check_evidence(result.log_normalizer, np.log(3), "a few draws on the edge")
    else:
        assert (result.status == status.NON_FINITE).all()


@pytest.mark.slow
def test_evidence_of_an_ordinary_model_with_a_learned_prior_and_condition():
    """A Gaussian energy of known mass: one coordinate conditioned on, another seen with noise."""
    covariance = np.array([[1.0, 0.6], [0.6, 2.0]])
    reference = disco.GaussianReference(jnp.zeros(2), 6 * covariance)
    prior = gaussian_prior(np.zeros(2), covariance, names=("a", "b"), reference=reference)

    def model(y):
        x = disco.sample("x", prior)
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        numpyro.sample("y", dist.Normal(x[1], 0.5), obs=y)
        numpyro.sample("z", dist.Normal(0.0, scale), obs=0.4)

    smc = run(numpyro.handlers.condition(model, {"x.a": 0.3}), 0.9, num_particles=512)
    conditional = 0.6 * 0.3, np.sqrt(2 - 0.36 + 0.25)
    grid = np.linspace(1e-4, 8, 200_001)
    marginal = np.trapezoid(2 * norm.pdf(grid) * norm.pdf(0.4, scale=grid), grid)
    truth = (
        log_mass(covariance) + norm.logpdf(0.3) + norm.logpdf(0.9, *conditional) + np.log(marginal)
    )
    check_evidence(smc.log_normalizer, truth, "clamped, with a likelihood")


# -- results ------------------------------------------------------------------------------------


def test_results_have_the_shapes_of_mcmc(skewed):
    flat, grouped = skewed.get_samples(), skewed.get_samples(group_by_chain=True)
    assert set(flat) == {"x.u", "x.v"}
    assert flat["x.u"].shape == (RUNS * 1024,)
    assert grouped["x.u"].shape == (RUNS, 1024)
    fields = skewed.get_extra_fields(group_by_chain=True)
    assert {name: field.shape for name, field in fields.items()} == {
        "potential_energy": (RUNS, 1024),
        "accept_prob": (RUNS, 1024),
        "log_normalizer": (RUNS, 1024),
    }
    x = np.stack([grouped["x.u"], grouped["x.v"]], axis=-1)
    difference = fields["potential_energy"] + skewed_prior().log_prob(x)
    # The Jacobian of standardised coordinates is a constant, the same for every draw.
    np.testing.assert_allclose(difference, np.mean(difference), atol=1e-4)
    history = skewed.history
    assert history.inverse_temperature.shape[0] == RUNS
    assert np.nanmax(history.inverse_temperature, axis=1) == pytest.approx(np.ones(RUNS))


def test_print_summary_prints_the_evidence(skewed, capsys):
    skewed.print_summary()
    out = capsys.readouterr().out
    assert "x.u" in out and "r_hat" in out and "log evidence: 3." in out


def test_arviz_takes_a_run_and_finds_no_nan(skewed):
    data = az.from_numpyro(skewed)
    summary = az.summary(data)
    assert list(summary.index) == ["x.u", "x.v"]
    assert np.isfinite(summary.to_numpy(dtype=float)).all()
    stats = data["sample_stats"]
    assert stats["lp"].shape == (RUNS, 1024)
    np.testing.assert_allclose(
        np.asarray(stats["lp"]), -skewed.get_extra_fields(True)["potential_energy"], rtol=1e-6
    )
    assert "acceptance_rate" in stats


def test_arviz_takes_a_clamped_mcmc_and_finds_no_nan():
    model = numpyro.handlers.condition(skewed_model, {"x.u": 0.5})
    mcmc = nuts(model, num_warmup=100, num_samples=200, num_chains=2)
    mcmc.run(jax.random.key(0))
    summary = az.summary(az.from_numpyro(mcmc))
    assert list(summary.index) == ["x.v"]
    assert np.isfinite(summary.to_numpy(dtype=float)).all()
