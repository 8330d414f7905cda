"""The posterior over training rows at the smallest noise level: the target of the DISCO loss.

For a point x and rows r_1, ..., r_N, the clean row behind x, seen through noise of standard
deviation sigma_0, is row i with probability in proportion to N(x; r_i, sigma_0^2 I) (Wedenig &
Peharz 2025, equation 8 and the text after it). Its mean m(x) gives the exact score of the rows
smoothed by sigma_0, (m(x) - x) / sigma_0^2, and its normaliser gives their exact log density.

`row_posterior` reads all rows, in chunks with a running maximum, so that memory does not grow with
N. `near_row_posterior` reads the rows in boxes near the point, and one row of each other box in
place of all in it; it does where there are few columns and very many rows.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._gaussians import LOG_2_PI
from numpyro_disco._typing import Array


class RowPosterior(NamedTuple):
    """What the posterior over training rows says of some points."""

    mean: Array
    """Posterior mean of the clean row, shape (B, D)."""
    draw: Array
    """One draw of the clean row from the posterior, shape (B, D)."""
    log_density: Array
    """Log density of the rows smoothed by sigma_0 at each point, shape (B,)."""
    largest: Array
    """Probability of the likeliest row, shape (B,): from 1 / N to 1, where it is the only one."""


NEAR_DIMENSION, NEAR_ROWS = 2, 300_000
"""Columns up to which, and rows from which on, the rows near a point are read instead of all. With
fewer rows there is little to gain; with three columns the mean may be off by more than 2 % of
sigma_0 (tests/benchmarks/training_speed.py)."""
MAX_NEAR_DIMENSION = 3
"""With more columns the nearest boxes do not hold the nearest rows."""
BOX_SIZE, NUM_NEAR_BOXES = 64, 64
"""Rows in a box, and boxes of which all rows are read."""
MAX_JUDGES = 1024
"""Held-out rows that judge a smoothing."""
TRIED_SCALES = tuple(float(s) for s in np.geomspace(0.01, 1, 15))
"""Where `choose_noise_scale` looks, in standardised units."""


def choose_noise_scale(rows: np.ndarray, held_out: np.ndarray) -> tuple[float, dict[float, float]]:
    """The smoothing under which the rows say most of held-out ones: sigma_0 by likelihood.

    Among `TRIED_SCALES`, the one at which the training rows, smoothed, give held-out rows the
    highest mean log density. It is what a kernel density would take: with less, its rows stand
    alone; with more, structure is lost that the rows do show. A network smooths in between rows by
    itself, so for one this is the most that is ever needed.

    Args:
        rows: standardised rows to train on, (N, D).
        held_out: standardised rows that judge, (M, D); at most `MAX_JUDGES` are read.

    Returns:
        The scale, and the mean held-out log density by scale.
    """
    tried = {
        scale: float(smoothed_log_density(rows, held_out, scale).mean()) for scale in TRIED_SCALES
    }
    return max(tried, key=lambda scale: tried[scale]), tried


def smoothed_log_density(rows: np.ndarray, held_out: np.ndarray, scale: float) -> np.ndarray:
    """Log density of held-out rows (M, D) under the rows smoothed by `scale`, shape (M,).

    At most `MAX_JUDGES` of them are read.
    """
    points = jnp.asarray(held_out[:MAX_JUDGES])
    found = _log_density(
        jax.random.key(0), points, jnp.asarray(rows), jnp.asarray(scale, points.dtype)
    )
    return np.asarray(found, np.float64)


class _Running(NamedTuple):
    maximum: Array
    total: Array
    weighted: Array
    draw: Array


def row_posterior(
    rng_key: Array,
    points: Array,
    rows: Array,
    noise_scale: float | Array,
    *,
    chunk_size: int = 2048,
) -> RowPosterior:
    """The exact posterior over all training rows behind each point.

    Exact up to rounding: every row counts. The draw is made on the same pass over the rows: a draw
    within each chunk replaces the one before with the chunk's share of the mass so far.

    Args:
        rng_key: random key for the draws.
        points: array (B, D).
        rows: training rows, array (N, D), in the same units as `points`.
        noise_scale: sigma_0, in those units.
        chunk_size: how many rows are compared with all points at a time; B * chunk_size numbers
            are held at once.

    Returns:
        A `RowPosterior`.

    References:
        Wedenig & Peharz 2025, section 3, "DISCO Training".
    """
    num_rows, dimension = rows.shape
    chunk_size = min(chunk_size, num_rows)
    num_chunks = -(-num_rows // chunk_size)
    padding = num_chunks * chunk_size - num_rows
    # Distances are invariant to a shift; a centred origin keeps the expanded square accurate.
    center = rows.mean(axis=0)
    points, rows = points - center, rows - center
    chunks = jnp.pad(rows, ((0, padding), (0, 0))).reshape(num_chunks, chunk_size, dimension)
    valid = (jnp.arange(num_chunks * chunk_size) < num_rows).reshape(num_chunks, chunk_size)
    precision = 1 / jnp.asarray(noise_scale, points.dtype) ** 2
    num_points = points.shape[0]

    def read(running: _Running, chunk: tuple[Array, Array, Array]) -> tuple[_Running, None]:
        key, block, real = chunk
        # -|x - r|^2 / 2 without the term in x alone, which is the same for every row.
        inner = jnp.matmul(points, block.T, precision=jax.lax.Precision.HIGHEST)
        logits = precision * (inner - 0.5 * (block**2).sum(-1))
        logits = jnp.where(real, logits, -jnp.inf)
        maximum = jnp.maximum(running.maximum, logits.max(axis=1))
        shrink = jnp.exp(running.maximum - maximum)
        weights = jnp.exp(logits - maximum[:, None])
        replace_key, pick_key = jax.random.split(key)
        # A draw within the block, kept with the probability of the block against all before it.
        total = running.total * shrink + weights.sum(axis=1)
        cumulative = jnp.cumsum(weights, axis=1)
        threshold = jax.random.uniform(pick_key, (num_points, 1)) * cumulative[:, -1:]
        pick = (cumulative <= threshold).sum(axis=1).clip(max=chunk_size - 1)
        replace = jax.random.uniform(replace_key, (num_points,)) * total < weights.sum(axis=1)
        draw = jnp.where(replace[:, None], block[pick], running.draw)
        weighted = running.weighted * shrink[:, None] + jnp.matmul(
            weights, block, precision=jax.lax.Precision.HIGHEST
        )
        return _Running(maximum, total, weighted, draw), None

    start = _Running(
        jnp.full(num_points, -jnp.inf, points.dtype),
        jnp.zeros(num_points, points.dtype),
        jnp.zeros_like(points),
        jnp.zeros_like(points),
    )
    keys = jax.random.split(rng_key, num_chunks)
    running, _ = jax.lax.scan(read, start, (keys, chunks, valid))
    log_density = (
        running.maximum
        + jnp.log(running.total)
        - 0.5 * precision * (points**2).sum(-1)
        - jnp.log(num_rows)
        - 0.5 * dimension * (LOG_2_PI - jnp.log(precision))
    )
    mean = running.weighted / running.total[:, None]
    # The likeliest row's own term of the total is one.
    return RowPosterior(mean + center, running.draw + center, log_density, 1 / running.total)


def reads_near_rows(posterior_rows: int | str | None, num_rows: int, dimension: int) -> bool:
    """Whether `near_row_posterior` is what a setting of `posterior_rows` asks for.

    Raises:
        ValueError: it is, and there are too many columns for it.
    """
    if posterior_rows is None:
        return dimension <= NEAR_DIMENSION and num_rows >= NEAR_ROWS
    if posterior_rows == "near" and dimension > MAX_NEAR_DIMENSION:
        raise ValueError(
            f"Expected at most {MAX_NEAR_DIMENSION} columns with `posterior_rows='near'`; got "
            f"{dimension}: the boxes nearest to a point would not hold the rows nearest to it. "
            "Leave it out, or give 'all'."
        )
    return posterior_rows == "near"


def tree_order(rows: np.ndarray) -> np.ndarray:
    """Indices that put rows (N, D) in the order of the leaves of a k-d tree, neighbours together.

    References:
        Bentley 1975.
    """
    from scipy.spatial import KDTree

    return np.asarray(KDTree(rows, leafsize=BOX_SIZE).indices)


def near_row_posterior(
    rng_key: Array,
    points: Array,
    rows: Array,
    noise_scale: float | Array,
    *,
    num_near: int = NUM_NEAR_BOXES,
) -> RowPosterior:
    """The posterior over training rows from those near each point and a sample of the others.

    Rows that follow each other make a box. All rows of the boxes nearest to a point count; each
    other box counts by one row drawn from it, with the weight of all in it: a stratified sample, so
    that the sums over rows (density, and density times mean) have no bias, for any order of the
    rows. How little they vary depends on the boxes being smaller than `noise_scale`, and on the
    nearest row being in a near box: in the order of `tree_order`, in one to three dimensions.

    Args:
        rng_key: random key for the sample and the draws.
        points: array (B, D).
        rows: training rows, array (N, D), in the same units as `points`.
        noise_scale: sigma_0, in those units.
        num_near: boxes of which all rows are read.

    Returns:
        A `RowPosterior`.
    """
    num_rows, dimension = rows.shape
    num_boxes = -(-num_rows // BOX_SIZE)
    padding = num_boxes * BOX_SIZE - num_rows
    boxes = jnp.pad(rows, ((0, padding), (0, 0)), mode="edge")
    boxes = boxes.reshape(num_boxes, BOX_SIZE, dimension)
    lower, upper = boxes.min(axis=1), boxes.max(axis=1)
    valid = (jnp.arange(num_boxes * BOX_SIZE) < num_rows).reshape(num_boxes, BOX_SIZE)
    count = valid.sum(axis=1)
    sample_key, draw_key = jax.random.split(rng_key)
    chosen = jnp.floor(jax.random.uniform(sample_key, (num_boxes,)) * count).astype(int)
    sample = boxes[jnp.arange(num_boxes), jnp.minimum(chosen, count - 1)]
    precision = 1 / jnp.asarray(noise_scale, points.dtype) ** 2

    def of_point(point_and_key: tuple[Array, Array]) -> RowPosterior:
        point, key = point_and_key
        outside = jnp.maximum(jnp.maximum(lower - point, point - upper), 0)
        _, near = jax.lax.top_k(-(outside**2).sum(axis=1), min(num_near, num_boxes))
        candidates = jnp.concatenate([boxes[near].reshape(-1, dimension), sample])
        log_count = jnp.log(count.astype(point.dtype)).at[near].set(-jnp.inf)
        read = jnp.where(valid[near].reshape(-1), 0.0, -jnp.inf)
        square = ((candidates - point) ** 2).sum(axis=1)
        logits = jnp.concatenate([read, log_count]) - 0.5 * precision * square
        total = jax.nn.logsumexp(logits)
        share = jnp.exp(logits - total)
        # A row that stands for a box is as many rows, each with its part of the probability.
        stands_for = jnp.concatenate([jnp.ones_like(read), count.astype(point.dtype)])
        draw = candidates[jax.random.categorical(key, logits)]
        largest = (share / stands_for).max()
        return RowPosterior(share @ candidates, draw, total - constant, largest)

    constant = jnp.log(num_rows) + 0.5 * dimension * (LOG_2_PI - jnp.log(precision))
    keys = jax.random.split(draw_key, len(points))
    return jax.lax.map(of_point, (points, keys), batch_size=min(128, len(points)))


@jax.jit
def _log_density(rng_key: Array, points: Array, rows: Array, noise_scale: Array) -> Array:
    return row_posterior(rng_key, points, rows, noise_scale).log_density
