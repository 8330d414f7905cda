"""Four-fold super-resolution: 8 x 8 digits from 4 x 4 pixels, each the mean of four, with noise.

python examples/images/super_resolution.py            minutes on two cores
python examples/images/super_resolution.py --small    a quick run of every step
"""

import digits
import numpy as np
import numpyro
import numpyro.distributions as dist

NOISE = 0.5
"""Standard deviation of the noise, in grey levels of 0 to 16."""


def coarse(image):
    """Means of blocks of 2 x 2 pixels, (..., 8, 8) to (..., 4, 4)."""
    return image.reshape(*image.shape[:-2], 4, 2, 4, 2).mean((-3, -1))


def model(prior, pixels):
    """An image of which only means over blocks are seen, with noise."""
    image = numpyro.sample("image", prior)
    numpyro.sample("pixels", dist.Normal(coarse(image), NOISE).to_event(2), obs=pixels)


def main(args):
    """Learn, refine, compare and draw."""
    train, test = digits.load()
    prior = digits.learn_prior(train, args)
    truth = test[: args.num_images]
    pixels = coarse(truth)
    pixels = pixels + NOISE * np.random.default_rng(1).normal(size=pixels.shape)
    draws = digits.posterior(model, prior, pixels, args)["image"]
    others = {
        "Gaussian, closed form": digits.gaussian_mean(train, coarse, pixels, NOISE),
        "pixels repeated": pixels.repeat(2, 1).repeat(2, 2),
    }
    digits.report(truth, draws, others)
    digits.plot(args.output, {"seen": pixels, **digits.maps(draws), "truth": truth})


if __name__ == "__main__":
    main(digits.arguments(__doc__, "super_resolution.png"))
