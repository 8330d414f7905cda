"""Mixture references fitted to rows, and the contrastive objective on top of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.statistics import Mixture
from scipy.stats import norm
from sklearn.datasets import load_breast_cancer, load_wine

import numpyro_disco as disco
from numpyro_disco.references import fitting as mixtures
from numpyro_disco.references.fitting import WIDE_SHARE
from numpyro_disco.training import objectives
from numpyro_disco.training.losses import contrastive_loss

TARGET = Mixture(
    [0.05, 0.35, 0.6],
    [[-3.0, 0.0], [1.0, 2.5], [2.5, -2.0]],
    [[[0.06, 0.03], [0.03, 0.05]], [[0.04, -0.03], [-0.03, 0.08]], [[0.12, 0.02], [0.02, 0.04]]],
)


MIXTURE = {"reference": "mixture", "objective": "contrastive"}


def fit_reference(rows, held_out, **settings):
    mixture, tried = mixtures.fit_reference(rows, held_out, **settings)
    return disco.MixtureReference(*mixture), tried


def test_as_many_components_as_held_out_rows_ask_for():
    rng = np.random.default_rng(0)
    rows, held_out = TARGET.draw(rng, 5000), TARGET.draw(rng, 2000)
    reference, tried = fit_reference(rows, held_out, max_components=64)
    truth = TARGET.log_prob(held_out)
    found = np.asarray(reference.log_prob(jnp.asarray(held_out)))
    # Nearly the truth, of which the wide component takes its share; one Gaussian is far from it.
    assert (truth - found).mean() < 0.03 - np.log1p(-WIDE_SHARE)
    assert truth.mean() - tried[1] > 1
    assert list(tried) == [1, 2, 4, 8][: len(tried)]
    # Weights of the modes: what lies left of -1 is the first.
    draws = np.asarray(reference.sample(jax.random.key(0), (200_000,)))
    assert (draws[:, 0] < -1).mean() == pytest.approx(0.05, abs=0.02)


def test_components_have_a_limit_and_rows_to_rest_on():
    rng = np.random.default_rng(0)
    rows, held_out = TARGET.draw(rng, 500), TARGET.draw(rng, 200)
    _, tried = fit_reference(rows, held_out, max_components=2)
    assert list(tried) == [1, 2]
    reference, tried = fit_reference(rows[:6], held_out, max_components=64)
    assert list(tried) == [1] and reference.means.shape == (2, 2)


def test_fewer_rows_than_columns():
    rows = np.random.default_rng(0).normal(size=(8, 10))
    reference, tried = fit_reference(rows, rows[:2], max_components=4)
    assert list(tried) == [1] and np.isfinite(reference.log_prob(jnp.zeros(10)))


def test_one_column():
    rows = np.random.default_rng(0).normal(size=(500, 1))
    reference, _ = fit_reference(rows[:400], rows[400:], max_components=4)
    assert float(reference.log_prob(jnp.zeros(1))) == pytest.approx(norm.logpdf(0), abs=0.2)


def test_nearly_collinear_columns_can_be_conditioned_in_single_precision():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(2000, 1))
    rows = np.concatenate([base, base + 1e-4 * rng.normal(size=(2000, 3))], axis=1)
    fit = disco.fit(
        jax.random.key(0),
        100 + rows * [1, 10, 1000, 0.01],
        reference="mixture",
        max_components=2,
        **{"width": 8, "num_blocks": 1, "num_steps": 1, "batch_size": 32, "progress_bar": False},
    )
    given = fit.distribution.reference.condition(100 + np.array([0.5, np.nan, 500.0, np.nan]))
    sds = np.sqrt(np.asarray(given.variance))[[1, 3]] / [10, 0.01]
    # As exact as single precision can tell, a few roundings' square root.
    assert (2e-4 < sds).all() and (sds < 3e-3).all()


def flipped_contrastive_loss(of_row, of_draw):
    return contrastive_loss(of_draw, of_row)


def test_contrastive_loss_is_lowest_at_the_log_ratio():
    """Its slope along any direction vanishes there; taken the wrong way round, it does not."""
    grid = np.linspace(-12, 12, 4001)
    step = grid[1] - grid[0]
    p = 0.3 * norm.pdf(grid, -2, 0.5) + 0.7 * norm.pdf(grid, 1, 1)
    q = norm.pdf(grid, 0, 3)
    truth = np.log(q) - np.log(p)

    def slope(loss, direction):
        def expected(size):
            f = jnp.asarray(truth + size * direction)
            of_rows, of_draws = jax.grad(lambda a, b: loss(a, b).sum(), argnums=(0, 1))(f, f)
            return ((p * of_rows + q * of_draws) * direction).sum() * step

        return float(expected(0.0))

    for direction in (np.ones_like(grid), np.tanh(grid), np.cos(3 * grid)):
        assert abs(slope(contrastive_loss, direction)) < 1e-4
    assert abs(slope(flipped_contrastive_loss, np.tanh(grid))) > 0.1
    assert float(contrastive_loss(0.0, 0.0)) == pytest.approx(2 * np.log(2))


def masses(prior, rows):
    """Log of the total mass, and the share of each mode of the target, by quadrature."""
    axes = [np.linspace(c.min() - 1, c.max() + 1, 301) for c in rows.T]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    density = np.exp(np.asarray(jax.jit(prior.log_prob)(jnp.asarray(grid)), np.float64))
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    mode = ((grid[..., None, :] - TARGET.means) ** 2).sum(-1).argmin(-1)
    total = density.sum() * cell
    return np.log(total), np.bincount(mode.ravel(), density.ravel(), 3) * cell / total


SETTINGS = {"width": 32, "num_blocks": 1, "num_steps": 2000, "progress_bar": False}


@pytest.fixture(scope="module")
def rows():
    return TARGET.draw(np.random.default_rng(1), 20_000)


@pytest.mark.training
def test_contrastive_learning_sees_masses_and_the_constant(rows):
    """From one wide Gaussian, which knows nothing of modes: total variation at most 0.02."""
    settings = SETTINGS | {"num_steps": 1500, "num_redraws": 0}
    fit = disco.fit(
        jax.random.key(0), rows, objective="contrastive", reference="gaussian", **settings
    )
    log_total, shares = masses(fit.distribution, rows)
    error = 0.5 * np.abs(shares - TARGET.weights).sum()
    print(f"contrastive: log Z {log_total:+.3f}, modes {shares.round(3)}, off by {error:.4f}")
    assert error <= 0.02
    assert abs(log_total) < 0.1
    assert fit.distribution.noise_scale is None


@pytest.mark.training
@pytest.mark.parametrize("density_weight", [0.3, 0])
def test_disco_sees_masses_by_the_density_of_noisy_points(rows, density_weight):
    """Of modes 50 sigma_0 apart; by slopes alone it does not see them."""
    fit = disco.fit(
        jax.random.key(0), rows, noise_scale=0.03, density_weight=density_weight, **SETTINGS
    )
    log_total, shares = masses(fit.distribution, rows)
    error = 0.5 * np.abs(shares - TARGET.weights).sum()
    print(f"weight {density_weight}: log Z {log_total:+.3f}, masses off by {error:.4f}")
    assert (error <= 0.02) == (abs(log_total) < 0.1) == (density_weight > 0)


@pytest.mark.training
def test_contrastive_learning_the_wrong_way_round_fails(rows, monkeypatch):
    monkeypatch.setattr(objectives, "contrastive_loss", flipped_contrastive_loss)
    # Other settings than above, or the program that was compiled there would be found again.
    settings = SETTINGS | {"num_steps": 200, "held_out_fraction": 0.2, "num_redraws": 0}
    fit = disco.fit(
        jax.random.key(0), rows, objective="contrastive", reference="gaussian", **settings
    )
    _, shares = masses(fit.distribution, rows)
    assert 0.5 * np.abs(shares - TARGET.weights).sum() > 0.02


@pytest.fixture(scope="module")
def fitted(rows):
    return disco.fit(
        jax.random.key(0),
        rows[:2000],
        names=("a", "b"),
        reference="mixture",
        max_components=4,
        objective="contrastive",
        **SETTINGS | {"num_steps": 100},
    )


@pytest.mark.training
class TestMixtureReference:
    def test_the_network_never_makes_it_worse(self, fitted):
        held_out = fitted.history.held_out_loss
        assert fitted.settings.num_redraws == 0
        assert held_out[0] == pytest.approx(2 * np.log(2), abs=1e-5)
        assert fitted.best_step == fitted.history.step[np.argmin(held_out)]
        assert list(fitted.components) == [1, 2, 4]

    def test_it_is_saved_and_loaded(self, fitted, tmp_path):
        disco.save(tmp_path / "prior.npz", fitted.distribution)
        loaded = disco.load(tmp_path / "prior.npz")
        x = TARGET.draw(np.random.default_rng(2), 50)
        np.testing.assert_array_equal(loaded.log_prob(x), fitted.distribution.log_prob(x))
        assert loaded.noise_scale is None

    def test_it_goes_on(self, fitted, rows):
        again = disco.fit(
            jax.random.key(0),
            rows[:2000],
            names=("a", "b"),
            reference="mixture",
            max_components=4,
            resume=fitted,
            num_steps=150,
            progress_bar=False,
        )
        assert again.history.step[-1] == 150 and again.components == fitted.components

    def test_conditionals(self, fitted):
        draws = disco.sample_conditional(jax.random.key(1), fitted.distribution, {"a": -3.0}, 500)
        assert np.asarray(draws)[:, 1].mean() == pytest.approx(0.0, abs=0.15)

    def test_unknown_names(self, rows):
        with pytest.raises(ValueError, match="'gaussian' or 'mixture' for `reference`; got 'flow'"):
            disco.fit(jax.random.key(0), rows, reference="flow")
        with pytest.raises(ValueError, match="for `objective`; got 'likelihood'"):
            disco.fit(jax.random.key(0), rows, objective="likelihood")
        with pytest.raises(ValueError, match="`max_components`; got 0"):
            disco.fit(jax.random.key(0), rows, reference="mixture", max_components=0)


@pytest.mark.training
def test_a_few_rows_far_out_do_not_cost_what_is_learned_of_the_rest():
    """A ring, and one row in a hundred anywhere: held-out ones are told from draws by mistake."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 2000)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.05 * rng.normal(size=(2000, 2))
    far = rng.uniform(-30, 30, (2000, 2))
    table = np.where(rng.random((2000, 1)) < 0.01, far, ring)
    settings = {"width": 32, "num_blocks": 1, "num_steps": 300, "batch_size": 256}
    lowest = {}
    for share in (None, 0):
        fit = disco.fit(
            jax.random.key(0),
            table,
            max_components=8,
            defensive_share=share,
            progress_bar=False,
            **settings,
        )
        lowest[share] = fit.history.held_out_loss.min()
        assert fit.settings.defensive_share == (0.001 if share is None else 0)
    print(f"held-out loss {lowest[None]:.3f}, without a share of the mixture {lowest[0]:.3f}")
    assert lowest[None] < lowest[0] - 0.1


@pytest.mark.training
@pytest.mark.parametrize("load", [load_wine, load_breast_cancer])
def test_few_rows_no_worse_than_a_gaussian_or_a_mixture(load):
    """Test rows that nothing has seen; ours normalised by SMC, and not worse than by chance."""
    from sklearn.mixture import GaussianMixture

    rows = np.random.default_rng(0).permutation(load().data)
    rows = (rows - rows.mean(0)) / rows.std(0)
    test, train = rows[: len(rows) // 4], rows[len(rows) // 4 :]
    fit = disco.fit(
        jax.random.key(0),
        train,
        num_steps=500,
        width=64,
        batch_size=256,
        progress_bar=False,
        **MIXTURE,
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
