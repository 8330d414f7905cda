"""A prior over CIFAR-10's 32 x 32 x 3 images, from the files of its binary version.

    python examples/images/cifar10.py FOLDER    the folder that holds data_batch_1.bin, ...
    python examples/images/cifar10.py --small   a few steps on generated files of that format

Only the binary version (cifar-10-binary.tar.gz) is read: files of the Python version are pickles,
which can run any code when they are read. A record is one byte for the label and 3,072 bytes for
the pixels, the channels one after the other.

The full run is meant for a GPU: on a CPU a step takes seconds.
"""

import argparse
import pathlib
import tempfile
import time

import jax
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import numpyro_disco as disco

SHAPE = (3, 32, 32)
RECORD = 1 + int(np.prod(SHAPE))


def read_batch(path):
    """Images (n, 32, 32, 3), from -1 to 1, and labels (n,) of one binary file."""
    content = np.fromfile(path, np.uint8)
    if len(content) % RECORD or not len(content):
        raise ValueError(
            f"Expected records of {RECORD} bytes in {path}; got {len(content)} bytes. Is it a file "
            "of the binary version?"
        )
    records = content.reshape(-1, RECORD)
    images = records[:, 1:].reshape(-1, *SHAPE).transpose(0, 2, 3, 1)
    return images / np.float32(127.5) - 1, records[:, 0]


def load_cifar10(folder, train=True):
    """All training images with labels, or the test images."""
    paths = sorted(pathlib.Path(folder).glob("data_batch_*.bin" if train else "test_batch.bin"))
    if not paths:
        raise ValueError(f"Expected files such as data_batch_1.bin in {folder}; found none.")
    images, labels = zip(*map(read_batch, paths), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def write_batch(path, images, labels):
    """Write images (n, 32, 32, 3) from 0 to 255, and labels (n,), as one binary file."""
    pixels = np.asarray(images, np.uint8).transpose(0, 3, 1, 2).reshape(len(images), -1)
    np.concatenate([np.asarray(labels, np.uint8)[:, None], pixels], axis=1).tofile(path)


def generated(folder, count=60):
    """Smooth random images in files of the format, to try the script with."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (2, count, 4, 4, 3))
    for index, images in enumerate(coarse.repeat(8, 2).repeat(8, 3)):
        write_batch(pathlib.Path(folder) / f"data_batch_{index + 1}.bin", images, np.zeros(count))


def learn(images, args):
    """A score network with a mini-batch posterior, as in the paper's section D.2."""
    size = {"width": 4, "num_scales": 2, "num_octaves": 0} if args.small else {"width": 96}
    return disco.fit(
        jax.random.key(0),
        images,
        objective=disco.DiscoScore(
            noise_scale=0.1, target="mean", posterior_rows=64 if args.small else 512
        ),
        network=disco.UNet(**size),
        num_steps=args.num_steps,
        batch_size=8 if args.small else 128,
    )


def plot(path, draws, images):
    """Draws in the first line, training images in the second."""
    figure, axes = plt.subplots(2, len(draws), figsize=(1.2 * len(draws), 2.5), squeeze=False)
    for line, row in zip(axes, (draws, images), strict=True):
        for axis, image in zip(line, row, strict=False):
            axis.imshow(np.clip((image + 1) / 2, 0, 1))
            axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main(args):
    """Read, learn, draw and save a picture."""
    with tempfile.TemporaryDirectory() as scratch:
        if args.small:
            generated(scratch)
        images, labels = load_cifar10(scratch if args.small else args.folder)
    print(f"{len(images)} images of shape {images.shape[1:]}, {len(set(labels.tolist()))} classes")
    start = time.time()
    fit = learn(images, args)
    print(f"{fit.history.step[-1]} steps in {time.time() - start:.0f} s, compilation included")
    sampler = disco.Heun(num_steps=3 if args.small else 18)
    draws = disco.sample_langevin(jax.random.key(1), fit.score_function, 8, sampler=sampler)
    plot(args.output, np.asarray(draws), images)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", default="cifar-10-batches-bin")
    parser.add_argument("--small", action="store_true", help="a few steps on generated files")
    parser.add_argument("--num-steps", type=int)
    parser.add_argument("--output", default="cifar10.png")
    parsed = parser.parse_args()
    parsed.num_steps = parsed.num_steps or (50 if parsed.small else 100_000)
    main(parsed)
