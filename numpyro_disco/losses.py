"""The losses, for one example each, and what judges them on held-out rows.

All quantities are in standardised units. A score s and a denoising direction are two ways to say
the same: the score of the rows smoothed by sigma_0 points from x to the posterior mean m(x),
s(x) = (m(x) - x) / sigma_0^2.
"""

from __future__ import annotations

import jax

from numpyro_disco._typing import Array, EnergyFn


def energy_and_score(energy_fn: EnergyFn, x: Array) -> tuple[Array, Array]:
    """E(x) and the score -grad E(x) at one point: shapes () and (D,)."""
    energy, gradient = jax.value_and_grad(energy_fn)(x)
    return energy, -gradient


def disco_loss(
    energy_fn: EnergyFn,
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

    Args:
        energy_fn: E, one point (D,) to ().
        x: the noisy point, shape (D,).
        target: m, a draw from or the mean of the posterior over rows at x, shape (D,).
        proposal_scale: sigma(t), the noise that made x.
        noise_scale: sigma_0.

    Returns:
        The loss, shape (), about 1 for the zero score at t = 0.

    References:
        Wedenig & Peharz 2025, equation 8; their section D.1 for lambda.
    """
    _, score = energy_and_score(energy_fn, x)
    error = (target - x) - noise_scale**2 * score
    return (error**2).mean() / proposal_scale**2


def held_out_loss(energy_fn: EnergyFn, row: Array, noise: Array, noise_scale: float) -> Array:
    r"""Denoising score matching on one held-out row, without the part no score can change.

    .. math:: J = |s(x)|^2 - 2 s(x) \cdot (r - x) / \sigma_0^2, \qquad x = r + \sigma_0 \epsilon

    averaged over the pair +-epsilon and over coordinates. E[J] = E|s - s_0|^2 - E|s_0|^2 with s_0
    the score of the *true* density smoothed by sigma_0: unlike the training loss, it cannot be
    lowered by memorising the training rows. Lower is better; the zero score has J = 0.

    Args:
        energy_fn: E, one point (D,) to ().
        row: a row that was not trained on, shape (D,).
        noise: standard normal, shape (D,).
        noise_scale: sigma_0.

    Returns:
        J, shape ().

    References:
        Vincent 2011, equation 11.
    """

    def one(epsilon: Array) -> Array:
        _, score = energy_and_score(energy_fn, row + noise_scale * epsilon)
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
