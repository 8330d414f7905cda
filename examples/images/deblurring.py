"""Deblurring: a digit behind a known blur and noise, an image as one site of a NumPyro model.

python examples/images/deblurring.py            minutes on two cores
python examples/images/deblurring.py --small    a quick run of every step, which learns little
"""

import digits
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

PLACES = np.arange(8)
BLUR = np.exp(-0.5 * ((PLACES[:, None] - PLACES) / 1.2) ** 2)
BLUR = jnp.asarray(BLUR / BLUR.sum(1, keepdims=True))
"""A Gaussian blur over 1.2 pixels along one axis, shape (8, 8)."""


def blurred(image):
    """The image blurred along both axes."""
    return BLUR @ image @ BLUR.T


def model(prior, pixels):
    """An image that is seen through a blur and noise."""
    image = numpyro.sample("image", prior)
    numpyro.sample("pixels", dist.Normal(blurred(image), digits.NOISE).to_event(2), obs=pixels)


if __name__ == "__main__":
    args = digits.arguments(__doc__, "deblurring.png")
    digits.restore(args, model, blurred, lambda train, pixels: {"blurred": pixels})
