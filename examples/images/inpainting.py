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

NOISE = 0.5
"""Standard deviation of the noise, in grey levels of 0 to 16."""


def seen(image):
    """The left half, (..., 8, 8) to (..., 8, 4)."""
    return image[..., :4]


def model(prior, pixels):
    """An image, half of which is observed with noise."""
    image = numpyro.sample("image", prior)
    numpyro.sample("pixels", dist.Normal(seen(image), NOISE).to_event(2), obs=pixels)


def nearest(images, pixels):
    """The training image whose observed half is nearest, for each test image."""
    distance = ((seen(images)[:, None] - pixels) ** 2).sum((2, 3))
    return images[distance.argmin(0)]


def main(args):
    """Learn, in-paint, compare and draw."""
    train, test = digits.load()
    prior = digits.learn_prior(train, args)
    truth = test[: args.num_images]
    pixels = seen(truth)
    pixels = pixels + NOISE * np.random.default_rng(1).normal(size=pixels.shape)
    draws = digits.posterior(model, prior, pixels, args)["image"]
    others = {
        "Gaussian, closed form": digits.gaussian_mean(train, seen, pixels, NOISE),
        "nearest training image": nearest(train, pixels),
    }
    hidden = np.s_[..., 4:]
    digits.report(truth[hidden], draws[hidden], {k: x[hidden] for k, x in others.items()})
    observed = np.full_like(truth, np.nan)
    observed[..., :4] = pixels
    digits.plot(args.output, {"seen": observed, **digits.maps(draws), "truth": truth})


if __name__ == "__main__":
    main(digits.arguments(__doc__, "inpainting.png"))
