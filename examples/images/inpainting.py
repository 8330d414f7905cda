"""In-painting half of a digit: an image as one site of a NumPyro model.

A prior over 8 x 8 digits is learned once from scikit-learn's, and the left half of digits that it
never saw is observed with noise. The model has two lines; tempered SMC draws the posterior of the
whole image, asymptotically exact for the learned prior. Beside its mean and standard deviation the
picture shows three draws, and the error of the hidden half is compared with that of the closed-form
Gaussian prior with the same covariance, and of the nearest training image.

    python examples/images/inpainting.py            several minutes on two cores
    python examples/images/inpainting.py --small    a quick run of every step, which learns little
"""

import argparse
import time

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from sklearn.datasets import load_digits

import numpyro_disco as disco

NOISE = 0.5
"""Standard deviation of the noise of the observed pixels, which are 0 to 16."""
SEEN = np.s_[:, :4]


def load():
    """Training images (1697, 8, 8) and test images (100, 8, 8)."""
    images = np.random.default_rng(0).permutation(load_digits().images)
    return images[100:], images[:100]


def learn(images, num_steps, network, batch_size):
    """A prior over images."""
    return disco.fit(
        jax.random.key(0),
        images,
        objective=disco.Disco(noise_scale=0.15, max_noise_scale=1.0),
        network=network,
        num_steps=num_steps,
        batch_size=batch_size,
    )


def model(prior, pixels):
    """An image, half of which is observed with noise."""
    image = numpyro.sample("image", prior)
    numpyro.sample("pixels", dist.Normal(image[SEEN], NOISE).to_event(2), obs=pixels)


def inpaint(prior, pixels, num_particles):
    """Posterior draws of images given noisy pixels, (images, num_particles, 8, 8)."""
    sampler = disco.TemperedSMC(model, num_particles=num_particles, num_chains=1)
    draws = []
    for index, one in enumerate(pixels):
        sampler.run(jax.random.key(index), prior, one)
        draws.append(np.asarray(sampler.get_samples()["image"]))
    return np.stack(draws)


def gaussian_mean(prior, pixels):
    """Posterior means under the reference alone, in closed form, (images, 8, 8)."""
    reference = prior.joint_reference
    mean, covariance = np.asarray(reference.mean), np.asarray(reference.covariance)
    seen = np.zeros((8, 8), bool)
    seen[SEEN] = True
    seen = seen.ravel()
    inner = covariance[np.ix_(seen, seen)] + NOISE**2 * np.eye(seen.sum())
    residual = pixels.reshape(len(pixels), -1) - mean[seen]
    return (mean + residual @ np.linalg.solve(inner, covariance[seen])).reshape(-1, 8, 8)


def nearest(images, pixels):
    """The training image whose observed half is nearest, for each test image."""
    distance = ((images[:, None][:, :, :, :4] - pixels[None]) ** 2).sum((2, 3))
    return images[distance.argmin(0)]


def report(truth, estimates):
    """Print the root mean square error of the hidden half."""
    for name, estimate in estimates.items():
        error = np.sqrt(((estimate - truth)[:, :, 4:] ** 2).mean())
        print(f"{name:28} RMS error of the hidden half {error:.2f} of 16")


def plot(path, truth, pixels, draws):
    """Observed half, posterior mean and standard deviation, three draws, and the truth."""
    observed = np.full_like(truth, np.nan)
    observed[:, :, :4] = pixels
    columns = {"observed": observed, "posterior mean": draws.mean(1)}
    columns["posterior sd"] = draws.std(1)
    columns |= {f"draw {index + 1}": draws[:, index] for index in range(3)}
    columns["truth"] = truth
    figure, axes = plt.subplots(
        len(truth), len(columns), figsize=(1.3 * len(columns), 1.35 * len(truth)), squeeze=False
    )
    for row, line in enumerate(axes):
        for axis, (name, values) in zip(line, columns.items(), strict=True):
            scale = {"cmap": "magma", "vmin": 0, "vmax": 6} if name == "posterior sd" else {}
            axis.imshow(values[row], **{"cmap": "gray_r", "vmin": 0, "vmax": 16, **scale})
            axis.set(xticks=[], yticks=[], facecolor="lightsteelblue")
            if not row:
                axis.set_title(name, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main(args):
    """Learn, in-paint, compare and draw."""
    num_steps, batch_size, num_images, num_particles = args.num_steps, 128, 6, 1024
    network, (images, test) = disco.UNet(), load()
    if args.small:
        num_steps, batch_size, num_images, num_particles = 20, 16, 1, 32
        network, images = disco.UNet(width=4, num_scales=1, num_octaves=0), images[:300]
    start = time.time()
    fit = learn(images, num_steps, network, batch_size)
    print(f"learned in {time.time() - start:.0f} s; step {fit.best_step} is kept")
    truth = test[:num_images]
    noise = np.random.default_rng(1).normal(size=truth[:, :, :4].shape)
    pixels = truth[:, :, :4] + NOISE * noise
    start = time.time()
    draws = inpaint(fit.distribution, jnp.asarray(pixels), num_particles)
    print(f"{num_images} images in-painted in {time.time() - start:.0f} s")
    estimates = {
        "learned prior, TemperedSMC": draws.mean(1),
        "Gaussian, closed form": gaussian_mean(fit.distribution, pixels),
        "nearest training image": nearest(images, pixels),
    }
    report(truth, estimates)
    if args.small:
        print("So short a training learns little: only the full run compares the priors.")
    plot(args.output, truth, pixels, draws)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--small", action="store_true", help="a quick run of every step")
    parser.add_argument("--num-steps", type=int, default=2000)
    parser.add_argument("--output", default="inpainting.png")
    main(parser.parse_args())
