"""Four-fold super-resolution: 8 x 8 digits from 4 x 4 pixels, each the mean of four, with noise.

python examples/images/super_resolution.py            minutes on two cores
python examples/images/super_resolution.py --small    a quick run of every step
"""

import digits
import numpyro
import numpyro.distributions as dist


def coarse(image):
    """Means of blocks of 2 x 2 pixels, (..., 8, 8) to (..., 4, 4)."""
    return image.reshape(*image.shape[:-2], 4, 2, 4, 2).mean((-3, -1))


def model(prior, pixels):
    """An image of which only means over blocks are seen, with noise."""
    image = numpyro.sample("image", prior)
    numpyro.sample("pixels", dist.Normal(coarse(image), digits.NOISE).to_event(2), obs=pixels)


def rivals(train, pixels):
    """Answers to compare with."""
    return {"pixels repeated": pixels.repeat(2, 1).repeat(2, 2)}


if __name__ == "__main__":
    digits.restore(digits.arguments(__doc__, "super_resolution.png"), model, coarse, rivals)
