"""Losses of single examples, and the loss by which held-out rows judge a score.

All quantities are in standardised units. A score s and a denoising direction are equivalent: the
score of the rows smoothed by sigma_0 points from x to the posterior mean m(x),
s(x) = (m(x) - x) / sigma_0^2. Each docstring names the minimiser of the expected loss.
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

    the squared error of the denoising direction relative to the noise that proposed x. If the
    target is a draw from the posterior over rows, or its mean, the expected loss has the gradient
    of a mixture of Fisher divergences to *one* density, p_0 = rows * N(0, sigma_0^2 I), and its
    minimiser is the score of p_0. The mean has no sampling noise.

    Two other losses have the same form, with the row that x was made from as the target. At
    sigma(t) = sigma_0 that row is a draw from the posterior: this is single-level denoising score
    matching (Vincent 2011), with the same minimiser. At other levels it is multiscale denoising
    score matching (MDSM, Li et al. 2023), whose minimiser is the average over noise levels of
    (sigma(t) / sigma_0)^2 grad log p_t(x), each level weighted by lambda(t) p_t(x).

    Args:
        score_fn: s.
        x: the noisy point, shape (D,).
        target: m, a draw from or the mean of the posterior over rows at x, shape (D,).
        proposal_scale: sigma(t), the noise that made x, shape (); or that of each coordinate, (D,),
            whose error is then relative to it.
        noise_scale: sigma_0.

    Returns:
        The loss, shape (), about 1 for the zero score at t = 0.

    References:
        Wedenig & Peharz 2025, equation 8; their section D.1 for lambda, E.1 and E.2 for what DISCO
        and MDSM learn.
    """
    error = (target - x) - noise_scale**2 * score_fn(x)
    if jnp.ndim(proposal_scale):
        return ((error / proposal_scale) ** 2).mean()
    return (error**2).mean() / proposal_scale**2


def density_loss(energy: Array, log_density: Array, depth: Array, largest: Array) -> Array:
    r"""Error of the energy against the log density, which the posterior's normaliser gives.

    .. math:: L = (1 - w) \, h\Bigl(\frac{E(x) + \log p_0(x)}{1 + d}\Bigr)

    with Huber's h, quadratic up to 1. The DISCO loss compares slopes and is nearly insensitive to
    the relative masses of well separated modes; this loss compares heights. The error is relative
    to the depth d, so that points far from the rows do not dominate. The weight 1 - w drops points
    whose posterior is on a single row: the smoothed density there describes that row only, and not
    the density between rows.

    Args:
        energy: E at the noisy point, shape ().
        log_density: log p_0 of the smoothed rows there, shape ().
        depth: d, the highest log p_0 of the batch minus that at the point, shape ().
        largest: w, the posterior probability of the likeliest row, shape ().

    Returns:
        The loss, shape (), lowest at E = -log p_0.
    """
    return (1 - largest) * optax.losses.huber_loss((energy + log_density) / (1 + depth))


def diffusion_loss(score_fn: ScoreFn, row: Array, noise: Array, proposal_scale: Array) -> Array:
    r"""Denoising at all noise levels by a score that does not depend on the level.

    .. math:: L = |\epsilon + \sigma(t) s(x + \sigma(t) \epsilon)|^2 / D

    Its minimiser is the average over noise levels of grad log p_t(x), each level weighted by
    sigma(t)^2 p_t(x). This is neither the score of p_0 nor that of any p_t.

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

    Its minimiser is the score of the rows' own density, without smoothing; it costs D derivatives
    of the score. Over finitely many rows it has no minimum: a score that is steep enough at every
    row makes the trace arbitrarily negative. Let held-out rows decide when to stop.

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
    """Implicit score matching with the trace estimated as v . (ds/dx) v, by one derivative.

    Unbiased for `implicit_loss` for every score.

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

    It has the minimiser of `implicit_loss`. It is noisier than `hutchinson_loss`, which computes
    the squared norm exactly.

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


def denoising_loss(score_fn: ScoreFn, row: Array, noise: Array, noise_scale: float) -> Array:
    r"""Denoising score matching on one held-out row, up to a constant.

    .. math:: J = |s(x)|^2 - 2 s(x) \cdot (r - x) / \sigma_0^2, \qquad x = r + \sigma_0 \epsilon

    averaged over the pair +-epsilon and over coordinates. E[J] = E|s - s_0|^2 - E|s_0|^2 with s_0
    the score of the *true* density smoothed by sigma_0; memorising the training rows does not lower
    it. Lower is better; the zero score has J = 0.

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


def contrastive_loss(at_row: Array, at_draw: Array) -> Array:
    r"""Logistic regression of rows against draws of the reference, with logit -f.

    .. math:: L = \log(1 + e^{f(r)}) + \log(1 + e^{-f(y)}), \qquad r \sim p, \quad y \sim q

    Its minimiser is f = log q - log p, at every point and in every mode: the energy -log q + f is
    then that of the rows' density, its constant included. No correction, f = 0, has the loss
    2 log 2; a lower loss on held-out rows means that f improves on the reference.

    Args:
        at_row: f at a row, shape ().
        at_draw: f at a draw of the reference q, shape ().

    Returns:
        The loss, shape ().

    References:
        Gutmann & Hyvarinen 2012 (noise-contrastive estimation, with as many draws as rows).
    """
    return jax.nn.softplus(at_row) + jax.nn.softplus(-at_draw)


def ranking_loss(at_row: Array, at_draws: Array) -> Array:
    r"""Identify a row among draws of the reference that agree with it in some coordinates.

    .. math:: L = f(r) + \log\Bigl(e^{-f(r)} + \sum_{m=1}^M e^{-f(y_m)}\Bigr),
              \qquad r \sim p, \quad y_m \sim q(\,\cdot \mid r_{held})

    The draws (negatives) are independent given the row. For every M the expected loss is minimal if
    e^{-f} q, given the held coordinates, is p given them; terms of f in the held coordinates alone
    cancel, and so does every constant. The loss remains informative about the dependence between
    columns where rows and unconditional draws are so easily told apart that `contrastive_loss` has
    no gradient left. No correction has the loss log(M + 1).

    Args:
        at_row: f at a row, shape ().
        at_draws: f at draws of the reference given some coordinates of the row, shape (M,).

    Returns:
        The loss, shape ().

    References:
        Ma & Collins 2018 (ranking by noise-contrastive estimation); Ceylan & Gutmann 2018
        (contrasts conditional on a row).
    """
    return at_row + jax.nn.logsumexp(-jnp.append(at_draws, at_row))
