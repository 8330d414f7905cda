"""Two overlapping digits separated: two sites with the same prior, of which the sum is seen.

The digits lie side by side on 8 x 11 pixels, and the five columns in the middle are of both.

    python examples/images/separation.py            minutes on two cores
    python examples/images/separation.py --small    a quick run of every step, which learns little
"""

import digits
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

SHIFT = 3
"""Columns between the left edges of the two digits."""


def together(left, right):
    """Their sum on a wider canvas, (..., 8, 8) each to (..., 8, 8 + SHIFT)."""
    margin = [(0, 0)] * (left.ndim - 1)
    return jnp.pad(left, [*margin, (0, SHIFT)]) + jnp.pad(right, [*margin, (SHIFT, 0)])


def model(prior, pixels):
    """Two images, of which the sum is seen with noise."""
    left, right = numpyro.sample("left", prior), numpyro.sample("right", prior)
    numpyro.sample(
        "pixels", dist.Normal(together(left, right), digits.NOISE).to_event(2), obs=pixels
    )


def main(args):
    """Learn, separate, compare and draw."""
    train, test = digits.load()
    prior = digits.learn_prior(train, args)
    truth = test[: 2 * args.num_images].reshape(-1, 2, 8, 8)
    pixels = digits.with_noise(together(truth[:, 0], truth[:, 1]))
    found = digits.posterior(model, prior, pixels, args)
    draws = np.stack([found["left"], found["right"]], 2)
    gaussian = digits.gaussian_mean(train, together, pixels, num_images=2)
    digits.report(truth, draws, {"Gaussian, closed form": gaussian})
    columns = {"seen": pixels}
    for index, name in enumerate(("left ", "right ")):
        columns |= digits.maps(draws[:, :, index], name)
    columns |= {"left truth": truth[:, 0], "right truth": truth[:, 1]}
    digits.plot(args.output, columns)


if __name__ == "__main__":
    main(digits.arguments(__doc__, "separation.png"))
