"""Guidance towards a label, by a classifier's gradient or by a denoiser that knows the label.

With weight 1 and exact networks both draw from the conditional of the label. A larger weight
sharpens: its law is not p(x | label) p(label | x)^(weight - 1) smoothed, nor any known density.
"""

import jax


def classifier_guided(process, denoise, log_prob_label, weight=1.0):
    """Add weight * grad log p(label | x_t) to the score (Dhariwal & Nichol 2021, section 4).

    Args:
        process: the noise process.
        denoise: denoiser without labels.
        log_prob_label: maps points (n, D) and a level to log p(label | x_t), (n,).
        weight: 1 is Bayes' rule.
    """

    def denoise_guided(x, t):
        gradient = jax.grad(lambda x: log_prob_label(x, t).sum())(x)
        return process.shifted(denoise(x, t), weight * gradient, t)

    return denoise_guided


def classifier_free(denoise, denoise_label, weight=1.0):
    """Move from the denoised point without the label to that with it (Ho & Salimans 2021).

    Their weight w is `weight` - 1.
    """

    def denoise_guided(x, t):
        clean = denoise(x, t)
        return clean + weight * (denoise_label(x, t) - clean)

    return denoise_guided
