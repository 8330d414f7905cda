"""`fit`: what it learns, and how it stops, resumes and refuses."""

import signal
import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pandas as pd
import pytest
from helpers.statistics import Mixture, assert_within
from numpyro.handlers import condition
from numpyro.infer import MCMC, NUTS
from scipy.stats import wasserstein_distance

import numpyro_disco as disco
from numpyro_disco.training.fit import _completed
from numpyro_disco.training.loop import _optimizer
from numpyro_disco.training.objectives import _noisy_batch
from numpyro_disco.training.report_smoothing import smoothing_line
from numpyro_disco.training.row_posterior import row_posterior
from numpyro_disco.training.settings import DECAY_ROWS, LARGE_ROWS, TrainingSettings

TARGET = Mixture(
    [0.15, 0.25, 0.6],
    [[-2.0, 0.0], [1.0, 1.5], [1.5, -1.0]],
    [[[0.06, 0.03], [0.03, 0.05]], [[0.04, -0.03], [-0.03, 0.08]], [[0.12, 0.02], [0.02, 0.04]]],
)
NOISE_SCALE = 0.3
SMALL = {
    "noise_scale": 0.05,
    "width": 16,
    "num_blocks": 1,
    "num_steps": 150,
    "batch_size": 64,
    "progress_bar": False,
}


@pytest.fixture(scope="module")
def rows():
    return TARGET.draw(np.random.default_rng(0), 20_000)


@pytest.fixture(scope="module")
def trained(rows):
    return disco.fit(
        jax.random.key(0),
        rows,
        names=("a", "b"),
        noise_scale=NOISE_SCALE,
        whiten=False,
        num_steps=2500,
        batch_size=512,
        learning_rate=5e-3,
        progress_bar=False,
    )


exact_posterior = jax.jit(row_posterior)


def relative_errors(fit, rows):
    """RMS error of the learned score over the RMS of the exact one, by noise level and for all.

    Points are held-out rows with the noise of each level. The exact score is that of the training
    rows smoothed by sigma_0; beside it, that of the mixture they came from, smoothed alike: the
    two part where no row reaches, and no fit to the rows could tell.
    """
    rng = np.random.default_rng(1)
    loc, scale = rows.mean(axis=0), rows.std(axis=0)
    smoothed = TARGET.standardize(loc, scale).smoothed(NOISE_SCALE)
    held_out = (TARGET.draw(rng, 2000) - loc) / scale
    everything = jnp.asarray((rows - loc) / scale, jnp.float32)
    table = []
    for noise in np.geomspace(NOISE_SCALE, fit.settings.max_noise_scale, 8):
        points = held_out + noise * rng.standard_normal(held_out.shape)
        points = jnp.asarray(points, jnp.float32)
        mean = exact_posterior(jax.random.key(0), points, everything, NOISE_SCALE).mean
        exact = np.asarray((mean - points) / NOISE_SCALE**2, np.float64)
        score = np.asarray(fit.distribution.score(loc + scale * points) * scale, np.float64)
        truth = smoothed.score(np.asarray(points, np.float64))
        squares = [np.sum(s**2, axis=-1).mean() for s in (score - exact, score - truth, exact)]
        table.append((noise, *squares))
    _, to_rows, to_truth, size = np.transpose(table)
    for noise, a, b, c in table:
        print(
            f"noise {noise:.2f}: relative RMS error of the score {np.sqrt(a / c):.4f} "
            f"(to the smoothed truth {np.sqrt(b / c):.4f})"
        )
    overall = np.sqrt(to_rows.sum() / size.sum())
    print(f"all levels: {overall:.4f}")
    return overall, np.sqrt(to_rows / size), np.sqrt(to_truth / size)


@pytest.mark.training
def test_trained_score_matches_the_exact_smoothed_score(trained, rows):
    overall, by_level, to_truth = relative_errors(trained, rows)
    assert overall <= 0.05
    # At sigma_0, where conditionals live, the truth itself is met.
    assert by_level[0] <= 0.05 and to_truth[0] <= 0.05


@pytest.mark.training
def test_untrained_score_fails_the_same_check(trained, rows):
    start = disco.fit(
        jax.random.key(0),
        rows,
        **{**SMALL, "noise_scale": NOISE_SCALE, "num_steps": 50, "whiten": False},
    )
    overall, by_level, _ = relative_errors(start, rows)
    assert overall > 0.05 and by_level[0] > 0.05


def conditional_by_quadrature(prior, a, num_draws, seed):
    """Exact draws of b given a from the same energy: inverse of its cumulative sum on a grid."""
    grid = np.linspace(-4, 4, 8001)
    points = np.stack([np.full_like(grid, a), grid], axis=-1)
    energy = np.asarray(prior.energy(jnp.asarray(points, jnp.float32)), np.float64)
    density = np.exp(energy.min() - energy)
    cumulative = np.cumsum(density)
    uniform = np.random.default_rng(seed).uniform(0, cumulative[-1], num_draws)
    return grid[np.searchsorted(cumulative, uniform)]


@pytest.mark.training
@pytest.mark.parametrize("a", [1.2, -1.9])
def test_conditionals_by_nuts_smc_and_quadrature_agree(trained, a):
    """W1 between each sampler's draws and exact ones, within 1.5 times that of two exact sets.

    b given a = 1.2 has two modes of unequal mass; NUTS needs chains that start in both and does
    not weigh them, so it is compared where there is one, at a = -1.9.
    """
    prior, num_draws, repeats = trained.distribution, 2000, 8
    exact = [conditional_by_quadrature(prior, a, num_draws, seed) for seed in range(2 * repeats)]
    floor = np.mean([wasserstein_distance(exact[2 * i], exact[2 * i + 1]) for i in range(repeats)])

    draws = {}
    keys = jax.random.split(jax.random.key(5), repeats)
    draws["tempered SMC"] = [
        np.asarray(disco.sample_conditional(key, prior, {"a": a}, num_draws))[:, 1] for key in keys
    ]

    def model():
        disco.sample("x", prior)

    if a < 0:
        mcmc = MCMC(
            NUTS(condition(model, {"x.a": a})),
            num_warmup=500,
            num_samples=num_draws * 10,
            thinning=10,
            num_chains=repeats,
            chain_method="vectorized",
            progress_bar=False,
        )
        mcmc.run(jax.random.key(6))
        draws["NUTS"] = list(np.asarray(mcmc.get_samples(group_by_chain=True)["x.b"]))
    for sampler, sets in draws.items():
        distances = [wasserstein_distance(s, e) for s, e in zip(sets, exact, strict=False)]
        print(
            f"b given a = {a}: W1 of {sampler} {np.mean(distances):.4f}, exact sets {floor:.4f}, "
            f"ratio {np.mean(distances) / floor:.2f}"
        )
        assert np.mean(distances) <= 1.5 * floor
    # The check can tell: the same conditional at a slightly different place fails it.
    wrong = [conditional_by_quadrature(prior, a + 0.3, num_draws, s) for s in range(repeats)]
    distances = [wasserstein_distance(w, e) for w, e in zip(wrong, exact, strict=False)]
    assert np.mean(distances) > 1.5 * floor


def weights_of(fit):
    return jax.tree.leaves(fit.distribution.energy_fn.weights)


@pytest.fixture(scope="module")
def few(rows):
    return rows[:600]


def test_same_key_same_result_and_names_follow(few):
    table = {"length": few[:, 0], "width": few[:, 1]}
    one = disco.fit(jax.random.key(0), table, **SMALL)
    two = disco.fit(jax.random.key(0), pd.DataFrame(table), **SMALL)
    other = disco.fit(jax.random.key(1), few, **SMALL)
    assert one.distribution.names == two.distribution.names == ("length", "width")
    assert other.distribution.names == ("0", "1")
    for a, b in zip(weights_of(one), weights_of(two), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(weights_of(one), weights_of(other), strict=True))


def test_history_and_settings(few):
    fit = disco.fit(jax.random.key(0), few, **SMALL)
    assert fit.history.step.tolist() == [0, 50, 100, 150]
    assert np.isnan(fit.history.loss[0]) and np.isfinite(fit.history.loss[1:]).all()
    assert np.isfinite(fit.history.held_out_loss).all()
    assert not fit.interrupted
    assert fit.distribution.noise_scale == pytest.approx(fit.settings.noise_scale)
    assert fit.best_step in fit.history.step


def test_units_go_in_and_come_out(few):
    """A fit to shifted and rescaled columns is the same density in other units."""
    scale, shift = np.array([100.0, 0.01]), np.array([5000.0, -3.0])
    plain = disco.fit(jax.random.key(0), few, **SMALL).distribution
    moved = disco.fit(jax.random.key(0), shift + scale * few, **SMALL).distribution
    x = few[:50]
    difference = moved.log_prob(shift + scale * x) - plain.log_prob(x)
    # The log of the volume that a unit of the one takes in the other.
    np.testing.assert_allclose(difference, -np.log(scale).sum(), atol=2e-2)


@pytest.mark.training
def test_where_no_step_helps_the_gaussian_start_is_kept():
    """Few rows of a Gaussian in many dimensions: all a network could do is learn them by heart."""
    noise = np.random.default_rng(0).normal(size=(60, 6))
    fit = disco.fit(
        jax.random.key(0),
        noise,
        **{**SMALL, "noise_scale": 0.2, "learning_rate": 1e-2, "whiten": False},
    )
    assert fit.best_step == 0
    split_key = jax.random.split(jax.random.key(0), 3)[0]
    train = noise[np.asarray(jax.random.permutation(split_key, len(noise)))[6:]]
    unit = train.std(axis=0)
    covariance = np.cov(train / unit, rowvar=False) + 0.2**2 * np.eye(6)
    score = -np.linalg.solve(covariance, ((noise[:20] - train.mean(0)) / unit).T).T
    np.testing.assert_allclose(fit.distribution.score(noise[:20]) * unit, score, atol=1e-4)


@pytest.mark.training
def test_noise_scale_chosen_by_held_out_rows(few):
    fit = disco.fit(jax.random.key(0), few, **{**SMALL, "noise_scale": None})
    chosen = fit.settings.noise_scale
    assert fit.noise_scales[chosen] == max(fit.noise_scales.values())
    assert fit.distribution.noise_scale == pytest.approx(chosen)
    line = smoothing_line(fit.evidence, fit.evidence.held_out)
    assert f"of 15 scales tried, {chosen:.2g} gave held-out rows" in line.reason
    given = disco.fit(jax.random.key(0), few, **{**SMALL, "noise_scale": chosen})
    for a, b in zip(weights_of(fit), weights_of(given), strict=True):
        np.testing.assert_array_equal(a, b)
    more = disco.fit(jax.random.key(0), few, resume=fit, num_steps=200, progress_bar=False)
    assert more.settings.noise_scale == chosen and more.noise_scales == fit.noise_scales


def test_draw_target_trains_too(few):
    settings = {**SMALL, "noise_scale": 0.3, "learning_rate": 5e-3}
    history = disco.fit(jax.random.key(0), few, target="draw", **settings).history
    drop = history.held_out_loss[0] - history.held_out_loss[-1]
    assert drop > 5 * history.held_out_error[-1] > 0


def test_a_posterior_over_few_rows_draws_targets_towards_the_points_own(rows):
    """So much so that the row itself is the target where it is the only one."""

    def distance(posterior_rows):
        options = TrainingSettings(noise_scale=0.3, posterior_rows=posterior_rows, batch_size=2048)
        batch = _noisy_batch(jax.random.key(0), jnp.asarray(rows), options)
        steps = (batch.points - batch.target) / batch.proposal_scale[:, None]
        return batch.target, float((steps**2).mean())

    alone, of_one = distance(1)
    assert (alone == alone[0]).all()
    few, every = distance(64)[1], distance(None)[1]
    # Noise is of variance one beside its own row; rows nearer by are behind the point, too.
    assert 0.9 < of_one < 1.1 and every < 0.8 * few < 0.7 * of_one


def test_layers_decay_and_nothing_else(few):
    """By the learning rate times the decay in each step, where there is no gradient."""
    weights = disco.fit(jax.random.key(0), few, **SMALL)._run.best
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(weights)]
    nothing = jax.tree.map(jnp.zeros_like, weights)
    for decay in (None, 0, 3.0):
        options = TrainingSettings(weight_decay=decay, num_steps=50)
        optimizer = _optimizer(options)
        state, left = optimizer.init(weights), weights
        for _ in range(6):  # five steps of warming up, then one at the full rate
            before = left
            updates, state = optimizer.update(nothing, state, left)
            left = optax.apply_updates(left, updates)
        for path, old, new in zip(paths, *map(jax.tree.leaves, (before, left)), strict=True):
            share = 1 - options.learning_rate * (decay or 0) * ("kernel" in path)
            np.testing.assert_allclose(new, share * old, rtol=1e-5, atol=1e-12)
    # The linear start, a Gaussian's, is no layer.
    assert {"kernel" in path for path in paths if "linear" not in path} == {True, False}


@pytest.mark.training
def test_decay_is_for_few_rows_and_a_mixture():
    """From a Gaussian the network has the whole shape to hold."""
    settings = {**SMALL, "num_steps": 50, "max_components": 2}
    learned = [
        ("contrastive", "mixture", 600),
        ("contrastive", "mixture", DECAY_ROWS + 100),
        ("contrastive", "gaussian", 600),
        ("disco", "mixture", 600),
    ]
    table = TARGET.draw(np.random.default_rng(1), DECAY_ROWS + 100)
    decays = [
        disco.fit(
            jax.random.key(0),
            table[:count],
            objective=objective,
            reference=reference,
            held_out_fraction=0.001,
            **settings,
        ).settings.weight_decay
        for objective, reference, count in learned
    ]
    assert decays == [1.0, 0.0, 0.0, 0.0]


def test_batches_are_larger_where_rows_are_many_and_a_step_is_cheap():
    sizes = {}
    reference = disco.GaussianReference(np.zeros(2), np.eye(2))
    for objective in ("contrastive", "disco"):
        for num_rows in (LARGE_ROWS, LARGE_ROWS + 1):
            for given in (None, 64):
                settings = TrainingSettings(objective=objective, batch_size=given)
                made = _completed(settings, reference, num_rows)
                sizes[objective, num_rows, given] = made.batch
    assert sizes.pop(("contrastive", LARGE_ROWS + 1, None)) == 2048
    assert all(size == (given or 1024) for (*_, given), size in sizes.items())


def test_near_rows_give_the_targets_that_all_rows_give(few):
    """All boxes are near ones here; the same points, as the rows are in the same order."""
    table = jnp.asarray(few, jnp.float32)
    near, every = (
        _noisy_batch(jax.random.key(0), table, TrainingSettings(posterior_rows=which))
        for which in ("near", "all")
    )
    np.testing.assert_array_equal(near.points, every.points)
    np.testing.assert_allclose(near.target, every.target, atol=1e-4)
    np.testing.assert_allclose(near.log_density, every.log_density, rtol=1e-3, atol=1e-3)
    table = np.random.default_rng(0).normal(size=(50, 4))
    for settings in (SMALL, {"objective": "joint"}):
        with pytest.raises(ValueError, match="at most 3 columns"):
            disco.fit(jax.random.key(0), table, **settings, posterior_rows="near")


def test_names_put_columns_in_order_or_rename_them(few):
    table = {"a": few[:, 0], "b": 100 + few[:, 1]}
    settings = {**SMALL, "num_steps": 1}
    swapped = disco.fit(jax.random.key(0), table, names=("b", "a"), **settings).distribution
    assert swapped.names == ("b", "a") and swapped.loc[0] > 90
    renamed = disco.fit(jax.random.key(0), table, names=("c", "d"), **settings).distribution
    assert renamed.names == ("c", "d") and renamed.loc[1] > 90
    with pytest.raises(ValueError, match=r"which share \['a'\]"):
        disco.fit(jax.random.key(0), table, names=("c", "a"), **settings)


def test_what_is_learned_by_default(few):
    settings = {key: value for key, value in SMALL.items() if key != "noise_scale"}
    fit = disco.fit(jax.random.key(0), few, max_components=2, **settings)
    assert fit.settings.objective == "contrastive" and list(fit.components) == [1, 2]
    assert isinstance(fit.distribution.reference, disco.MixtureReference)
    assert fit.distribution.noise_scale is None
    again = disco.fit(jax.random.key(0), few, resume=fit, max_components=2, progress_bar=False)
    assert again.components == fit.components
    given = disco.fit(jax.random.key(0), few, reference="gaussian", **settings)
    assert given.settings.objective == "disco"


def test_reference_of_ones_own(few):
    reference = disco.MixtureReference([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [np.eye(2) * 4] * 2)
    fit = disco.fit(jax.random.key(0), few, reference=reference, **SMALL)
    assert fit.distribution.reference is reference
    with pytest.raises(ValueError, match="`reference` over 2 coordinates"):
        wrong = disco.GaussianReference(np.zeros(3), np.eye(3))
        disco.fit(jax.random.key(0), few, reference=wrong, **SMALL)
    for wrong in (42, "normal", dist.MultivariateNormal(np.zeros(2), np.eye(2))):
        with pytest.raises(ValueError, match="for `reference`; got.*disco.GaussianReference"):
            disco.fit(jax.random.key(0), few, reference=wrong, **SMALL)
    with pytest.raises(ValueError, match="one unconditioned `reference`"):
        given = reference.condition(np.zeros(2), np.array([True, False]))
        disco.fit(jax.random.key(0), few, reference=given, **SMALL)


class TestInterruption:
    @pytest.fixture(autouse=True)
    def python_hears_the_signal(self):
        """Started where SIGINT is ignored, as in a shell's background, it installs no handler."""
        former = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, former)

    def interrupt_after(self, monkeypatch, rounds):
        """Press ctrl-C in the middle of a round: the signal itself, not a stand-in."""
        from numpyro_disco.training import loop as training

        honest, calls = training._train_round, 0

        def counted(*args):
            nonlocal calls
            calls += 1
            if calls > rounds:
                signal.raise_signal(signal.SIGINT)
            return honest(*args)

        monkeypatch.setattr(training, "_train_round", counted)
        return lambda: monkeypatch.setattr(training, "_train_round", honest)

    def test_returns_the_best_so_far_and_resumes_to_the_same_end(self, few, monkeypatch):
        assert threading.current_thread() is threading.main_thread()
        whole = disco.fit(jax.random.key(0), few, **SMALL)
        restore = self.interrupt_after(monkeypatch, 1)
        with pytest.warns(UserWarning, match="Interrupted after 50 of 150"):
            part = disco.fit(jax.random.key(0), few, **SMALL)
        restore()
        assert part.interrupted and part.history.step.tolist() == [0, 50]
        assert np.isfinite(part.distribution.log_prob(few[:5])).all()
        rest = disco.fit(jax.random.key(0), few, resume=part, progress_bar=False)
        assert not rest.interrupted
        np.testing.assert_array_equal(rest.history.held_out_loss, whole.history.held_out_loss)
        assert rest.best_step == whole.best_step
        for a, b in zip(weights_of(rest), weights_of(whole), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_resume_goes_on_for_longer(self, few):
        fit = disco.fit(jax.random.key(0), few, **SMALL)
        more = disco.fit(jax.random.key(0), few, resume=fit, num_steps=250, progress_bar=False)
        assert more.history.step.tolist() == [0, 50, 100, 150, 200, 250]

    def test_a_contrast_out_of_patience_goes_on_with_more_of_it(self, few):
        settings = {**SMALL, "num_steps": 3000, "objective": "contrastive", "patience": 50}
        fit = disco.fit(jax.random.key(0), few, max_components=4, **settings)
        stopped = int(fit.history.step[-1])
        assert stopped == fit.best_step + 50 < 3000
        again = {"resume": fit, "max_components": 4, "progress_bar": False}
        go_on = partial(disco.fit, jax.random.key(0), few, **again)
        with pytest.warns(UserWarning, match="Nothing was trained.*`patience`"):
            same = go_on(num_steps=6000)
        assert same.history.step[-1] == stopped
        more = go_on(num_steps=stopped + 100, patience=1000)
        assert more.history.step[-1] == stopped + 100

    def test_resume_with_other_settings_or_rows_is_refused(self, few):
        fit = disco.fit(jax.random.key(0), few, **SMALL)
        with pytest.raises(ValueError, match="`resume`.*differ"):
            disco.fit(jax.random.key(0), few, resume=fit, width=8)
        with pytest.raises(ValueError, match="`resume`.*differ"):
            disco.fit(jax.random.key(0), few[:500], resume=fit)
        with pytest.raises(ValueError, match="`resume`.*differ"):
            disco.fit(jax.random.key(1), few, resume=fit)
        with pytest.raises(ValueError, match="`resume`.*differ"):
            other = disco.GaussianReference(np.zeros(2), 9 * np.eye(2))
            disco.fit(jax.random.key(0), few, resume=fit, reference=other)


class TestProgress:
    def test_bar_is_shown_and_can_be_turned_off(self, few, capsys, monkeypatch):
        monkeypatch.delenv("CI", raising=False)
        disco.fit(jax.random.key(0), few, **SMALL)
        assert capsys.readouterr().err == ""
        disco.fit(jax.random.key(0), few, **{**SMALL, "progress_bar": True})
        assert "150/150" in capsys.readouterr().err


class TestBadData:
    def fit(self, data, **settings):
        disco.fit(jax.random.key(0), data, **{**SMALL, **settings})

    def test_infinity(self, few):
        data = few.copy()
        data[3, 1] = np.inf
        with pytest.raises(
            ValueError, match=r"finite numbers in `data`, .*1 of 600 rows.*infinity.*\['1'\]"
        ):
            self.fit(data)

    def test_one_row(self, few):
        with pytest.raises(ValueError, match="at least 10 complete rows in `data`.*got 1"):
            self.fit(few[:1])

    @pytest.mark.parametrize("num_complete", [1, 9])
    def test_too_few_complete_rows(self, few, num_complete):
        data = few[:30].copy()
        data[num_complete:, 1] = np.nan
        with pytest.raises(ValueError, match=f"at least 10 complete rows.*got {num_complete}"):
            self.fit(data)

    def test_wrong_shape(self, few):
        with pytest.raises(ValueError, match=r"shape \(N, D\) for `data`; got shape \(600,\)"):
            self.fit(few[:, 0])

    def test_constant_column(self, few):
        with pytest.raises(ValueError, match=r"\['2'\] are constant"):
            self.fit(np.column_stack([few, np.full(len(few), 3.14)]))

    def test_copied_column(self, few):
        with pytest.raises(ValueError, match=r"\('a', 'c'\)\] are copies"):
            data = np.column_stack([few, 5 - 2 * few[:, 0]])
            self.fit(data, names=("a", "b", "c"))

    def test_duplicate_names(self, few):
        with pytest.raises(ValueError, match=r"distinct `names`; \['a'\] come more than once"):
            self.fit(few, names=("a", "a"))

    def test_number_of_names(self, few):
        with pytest.raises(ValueError, match="Expected 2 `names`.*got 3"):
            self.fit(few, names=("a", "b", "c"))

    def test_columns_too_far_from_zero_for_the_precision(self, few):
        with pytest.raises(ValueError, match=r"\['0'\] lie so far from zero.*Subtract an origin"):
            self.fit(few + np.array([2.46e6, 0.0]))

    def test_text(self):
        with pytest.raises(ValueError, match="numbers in `data`"):
            self.fit(pd.DataFrame({"a": ["x", "y"] * 10, "b": range(20)}))

    @pytest.mark.parametrize("noise_scale", [0.0, -0.1, np.nan, "much"])
    def test_noise_scale(self, few, noise_scale):
        with pytest.raises(ValueError, match="`noise_scale`"):
            self.fit(few, noise_scale=noise_scale)

    @pytest.mark.parametrize(
        ("settings", "named"),
        [
            ({"target": "median"}, "target"),
            ({"num_steps": 0}, "num_steps"),
            ({"max_noise_scale": 0.01}, "max_noise_scale"),
            ({"held_out_fraction": 1.0}, "held_out_fraction"),
            ({"learning_rate": -1.0}, "learning_rate"),
            ({"weight_decay": -1.0}, "weight_decay"),
            ({"defensive_share": 1.0}, "defensive_share"),
            ({"defensive_share": -0.1}, "defensive_share"),
            ({"posterior_rows": "some"}, "posterior_rows"),
            ({"learning_rate": "0.001"}, "learning_rate"),
            ({"density_weight": None}, "density_weight"),
            ({"whiten": "no"}, "whiten"),
            ({"undo_smoothing": True, "objective": "implicit"}, "undo_smoothing"),
            ({"undo_smoothing": True, "objective": "disco_score"}, "undo_smoothing"),
            ({"colour": "blue"}, "colour"),
        ],
    )
    def test_settings(self, few, settings, named):
        with pytest.raises(ValueError, match=named):
            self.fit(few, **settings)

    def test_numbers_of_any_kind_are_settings(self, few):
        given = {"noise_scale": jnp.asarray(0.3), "learning_rate": np.array(1e-3)}
        settings = disco.fit(jax.random.key(0), few, **{**SMALL, **given}).settings
        assert type(settings.noise_scale) is float and settings.learning_rate == 1e-3

    def test_too_few_rows_left_to_train_on(self, few):
        table = np.random.default_rng(0).normal(size=(22, 20))
        with pytest.raises(ValueError, match="at least 22 rows.*for 20 columns; got 20 beside 2"):
            self.fit(table)
        with pytest.raises(ValueError, match="make `held_out_fraction` smaller"):
            self.fit(few[:12], held_out_fraction=0.97)

    def test_key(self, few):
        with pytest.raises(ValueError, match="random key for `rng_key`.*jax.random.key"):
            disco.fit(0, few, **SMALL)

    def test_diverging_loss_says_so(self, few):
        with pytest.raises(FloatingPointError, match="learning_rate"):
            self.fit(few, learning_rate=1e30)


def test_plot_history(few, tmp_path):
    fit = disco.fit(jax.random.key(0), few, **SMALL)
    axes = fit.plot_history()
    assert [axis.get_xlabel() for axis in axes] == ["step", "step"]
    axes[0].figure.savefig(tmp_path / "history.png")
    with pytest.raises(ValueError, match="2 matplotlib `axes`"):
        fit.plot_history(axes[:1])


# -- rows with holes -----------------------------------------------------------------------------


def rows_missing_at_random(num=1200):
    """A correlated Gaussian of mean 0 whose second column is mostly missing where the first is
    large: its complete rows are another population.
    """
    rng = np.random.default_rng(0)
    rows = rng.multivariate_normal([0.0, 0.0], [[1.0, 0.8], [0.8, 1.0]], size=num)
    holed = rows.copy()
    holed[(rows[:, 0] > 0) & (rng.random(num) < 0.9), 1] = np.nan
    return rows, holed


def learned_mean(**settings):
    """Of the prior learned from the rows with holes, with the error of its draws."""
    _, holed = rows_missing_at_random()
    fit = disco.fit(
        jax.random.key(0),
        {"a": holed[:, 0], "b": holed[:, 1]},
        max_components=2,
        num_steps=50,
        width=16,
        num_blocks=1,
        progress_bar=False,
        **settings,
    )
    return np.asarray(fit.distribution.sample(jax.random.key(1), (2000,))).mean(axis=0)


@pytest.mark.training
def test_refits_learn_from_rows_with_holes():
    """Refits bring the means back to those of all rows; complete rows alone do not."""
    rows, _ = rows_missing_at_random()
    # Of the mean of all rows, of the draws, and of the draws of holes in rows half of them holed.
    error = np.sqrt(2 / len(rows) + 1 / 2000)
    found = learned_mean(num_refits=3)
    assert_within(found, rows.mean(axis=0), error, sigmas=5, resolution=0.3, label="mean")
    with pytest.warns(UserWarning, match=r"\d+ of 1200 rows of `data` have holes.*`num_refits`"):
        alone = learned_mean()
    with pytest.raises(AssertionError, match="is off"):
        assert_within(alone, rows.mean(axis=0), error, sigmas=5, resolution=0.3, label="twin")


def test_refits_where_they_make_no_sense():
    rows, holed = rows_missing_at_random(100)
    with pytest.raises(ValueError, match="no row has holes"):
        disco.fit(jax.random.key(0), rows, num_refits=1, progress_bar=False)
    with pytest.raises(ValueError, match="at least 0 for `num_refits`"):
        disco.fit(jax.random.key(0), holed, num_refits=-1, progress_bar=False)
