"""Seconds and memory of learning priors over images, on whatever device there is.

    python tests/benchmarks/images_speed.py                     three sizes of images
    python tests/benchmarks/images_speed.py --cases digits      one of them
    python tests/benchmarks/images_speed.py --small             few steps of small networks

Images are generated, of the sizes and numbers of scikit-learn's digits, of 5,000 images of MNIST
without a fifth, and of a batch of CIFAR-10's files, which the reader of `examples/images` reads.
The last is the paper's setting: a score, and a posterior over 512 rows drawn for each batch.

Columns: seconds of a first `fit`, compilation included; milliseconds a step in a second one, which
compiles nothing; seconds to complete 16 images by 500 annealed Langevin steps, again in a second
call; and the most memory in use, of the accelerator if there is one, until then.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import numpyro_disco as disco

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "images"))
import cifar10


class Case(NamedTuple):
    """Images and how they are learned."""

    num_images: int
    shape: tuple[int, ...]
    objective: Any
    width: int
    batch_size: int


CASES = {
    "digits": Case(1438, (8, 8), disco.Disco(noise_scale=0.2, max_noise_scale=1.0), 32, 256),
    "mnist": Case(4000, (28, 28), disco.Disco(noise_scale=0.1, max_noise_scale=1.0), 32, 64),
    "cifar10": Case(
        10_000,
        (32, 32, 3),
        disco.DiscoScore(noise_scale=0.1, target="mean", posterior_rows=512),
        96,
        128,
    ),
}


def generate(case: Case) -> np.ndarray:
    """Images of random blocks, from -1 to 1; those of three channels by way of a file."""
    rng, (height, width, *channels) = np.random.default_rng(0), case.shape
    coarse = rng.integers(0, 256, (case.num_images, height // 4, width // 4, *channels), np.uint8)
    images = coarse.repeat(4, axis=1).repeat(4, axis=2)
    if not channels:
        return images / np.float32(127.5) - 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data_batch_1.bin"
        cifar10.write_batch(path, images, np.zeros(case.num_images))
        return cifar10.read_batch(path)[0]


def memory() -> float:
    """The most memory in use so far, in GiB."""
    found = jax.local_devices()[0].memory_stats()
    if found is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return found["peak_bytes_in_use"] / 2**30


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """A result and the seconds that it took."""
    start = time.perf_counter()
    return jax.block_until_ready(call()), time.perf_counter() - start


def measure(name: str, case: Case, num_steps: int, num_moves: int) -> None:
    """Print the line of one case."""
    images = generate(case)

    def learn() -> disco.FitResult:
        return disco.fit(
            jax.random.key(0),
            images,
            objective=case.objective,
            network=disco.UNet(width=case.width, num_octaves=1),
            num_steps=num_steps,
            batch_size=case.batch_size,
            progress_bar=False,
        )

    _, first = timed(learn)
    fit, second = timed(learn)
    score = isinstance(case.objective, disco.DiscoScore)
    target = fit.score_function if score else fit.distribution
    given = np.array(images[:16], float)
    given[:, :, case.shape[1] // 2 :] = np.nan
    sampler = disco.AnnealedLangevin(num_steps=num_moves)

    def complete() -> jax.Array:
        return disco.sample_langevin(jax.random.key(1), target, 1, observed=given, sampler=sampler)

    timed(complete)
    _, moving = timed(complete)
    print(
        f"| {name} | {case.num_images} x {' x '.join(map(str, case.shape))} | {case.width} | "
        f"{case.batch_size} | {first:.0f} | {1e3 * second / num_steps:.1f} | {moving:.2f} | "
        f"{memory():.2f} |",
        flush=True,
    )


def main(args: argparse.Namespace) -> None:
    """Print one line for each case."""
    num_steps, num_moves = (50, 5) if args.small else (args.steps, 500)
    print(
        "| case | images | width | batch | first fit, s | a step, ms | 16 completions, s | memory, "
        "GiB |\n" + "|---" * 8 + "|"
    )
    for name in args.cases.split(","):
        case = CASES[name]
        if args.small:
            case = case._replace(num_images=40, width=4, batch_size=8)
        measure(name, case, num_steps, num_moves)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default="digits,mnist,cifar10")
    parser.add_argument("--steps", type=int, default=500, help="optimiser steps of each fit")
    parser.add_argument("--small", action="store_true")
    main(parser.parse_args())
