"""The posterior over training rows at the smallest noise level: the target of the DISCO loss.

Given a point x, observed through noise of standard deviation sigma_0, the clean row is row r_i with
probability proportional to w_i N(x; r_i, sigma_0^2 I), with w_i the weight of the row. The
posterior mean m(x) gives the exact score of the rows smoothed by sigma_0, (m(x) - x) / sigma_0^2,
and its normaliser their exact log density.

`row_posterior` reads all rows, in chunks with a running maximum, so that memory does not grow with
N. `near_row_posterior` reads all rows of the boxes near the point and one row of each other box; it
is faster for very many rows of few columns.

References:
    Wedenig & Peharz 2025, equation 8 and the text after it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._gaussians import LOG_2_PI
from numpyro_disco._typing import Array


class RowPosterior(NamedTuple):
    """The posterior over training rows at B points."""

    mean: Array
    """Posterior mean of the clean row, shape (B, D)."""
    draw: Array
    """One draw of the clean row from the posterior, shape (B, D)."""
    log_density: Array
    """Log density of the rows smoothed by sigma_0 at each point, shape (B,)."""
    largest: Array
    """Probability of the likeliest row, shape (B,), between 1 / N and 1."""


NEAR_DIMENSION, NEAR_ROWS = 2, 300_000
"""Most columns and fewest rows for which only rows near the point are read by default.
With fewer rows there is little to gain; with three columns the mean is less accurate
(tests/benchmarks/training_speed.py)."""
MAX_NEAR_DIMENSION = 3
"""Most columns for which the nearest boxes hold the nearest rows."""
BOX_SIZE, NUM_NEAR_BOXES = 64, 64
"""Rows in a box, and number of boxes that are read completely."""


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
    row_weights: Array | None = None,
    *,
    chunk_size: int = 2048,
) -> RowPosterior:
    """The exact posterior over all training rows behind each point.

    Exact up to rounding. The draw is made in the same pass: the draw within each chunk replaces the
    previous one with probability equal to the chunk's share of the mass so far.

    Args:
        rng_key: random key for the draws.
        points: array (B, D).
        rows: training rows, array (N, D), in the same units as `points`.
        noise_scale: sigma_0, in those units.
        row_weights: positive weights of the rows, shape (N,); ones by default.
        chunk_size: rows that are compared with all points at a time; B * chunk_size numbers are
            held at once.

    Returns:
        A `RowPosterior`.

    References:
        Wedenig & Peharz 2025, section 3, "DISCO Training".
    """
    num_rows, dimension = rows.shape
    chunk_size = min(chunk_size, num_rows)
    num_chunks, padding = -(-num_rows // chunk_size), -num_rows % chunk_size
    # Distances are invariant to a shift; a centred origin keeps the expanded square accurate.
    center = rows.mean(axis=0)
    points, rows = points - center, rows - center
    chunks = jnp.pad(rows, ((0, padding), (0, 0))).reshape(num_chunks, chunk_size, dimension)
    log_weights = jnp.pad(_log_weights(row_weights, rows), (0, padding), constant_values=-jnp.inf)
    log_weights = log_weights.reshape(num_chunks, chunk_size)
    precision = 1 / jnp.asarray(noise_scale, points.dtype) ** 2
    num_points = points.shape[0]

    def read(running: _Running, chunk: tuple[Array, Array, Array]) -> tuple[_Running, None]:
        key, block, log_weight = chunk
        # -|x - r|^2 / 2 without the term in x alone, which is the same for every row.
        inner = jnp.matmul(points, block.T, precision=jax.lax.Precision.HIGHEST)
        logits = precision * (inner - 0.5 * (block**2).sum(-1)) + log_weight
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
    chunked = (jax.random.split(rng_key, num_chunks), chunks, log_weights)
    running, _ = jax.lax.scan(read, start, chunked)
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


def _log_weights(row_weights: Array | None, rows: Array) -> Array:
    """Logs of the weights, divided by their mean."""
    if row_weights is None:
        return jnp.zeros(len(rows), rows.dtype)
    return jnp.log(row_weights / row_weights.mean()).astype(rows.dtype)


def reads_near_rows(posterior_rows: int | str | None, num_rows: int, dimension: int) -> bool:
    """Return True if `posterior_rows` selects `near_row_posterior`.

    Args:
        posterior_rows: as for `Disco`.
        num_rows: number of training rows, N.
        dimension: number of columns, D.

    Raises:
        ValueError: "near" with too many columns.
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
    """Indices that sort rows (N, D) by the leaves of a k-d tree, so that neighbours are adjacent.

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
    row_weights: Array | None = None,
    *,
    num_near: int = NUM_NEAR_BOXES,
) -> RowPosterior:
    """The posterior over training rows, estimated from nearby rows and a sample of the others.

    Consecutive rows form a box. All rows of the boxes nearest to a point are read; every other box
    is represented by one random row, drawn by weight, with the weight of the whole box. This
    stratified sample makes sums over rows (the density, and the density times the mean) unbiased
    for any order of the rows. Their variance is small if boxes are smaller than `noise_scale` and
    the nearest rows lie in the nearest boxes: rows in the order of `tree_order`, in one to three
    dimensions.

    Args:
        rng_key: random key for the sample and the draws.
        points: array (B, D).
        rows: training rows, array (N, D), in the same units as `points`.
        noise_scale: sigma_0, in those units.
        row_weights: positive weights of the rows, shape (N,); ones by default.
        num_near: number of boxes that are read completely.

    Returns:
        A `RowPosterior`.
    """
    num_rows, dimension = rows.shape
    num_boxes = -(-num_rows // BOX_SIZE)
    padding = num_boxes * BOX_SIZE - num_rows
    boxes = jnp.pad(rows, ((0, padding), (0, 0)), mode="edge")
    boxes = boxes.reshape(num_boxes, BOX_SIZE, dimension)
    lower, upper = boxes.min(axis=1), boxes.max(axis=1)
    weights = jnp.pad(jnp.exp(_log_weights(row_weights, rows)), (0, padding))
    weights = weights.reshape(num_boxes, BOX_SIZE)
    ends, box_weights = jnp.cumsum(weights, axis=1), weights.sum(axis=1)
    sample_key, draw_key = jax.random.split(rng_key)
    threshold = jax.random.uniform(sample_key, (num_boxes,)) * box_weights
    # Rounding of the threshold must not pick a row of the padding.
    last = (weights > 0).sum(axis=1) - 1
    chosen = jnp.minimum((ends <= threshold[:, None]).sum(axis=1), last)
    sample, sample_weights = (x[jnp.arange(num_boxes), chosen] for x in (boxes, weights))
    # Steep weights may all be zero within a box, in the precision that JAX computes in.
    ratio = jnp.where(sample_weights > 0, box_weights / sample_weights, 1.0)
    precision = 1 / jnp.asarray(noise_scale, points.dtype) ** 2

    def of_point(point_and_key: tuple[Array, Array]) -> RowPosterior:
        point, key = point_and_key
        outside = jnp.maximum(jnp.maximum(lower - point, point - upper), 0)
        _, near = jax.lax.top_k(-(outside**2).sum(axis=1), min(num_near, num_boxes))
        candidates = jnp.concatenate([boxes[near].reshape(-1, dimension), sample])
        read = jnp.log(weights[near].reshape(-1))
        beside = jnp.log(box_weights).at[near].set(-jnp.inf)
        square = ((candidates - point) ** 2).sum(axis=1)
        logits = jnp.concatenate([read, beside]) - 0.5 * precision * square
        total = jax.nn.logsumexp(logits)
        share = jnp.exp(logits - total)
        # A row that represents a box shares its probability with the other rows of the box.
        stands_for = jnp.concatenate([jnp.ones_like(read), ratio])
        draw = candidates[jax.random.categorical(key, logits)]
        largest = (share / stands_for).max()
        return RowPosterior(share @ candidates, draw, total - constant, largest)

    constant = jnp.log(num_rows) + 0.5 * dimension * (LOG_2_PI - jnp.log(precision))
    keys = jax.random.split(draw_key, len(points))
    return jax.lax.map(of_point, (points, keys), batch_size=min(128, len(points)))
