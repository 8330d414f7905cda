"""In-painting half of a digit: an image as one site of a NumPyro model.

A prior over 8 x 8 digits is learned once from scikit-learn's, and the left half of digits that it
never saw is observed with noise. The model has two lines; tempered SMC draws the posterior of the
whole image, asymptotically exact for the learned prior. The error of the hidden half is compared
with that of the closed-form Gaussian prior with the same covariance, and of the nearest training
image.

    python examples/images/inpainting.py            minutes on two cores
    python examples/images/inpainting.py --small    a quick run of every step, which learns little
"""

import digits
import numpy as np
import numpyro
import numpyro.distributions as dist


def seen(image):
    """The left half, (..., 8, 8) to (..., 8, 4)."""
    return image[..., :4]


def model(prior, pixels):
    """An image, half of which is observed with noise."""
    image = numpyro.sample("image", prior)
    numpyro.sample("pixels", dist.Normal(seen(image), digits.NOISE).to_event(2), obs=pixels)


def nearest(images, pixels):
    """The training image whose observed half is nearest, for each test image."""
    distance = ((seen(images)[:, None] - pixels) ** 2).sum((2, 3))
    return images[distance.argmin(0)]


def rivals(train, pixels):
    """Answers to compare with."""
    return {"nearest training image": nearest(train, pixels)}


def beside_nothing(pixels):
    """What is seen on the left, and NaN on the right."""
    return np.concatenate([pixels, np.full_like(pixels, np.nan)], axis=-1)


if __name__ == "__main__":
    args = digits.arguments(__doc__, "inpainting.png")
    digits.restore(args, model, seen, rivals, hidden=np.s_[..., 4:], picture=beside_nothing)
