"""Fits on top of a mixture reference, and the mode masses that each objective learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.references import MODES
from sklearn.datasets import load_breast_cancer, load_wine

import numpyro_disco as disco
from numpyro_disco.training.objectives import contrastive
from numpyro_disco.training.objectives.losses import contrastive_loss


def flipped_contrastive_loss(at_row, at_draw):
    return contrastive_loss(at_draw, at_row)


def test_nearly_collinear_columns_are_conditioned_on_in_single_precision():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(2000, 1))
    rows = np.concatenate([base, base + 1e-4 * rng.normal(size=(2000, 3))], axis=1)
    fit = disco.fit(
        jax.random.key(0),
        100 + rows * [1, 10, 1000, 0.01],
        reference=disco.MixtureFit(max_components=2),
        network=disco.MLP(width=8, num_blocks=1),
        num_steps=1,
        batch_size=32,
        progress_bar=False,
    )
    given = fit.distribution.reference.condition(100 + np.array([0.5, np.nan, 500.0, np.nan]))
    sds = np.sqrt(np.asarray(given.variance))[[1, 3]] / [10, 0.01]
    # Single precision resolves variances to a few rounding errors, and deviations to their root.
    assert (2e-4 < sds).all() and (sds < 3e-3).all()


def masses(prior, rows):
    """Log of the total mass, and the mass of each mode of the target, by quadrature."""
    axes = [np.linspace(c.min() - 1, c.max() + 1, 301) for c in rows.T]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    density = np.exp(np.asarray(jax.jit(prior.log_prob)(jnp.asarray(grid)), np.float64))
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    mode = ((grid[..., None, :] - MODES.means) ** 2).sum(-1).argmin(-1)
    total = density.sum() * cell
    return np.log(total), np.bincount(mode.ravel(), density.ravel(), 3) * cell / total


NETWORK = disco.MLP(width=32, num_blocks=1)
SETTINGS = {"network": NETWORK, "num_steps": 2000, "progress_bar": False}
NO_REDRAWS = disco.Contrastive(num_redraws=0)


@pytest.fixture(scope="module")
def rows():
    return MODES.draw(np.random.default_rng(1), 20_000)


@pytest.mark.training
def test_the_contrastive_objective_learns_mode_masses_and_the_constant(rows):
    """Relative to one wide Gaussian, the masses have a total variation distance below 0.02."""
    settings = SETTINGS | {"num_steps": 1500}
    fit = disco.fit(jax.random.key(0), rows, objective=NO_REDRAWS, reference="gaussian", **settings)
    log_total, shares = masses(fit.distribution, rows)
    error = 0.5 * np.abs(shares - MODES.weights).sum()
    print(f"contrastive: log Z {log_total:+.3f}, modes {shares.round(3)}, off by {error:.4f}")
    assert error <= 0.02
    assert abs(log_total) < 0.1
    assert fit.distribution.noise_scale is None


@pytest.mark.training
@pytest.mark.parametrize("density_weight", [0.3, 0])
@pytest.mark.slow
def test_disco_learns_mode_masses_from_its_density_term(rows, density_weight):
    """Modes are 50 sigma_0 apart, so the score term alone does not see their masses."""
    objective = disco.Disco(noise_scale=0.03, density_weight=density_weight)
    fit = disco.fit(jax.random.key(0), rows, objective=objective, **SETTINGS)
    log_total, shares = masses(fit.distribution, rows)
    error = 0.5 * np.abs(shares - MODES.weights).sum()
    print(f"weight {density_weight}: log Z {log_total:+.3f}, masses off by {error:.4f}")
    assert (error <= 0.02) == (abs(log_total) < 0.1) == (density_weight > 0)


@pytest.mark.training
def test_a_flipped_contrastive_loss_learns_wrong_masses(rows, monkeypatch):
    monkeypatch.setattr(contrastive, "contrastive_loss", flipped_contrastive_loss)
    # These settings differ from those above, where the right loss is compiled already.
    settings = SETTINGS | {"num_steps": 200, "held_out_fraction": 0.2}
    fit = disco.fit(jax.random.key(0), rows, objective=NO_REDRAWS, reference="gaussian", **settings)
    _, shares = masses(fit.distribution, rows)
    assert 0.5 * np.abs(shares - MODES.weights).sum() > 0.02


@pytest.fixture(scope="module")
def fitted(rows):
    return disco.fit(
        jax.random.key(0),
        rows[:2000],
        names=("a", "b"),
        reference=disco.MixtureFit(max_components=4),
        **SETTINGS | {"num_steps": 100},
    )


@pytest.mark.training
class TestMixtureReference:
    def test_the_network_never_worsens_the_held_out_loss(self, fitted):
        held_out = fitted.history.held_out_loss
        assert fitted.settings.objective.num_redraws == 0
        assert held_out[0] == pytest.approx(2 * np.log(2), abs=1e-5)
        assert fitted.best_step == fitted.history.step[np.argmin(held_out)]
        assert list(fitted.components) == [1, 2, 4]

    def test_the_prior_is_saved_and_loaded(self, fitted, tmp_path):
        disco.save(tmp_path / "prior.npz", fitted.distribution)
        loaded = disco.load(tmp_path / "prior.npz")
        x = MODES.draw(np.random.default_rng(2), 50)
        np.testing.assert_array_equal(loaded.log_prob(x), fitted.distribution.log_prob(x))
        assert loaded.noise_scale is None

    def test_training_resumes(self, fitted, rows):
        again = disco.fit(
            jax.random.key(0),
            rows[:2000],
            names=("a", "b"),
            reference=disco.MixtureFit(max_components=4),
            resume=fitted,
            num_steps=150,
            progress_bar=False,
        )
        assert again.history.step[-1] == 150 and again.components == fitted.components

    def test_conditional_draws_have_the_right_mean(self, fitted):
        draws = disco.sample_conditional(jax.random.key(1), fitted.distribution, {"a": -3.0}, 500)
        assert np.asarray(draws)[:, 1].mean() == pytest.approx(0.0, abs=0.15)

    def test_unknown_names_are_refused(self, rows):
        with pytest.raises(ValueError, match="'gaussian' or 'mixture' for `reference`; got 'flow'"):
            disco.fit(jax.random.key(0), rows, reference="flow")
        with pytest.raises(ValueError, match="for `objective`; got 'flow'"):
            disco.fit(jax.random.key(0), rows, objective="flow")
        with pytest.raises(ValueError, match="`max_components`; got 0"):
            disco.fit(jax.random.key(0), rows, reference=disco.MixtureFit(max_components=0))


@pytest.mark.training
def test_a_defensive_share_keeps_outliers_from_spoiling_the_fit():
    """The data are a ring with outliers too few for a component of their own.

    A classifier takes them for draws of the reference. With one percent of outliers and more
    components, the mixture describes them itself and the share makes no difference.
    """
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 2000)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.05 * rng.normal(size=(2000, 2))
    far = rng.uniform(-30, 30, (2000, 2))
    table = np.where(rng.random((2000, 1)) < 0.003, far, ring)
    lowest = {}
    for share in (None, 0):
        fit = disco.fit(
            jax.random.key(0),
            table,
            objective=disco.Contrastive(defensive_share=share),
            reference=disco.MixtureFit(max_components=2),
            network=NETWORK,
            num_steps=300,
            batch_size=256,
            progress_bar=False,
        )
        lowest[share] = fit.history.held_out_loss.min()
        assert fit.settings.objective.defensive_share == (0.001 if share is None else 0)
    print(f"held-out loss {lowest[None]:.3f}, without a defensive share {lowest[0]:.3f}")
    assert lowest[None] < lowest[0] - 0.1


@pytest.mark.slow
@pytest.mark.parametrize("load", [load_wine, load_breast_cancer])
def test_on_few_rows_fit_is_no_worse_than_a_gaussian_or_a_mixture(load):
    """Log density of unseen test rows, normalised by SMC: at most two standard errors worse."""
    from sklearn.mixture import GaussianMixture

    rows = np.random.default_rng(0).permutation(load().data)
    rows = (rows - rows.mean(0)) / rows.std(0)
    test, train = rows[: len(rows) // 4], rows[len(rows) // 4 :]
    fit = disco.fit(
        jax.random.key(0),
        train,
        network=disco.MLP(width=64),
        num_steps=500,
        batch_size=256,
        progress_bar=False,
    )
    prior = fit.distribution.normalize(jax.random.key(1), num_chains=4)
    ours = np.asarray(prior.log_prob(jnp.asarray(test)), np.float64)
    error = float(prior.log_normalizer_error)
    print(
        f"{load.__name__}: ours {ours.mean():.2f}, log Z {prior.log_normalizer:.3f} +- {error:.3f}"
    )
    rivals = {
        f"EM of {count}": GaussianMixture(count, random_state=0).fit(train).score_samples(test)
        for count in (1, 5)
    }
    rivals["its reference alone"] = np.asarray(prior.reference.log_prob(jnp.asarray(test)))
    for name, rival in rivals.items():
        gain = ours - rival
        print(f"  {gain.mean():+.2f} +- {gain.std() / len(gain) ** 0.5:.2f} over {name}")
        assert gain.mean() > -2 * np.hypot(gain.std() / len(gain) ** 0.5, error)
