"""What the examples of this folder share: digits, a prior over them, posteriors and pictures."""

import argparse
import pathlib
import time

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import numpyro_disco as disco

NUM_TEST = 200
"""Digits that no prior is learned from."""
NOISE = 0.5
"""Standard deviation of the noise of all observations, in grey levels of 0 to 16."""


def load():
    """Training digits (1597, 8, 8) and test digits (200, 8, 8); pixels are 0 to 16."""
    images = np.random.default_rng(0).permutation(load_digits().images)
    return images[NUM_TEST:], images[:NUM_TEST]


def learn_prior(images, args):
    """The prior over digits, from the file that an earlier example wrote if there is one."""
    path = pathlib.Path(args.prior)
    if path.exists():
        return disco.load(path)
    start = time.time()
    fit = disco.fit(
        jax.random.key(0),
        images[:300] if args.small else images,
        objective=disco.Disco(noise_scale=0.2, max_noise_scale=1.0),
        reference=disco.MixtureFit(max_components=1 if args.small else 32),
        network=disco.MLP(width=16 if args.small else 128, num_octaves=1),
        num_steps=50 if args.small else 1000,
        batch_size=64 if args.small else 256,
    )
    print(f"learned in {time.time() - start:.0f} s; step {fit.best_step} is kept")
    disco.save(path, fit.distribution)
    return fit.distribution


def posterior(model, prior, observations, args):
    """Posterior draws of every site, (observations, num_particles) + its shape."""
    start = time.time()
    num_particles = 64 if args.small else 256
    sampler = disco.TemperedSMC(model, num_particles=num_particles, num_chains=1)
    runs = []
    for index, one in enumerate(observations):
        sampler.run(jax.random.key(index), prior, jnp.asarray(one))
        runs.append(jax.tree.map(np.asarray, sampler.get_samples()))
    print(f"{len(runs)} posteriors in {time.time() - start:.0f} s")
    return {name: np.stack([run[name] for run in runs]) for name in runs[0]}


def restore(args, model, observe, rivals, *, hidden=None, picture=np.asarray):
    """Learn, observe test digits with noise, draw their posteriors, compare and plot.

    `observe` is the linear map that the model observes; `rivals` maps training images and pixels to
    other answers by name. Errors are those of the `hidden` part of the image, if there is one, and
    `picture` makes an image of what was observed.
    """
    train, test = load()
    prior = learn_prior(train, args)
    truth = test[: args.num_images]
    pixels = with_noise(observe(truth))
    draws = posterior(model, prior, pixels, args)["image"]
    gaussian = gaussian_mean(train, observe, pixels)
    others = {"Gaussian, closed form": gaussian, **rivals(train, pixels)}
    part = np.s_[...] if hidden is None else hidden
    report(truth[part], draws[part], {name: images[part] for name, images in others.items()})
    if hidden is not None:
        report_intervals(prior, truth[part], draws[part])
    plot(args.output, {"seen": picture(pixels), **maps(draws), "truth": truth})


def with_noise(clean):
    """Observations: what is seen of test digits, with noise."""
    clean = np.asarray(clean)
    return clean + NOISE * np.random.default_rng(1).normal(size=clean.shape)


def gaussian_mean(images, observe, observations, noise=NOISE, num_images=1):
    """Posterior means under the Gaussian of the training images, in closed form.

    `observe` is a linear map of `num_images` images, and `noise` the deviation of its noise.
    """
    shape, rows = images.shape[1:], images.reshape(len(images), -1)
    mean = np.tile(rows.mean(0), num_images)
    covariance = np.kron(np.eye(num_images), np.cov(rows, rowvar=False))
    images = jnp.zeros((num_images, *shape))
    matrix = np.stack(jax.jacobian(lambda x: jnp.ravel(observe(*x)))(images)).reshape(-1, len(mean))
    inner = matrix @ covariance @ matrix.T + noise**2 * np.eye(len(matrix))
    residual = observations.reshape(len(observations), -1) - matrix @ mean
    found = mean + residual @ np.linalg.solve(inner, matrix @ covariance)
    return found.reshape(-1, num_images, *shape).squeeze(1 if num_images == 1 else ())


def report(truth, draws, others):
    """Print errors of posterior means."""
    for name, mean in {"learned prior": draws.mean(1), **others}.items():
        print(f"{name:24} RMS error {np.sqrt(((mean - truth) ** 2).mean()):.2f} of 16")


def report_intervals(prior, truth, draws):
    """Print how many hidden pixels are inside of their intervals.

    The prior is over smoothed digits, so its intervals are compared with pixels that have the same
    noise; for pixels without it they are too wide.
    """
    smoothing = float(prior.noise_scale) * float(prior.scale[0])
    noisy = truth + smoothing * np.random.default_rng(2).normal(size=truth.shape)
    low, high = np.quantile(draws, [0.05, 0.95], axis=1)
    inside = ((noisy >= low) & (noisy <= high)).mean()
    print(f"{inside:.0%} of the hidden pixels, smoothed, are inside of their 90 % intervals")


def plot(path, columns):
    """Images, one column for each name; names that end with "sd" are standard deviations."""
    num_rows = len(next(iter(columns.values())))
    figure, axes = plt.subplots(
        num_rows, len(columns), figsize=(1.3 * len(columns), 1.4 * num_rows), squeeze=False
    )
    for row, line in enumerate(axes):
        for axis, (name, images) in zip(line, columns.items(), strict=True):
            style = {"cmap": "gray_r", "vmin": 0, "vmax": 16}
            if name.endswith("sd"):
                style = {"cmap": "magma", "vmin": 0, "vmax": 6}
            axis.imshow(images[row], **style)
            axis.set(xticks=[], yticks=[], facecolor="lightsteelblue")
            if not row:
                axis.set_title(name, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(f"wrote {path}")


def maps(draws, name=""):
    """Columns for `plot`: the mean, the standard deviation and two draws."""
    return {
        f"{name}mean": draws.mean(1),
        f"{name}sd": draws.std(1),
        f"{name}draw 1": draws[:, 0],
        f"{name}draw 2": draws[:, 1],
    }


def arguments(description, output):
    """The arguments of an example."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--small", action="store_true", help="a quick run of every step")
    parser.add_argument("--prior", default="digits.npz", help="file that holds the learned prior")
    parser.add_argument("--num-images", type=int, default=3)
    parser.add_argument("--output", default=output)
    args = parser.parse_args()
    if args.small:
        args.num_images = 1
        print("So short a training learns little: only the full run compares the priors.")
    return args
