"""The losses, for one example each, and what judges them on held-out rows.

All quantities are in standardised units. A score s and a denoising direction are two ways to say
the same: the score of the rows smoothed by sigma_0 points from x to the posterior mean m(x),
s(x) = (m(x) - x) / sigma_0^2. What a loss learns is its minimiser over all score functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax

from numpyro_disco._typing import Array

ScoreFn: TypeAlias = Callable[[Array], Array]
"""One point (D,) to its score (D,)."""


def disco_loss(
    score_fn: ScoreFn,
    x: Array,
    target: Array,
    proposal_scale: Array,
    noise_scale: float,
) -> Array:
    r"""Diffusion-free score matching at one noisy point.

    .. math:: L = \lambda(t) \sigma_0^4 |(m - x)/\sigma_0^2 - s(x)|^2 / D,
              \qquad \lambda(t) = 1 / \sigma(t)^2

    that is, the squared error of the denoising direction relative to the noise that proposed x.
    Its expectation has the gradient of a mixture of Fisher divergences to the *one* density
    p_0 = rows * N(0, sigma_0^2 I), for a target that is a draw from the posterior over rows or its
    mean; the mean has no sampling noise.

    With the row that x was made from as the target it is a relative. At sigma(t) = sigma_0 that row
    *is* a draw from the posterior, and the loss is single-level denoising score matching (Vincent
    2011), with the same minimiser. At other levels it is multiscale denoising score matching
    (MDSM, Li et al. 2023), which learns something else: the average over noise levels of
    (sigma(t) / sigma_0)^2 grad log p_t(x), each level weighted by lambda(t) p_t(x).

    Args:
        score_fn: s.
        x: the noisy point, shape (D,).
        target: m, a draw from or the mean of the posterior over rows at x, shape (D,).
        proposal_scale: sigma(t), the noise that made x.
        noise_scale: sigma_0.

    Returns:
        The loss, shape (), about 1 for the zero score at t = 0.

    References:
        Wedenig & Peharz 2025, equation 8; their section D.1 for lambda, E.1 and E.2 for what DISCO
        and MDSM learn.
    """
    error = (target - x) - noise_scale**2 * score_fn(x)
    return (error**2).mean() / proposal_scale**2


def density_loss(energy: Array, log_density: Array, depth: Array, largest: Array) -> Array:
    r"""The energy itself against the log density that the posterior's normaliser is.

    .. math:: L = (1 - w) \, h\Bigl(\frac{E(x) + \log p_0(x)}{1 + d}\Bigr)

    with Huber's h, quadratic up to 1. DISCO compares slopes, and hardly sees how much of the mass
    is in which of two modes with nothing between them; this compares heights: relative to how far
    below the highest density a point is, so that points far out do not outweigh the others. It is
    left out where the posterior is on a single row, w = 1: the smoothed rows' density there says
    where that row is, and nothing about the density between rows.

    Args:
        energy: E at the noisy point, shape ().
        log_density: log p_0 of the smoothed rows there, shape ().
        depth: d, by how much log p_0 is higher where it is highest, shape ().
        largest: w, the posterior probability of the likeliest row, shape ().

    Returns:
        The loss, shape (), lowest at E = -log p_0.
    """
    return (1 - largest) * optax.losses.huber_loss((energy + log_density) / (1 + depth))


def diffusion_loss(score_fn: ScoreFn, row: Array, noise: Array, proposal_scale: Array) -> Array:
    r"""Denoising at all noise levels by a score that is not told which.

    .. math:: L = |\epsilon + \sigma(t) s(x + \sigma(t) \epsilon)|^2 / D

    It learns the average over noise levels of grad log p_t(x), each level weighted by
    sigma(t)^2 p_t(x): neither the score of p_0 nor of any p_t.

    Args:
        score_fn: s.
        row: a clean row, shape (D,).
        noise: standard normal, shape (D,).
        proposal_scale: sigma(t).

    Returns:
        The loss, shape ().

    References:
        Wedenig & Peharz 2025, section E.3; Sun et al. 2025.
    """
    return ((noise + proposal_scale * score_fn(row + proposal_scale * noise)) ** 2).mean()


def implicit_loss(score_fn: ScoreFn, x: Array) -> Array:
    r"""Implicit score matching at a row, with the exact trace.

    .. math:: L = (|s|^2 / 2 + \operatorname{tr} \partial s / \partial x) / D

    Its minimiser is the score of the rows' own density, smoothed by nothing; it costs D
    derivatives of the score. Of finitely many rows it has no minimum: a score that is steep
    enough at each of them makes the trace as negative as one likes. Stop on held-out rows.

    Args:
        score_fn: s.
        x: a row, shape (D,).

    Returns:
        The loss, shape ().

    References:
        Hyvarinen 2005, theorem 1.
    """
    score = score_fn(x)
    trace = jnp.trace(jax.jacfwd(score_fn)(x))
    return (0.5 * (score**2).sum() + trace) / x.shape[0]


def hutchinson_loss(score_fn: ScoreFn, x: Array, probe: Array) -> Array:
    """Implicit score matching with the trace estimated as v . (ds/dx) v: one derivative.

    Unbiased for `implicit_loss`, whatever the score.

    Args:
        score_fn: s.
        x: a row, shape (D,).
        probe: v, independent signs +-1, shape (D,).

    Returns:
        The loss, shape ().

    References:
        Hutchinson 1989.
    """
    score, along = jax.jvp(score_fn, (x,), (probe,))
    return (0.5 * (score**2).sum() + probe @ along) / x.shape[0]


def sliced_loss(score_fn: ScoreFn, x: Array, direction: Array) -> Array:
    """Sliced score matching: (v . s)^2 / 2 + v . (ds/dx) v along one random direction.

    The same minimiser as `implicit_loss`; noisier than `hutchinson_loss`, which knows the square.

    Args:
        score_fn: s.
        x: a row, shape (D,).
        direction: v, standard normal, shape (D,).

    Returns:
        The loss, shape ().

    References:
        Song, Garg, Shi & Ermon 2019, equation 7.
    """
    score, along = jax.jvp(score_fn, (x,), (direction,))
    return (0.5 * (direction @ score) ** 2 + direction @ along) / x.shape[0]


def held_out_loss(score_fn: ScoreFn, row: Array, noise: Array, noise_scale: float) -> Array:
    r"""Denoising score matching on one held-out row, without the part no score can change.

    .. math:: J = |s(x)|^2 - 2 s(x) \cdot (r - x) / \sigma_0^2, \qquad x = r + \sigma_0 \epsilon

    averaged over the pair +-epsilon and over coordinates. E[J] = E|s - s_0|^2 - E|s_0|^2 with s_0
    the score of the *true* density smoothed by sigma_0: unlike the training loss, it cannot be
    lowered by memorising the training rows. Lower is better; the zero score has J = 0.

    Args:
        score_fn: s.
        row: a row that was not trained on, shape (D,).
        noise: standard normal, shape (D,).
        noise_scale: sigma_0.

    Returns:
        J, shape ().

    References:
        Vincent 2011, equation 11.
    """

    def one(epsilon: Array) -> Array:
        score = score_fn(row + noise_scale * epsilon)
        return (score**2 + 2 * score * epsilon / noise_scale).mean()

    return 0.5 * (one(noise) + one(-noise))


def contrastive_loss(of_row: Array, of_draw: Array) -> Array:
    r"""Telling a row from a draw of the reference by the correction alone: logistic regression.

    .. math:: L = \log(1 + e^{f(r)}) + \log(1 + e^{-f(y)}), \qquad r \sim p, \quad y \sim q

    Its expectation is lowest where f = log q - log p, at every point and in every mode: the energy
    -log q + f is then that of the rows' density, its constant included. No correction, f = 0, has
    the loss 2 log 2; a lower one on held-out rows means that f says something true of p / q.

    Args:
        of_row: f at a row, shape ().
        of_draw: f at a draw of the reference q, shape ().

    Returns:
        The loss, shape ().

    References:
        Gutmann & Hyvarinen 2012 (noise-contrastive estimation, with as many draws as rows).
    """
    return jax.nn.softplus(of_row) + jax.nn.softplus(-of_draw)


def ranking_loss(of_row: Array, of_draws: Array) -> Array:
    r"""Finding a row among draws of the reference that agree with it in some columns.

    .. math:: L = f(r) + \log\Bigl(e^{-f(r)} + \sum_{m=1}^M e^{-f(y_m)}\Bigr),
              \qquad r \sim p, \quad y_m \sim q(\,\cdot \mid r_{held})

    The draws, which others call negatives, are independent given the row. For every M the
    expectation is lowest where e^{-f} q, given the held columns, is p given them: whatever f adds
    for the held columns alone cancels, and so does every constant. It goes on saying how the
    columns hang together where rows and draws of the reference are told apart at a glance and
    `contrastive_loss` has nothing more to say. No correction has the loss log(M + 1).

    Args:
        of_row: f at a row, shape ().
        of_draws: f at draws of the reference given some of its columns, shape (M,).

    Returns:
        The loss, shape ().

    References:
        Ma & Collins 2018 (ranking by noise-contrastive estimation); Ceylan & Gutmann 2018
        (contrasts conditional on a row).
    """
    return of_row + jax.nn.logsumexp(-jnp.append(of_draws, of_row))
