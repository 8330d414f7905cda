"""`EnergyDistribution`: an energy as a NumPyro distribution."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution, constraints

from numpyro_disco._checks import (
    check_count,
    check_key,
    check_names,
    check_positive,
    observed_values,
)
from numpyro_disco._numpyro import promote_batch_shape, validate_sample, with_batch_shape
from numpyro_disco._statistics import log_mean
from numpyro_disco._typing import Array, ArrayLike, EnergyFn
from numpyro_disco.energy.learned import as_pytree_callable
from numpyro_disco.energy.sampling import (
    MIN_PARTICLES,
    ScaledEnergy,
    draw_conditionals,
    poisoned,
)
from numpyro_disco.references.base import Reference
from numpyro_disco.references.constrained import (
    ConstrainedReference,
    conditional_reference,
    unconstrained_values,
)
from numpyro_disco.supports.clamped import StandardizedVector
from numpyro_disco.supports.coordinates import CoordinateSupports, check_supports
from numpyro_disco.tempering.settings import TemperingSettings
from numpyro_disco.tempering.state import TemperedResult


class NormalizerError(ValueError):
    """An unknown normaliser would depend on something that is being inferred."""


@jax.custom_jvp
def not_latent(x: Array) -> Array:
    """Identity on what an unknown normaliser depends on: differentiating through it raises."""
    return x


@not_latent.defjvp
def _(primals: Any, tangents: Any) -> Any:
    raise NormalizerError(
        "An `EnergyDistribution` was clamped to, tempered by, or built from something that is "
        "being inferred (a latent site or a param). Its normaliser would depend on that unknown, "
        "and `log_prob` leaves it out, so the result would be silently wrong. Keep one joint site "
        '(`x = numpyro_disco.sample("x", prior)`) and let the model tie its coordinates to the '
        "unknown through a likelihood. To differentiate an energy by its weights, use `energy`."
    )


def _constant(tree: Any) -> Any:
    """`tree` with every floating leaf guarded by `not_latent`."""
    return jax.tree.map(
        lambda leaf: (
            not_latent(leaf) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf
        ),
        tree,
    )


def check_prior(prior: Any, remedy: str) -> None:
    """Refuse what is no `EnergyDistribution`; of a fit, say with `remedy` what to do."""
    if not isinstance(prior, EnergyDistribution):
        hint = f" {remedy}" if hasattr(prior, "distribution") else ""
        raise ValueError(
            f"Expected an `EnergyDistribution` for `prior`; got {type(prior).__name__}.{hint}"
        )


class EnergyDistribution(Distribution):
    r"""A density known by its energy, p(x) = exp(-E(x)) / Z over vectors of D numbers.

    `log_prob` is **unnormalised**, -E(x), until `normalize` has estimated log Z; it is then
    -E(x) - log Z, right up to the reported standard error. Samplers that need gradients only
    (NUTS, HMC, SVI, `TemperedSMC`) need no Z, as long as Z depends on nothing that is inferred:
    where it would, differentiating `log_prob` raises. (Kernels that take no gradient, such as AIES,
    ESS and SA, differentiate nothing, and nothing is differentiated by a discrete latent: there it
    is up to the user.)

    The weights of the energy are leaves of this distribution, which is a JAX pytree: it may be an
    argument of a model or of a compiled function.

    Args:
        energy_fn: E, from one point (D,) in the user's units to a number of nats (). For weights
            to be leaves, give a callable pytree: a flax or equinox module, or
            `jax.tree_util.Partial(function, weights)`. Arrays in a plain function's closure are
            constants. E + log q must be bounded below, q the reference: that is what makes
            exp(-E) a density, and it is the user's to see to.
        reference: a `GaussianReference` or `MixtureReference` q over the same D coordinates,
            wide enough to cover the density: where tempering starts.
        names: D distinct names of the coordinates; "0", "1", ... by default.
        supports: from names to NumPyro constraints on one number, for coordinates that are not any
            real number. **With it, `energy_fn`, `reference`, `loc` and `scale` are over the
            unconstrained coordinates** y = biject_to(support).inv(x), and the density of y is
            exp(-E(y)) / Z; methods take and give x, Jacobians included.
        loc: where samplers start, shape (D,); the reference's mean by default.
        scale: the unit in which samplers move, shape (D,); the reference's deviations by default.
        noise_scale: the smoothing with which the energy was learned, in standardised units, or
            None; `cool` needs it.
        validate_args: NumPyro's switch for checks of values.

    Raises:
        ValueError: an energy that is not a single number or not finite where the reference
            reaches, names that do not fit, or a reference that is already conditioned.

    References:
        Wedenig & Peharz 2025, equation 4: clamping coordinates of an energy leaves the
        conditional's energy.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from numpyro_disco import EnergyDistribution, GaussianReference
        >>> q = GaussianReference(jnp.zeros(2), 9 * jnp.eye(2))
        >>> p = EnergyDistribution(lambda x: 0.5 * (x @ x), q, names=("a", "b"))
        >>> p.log_prob(jnp.ones((7, 2))).shape
        (7,)
        >>> p.clamp({"a": 0.5}).sample(jax.random.key(0), (3,)).shape
        (3, 2)
    """

    arg_constraints: dict[str, Any] = {}
    pytree_data_fields = (
        "energy_fn",
        "joint_reference",
        "loc",
        "scale",
        "inverse_temperature",
        "values",
        "log_normalizer",
        "log_normalizer_error",
        "noise_scale",
    )
    pytree_aux_fields = ("names", "observed", "coordinate_supports")

    names: tuple[str, ...]
    """Names of the coordinates."""
    coordinate_supports: CoordinateSupports
    """Where each of them lives."""
    observed: tuple[bool, ...]
    """Which coordinates are clamped."""
    log_normalizer: Array | None
    """log Z as `normalize` estimated it, or None."""
    log_normalizer_error: Array | None
    """Standard error of `log_normalizer`, across independent runs."""

    def __init__(
        self,
        energy_fn: EnergyFn,
        reference: Reference,
        *,
        names: Any = None,
        supports: Mapping[str, constraints.Constraint] | None = None,
        loc: ArrayLike | None = None,
        scale: ArrayLike | None = None,
        noise_scale: float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(reference, Reference):
            raise ValueError(
                "Expected a `GaussianReference` or a `MixtureReference` for `reference`; got "
                f"{type(reference).__name__}."
            )
        if reference.observed is not None or reference.batch_shape != ():
            raise ValueError(
                "Expected one unconditioned `reference` over all coordinates; got one with batch "
                f"shape {reference.batch_shape}. Clamp the distribution instead, with `clamp`."
            )
        if not callable(energy_fn):
            raise ValueError(f"Expected a function for `energy_fn`; got {energy_fn!r}.")
        (dimension,) = reference.event_shape
        self.names = check_names(names, dimension)
        found = check_supports(supports, self.names)
        for name, support in zip(self.names, found, strict=True):
            if support.is_discrete:
                raise ValueError(
                    f"Expected continuous constraints in `supports`; got {support!r} for {name!r}. "
                    "An energy is a density over real numbers."
                )
        self.coordinate_supports = CoordinateSupports(found)
        self.energy_fn = as_pytree_callable(energy_fn)
        self.joint_reference = reference
        self.loc = jnp.asarray(reference.mean if loc is None else loc)
        self.scale = jnp.asarray(jnp.sqrt(reference.variance) if scale is None else scale)
        for argument, value in (("loc", self.loc), ("scale", self.scale)):
            if value.shape != (dimension,):
                raise ValueError(
                    f"Expected shape ({dimension},) for `{argument}`; got {value.shape}."
                )
        self.inverse_temperature = jnp.ones((), self.loc.dtype)
        self.values: Array | None = None
        self.observed = (False,) * dimension
        self.log_normalizer = self.log_normalizer_error = None
        self.noise_scale = (
            None
            if noise_scale is None
            else jnp.asarray(check_positive(noise_scale, "noise_scale"), self.loc.dtype)
        )
        self._check_energy()
        super().__init__((), (dimension,), validate_args=validate_args)

    def _check_energy(self) -> None:
        """Try the energy where the reference reaches."""
        (dimension,) = self.joint_reference.event_shape
        out = jax.eval_shape(self.energy_fn, self.loc)
        single = isinstance(out, jax.ShapeDtypeStruct) and out.shape == ()
        if not (single and jnp.issubdtype(out.dtype, jnp.floating)):
            raise ValueError(
                f"Expected `energy_fn` to return one number for a point of shape ({dimension},); "
                f"got {out}. Sum over coordinates, and return a floating-point array of shape ()."
            )
        if any(
            isinstance(leaf, jax.core.Tracer)
            for leaf in jax.tree.leaves((self.energy_fn, self.joint_reference, self.loc))
        ):
            return
        draws = self.joint_reference.sample(jax.random.key(0), (64,))
        points = jnp.concatenate([self.joint_reference.mean[None], draws])
        energies = np.asarray(jax.vmap(self.energy_fn)(points))
        bad = np.isnan(energies) | (energies == -np.inf)
        if bad.any() or np.isinf(energies).all():
            index = int(np.argmax(bad)) if bad.any() else 0
            raise ValueError(
                f"Expected a finite energy from `energy_fn` where the reference reaches; got "
                f"{energies[index]} at x = {np.asarray(points[index]).tolist()} "
                f"({int(bad.sum())} of {len(bad)} trial points are NaN or -infinity). Mend the "
                "energy there, return +infinity for points of zero density, or narrow the "
                "reference."
            )

    # -- the density ----------------------------------------------------------------------------

    @property
    def support(self) -> constraints.Constraint:
        """The supports of the coordinates, or the clamped subspace of them.

        Unconstrained coordinates are standardised.
        """
        loc, scale = (self._beside_batch(leaf, self.event_shape) for leaf in (self.loc, self.scale))
        return StandardizedVector(loc, scale, self.values, self.observed, self.coordinate_supports)

    @property
    def reference(self) -> Reference | ConstrainedReference:
        """The sampleable density q: of the free coordinates given the clamped ones, if any."""
        if self.values is not None:
            return self.reference_given(self.values, np.asarray(self.observed))
        if self.coordinate_supports.real:
            return self.joint_reference
        return ConstrainedReference(self.joint_reference, self.coordinate_supports)

    def reference_given(
        self, values: ArrayLike, observed: ArrayLike
    ) -> Reference | ConstrainedReference:
        """The reference of the free coordinates given others, a distribution over vectors.

        Args:
            values: array (..., D), ignored where free.
            observed: boolean array (..., D), traced or not.
        """
        return conditional_reference(
            self.joint_reference,
            self.coordinate_supports,
            jnp.asarray(values, self.loc.dtype),
            observed,
        )

    def energy(self, x: ArrayLike) -> Array:
        """E(x) in nats, up to a constant: shape (..., D) to (...); infinite out of the support."""
        return self._at_points(lambda energy: energy, x, "()")

    def score(self, x: ArrayLike) -> Array:
        """-grad E(x), shape (..., D), exact; zero for clamped coordinates."""
        gradient = self._at_points(jax.grad, x, "(d)")
        return -jnp.where(np.asarray(self.observed), 0.0, gradient)

    def _energy_at(self, parts: tuple[EnergyFn, Array, Array], x: Array) -> Array:
        """E of one point in the user's units: minus the log density of its free coordinates."""
        energy_fn, inverse_temperature, loc = parts
        if self.coordinate_supports.real:
            return inverse_temperature * energy_fn(x)
        # Outside, gradients of logarithms are NaN even where they are not used.
        centre = self.coordinate_supports.constrain(loc)
        inside = self.coordinate_supports.inside(x) & jnp.isfinite(
            self.coordinate_supports.unconstrain(x)
        )
        x = jnp.where(inside, x, centre)
        y = self.coordinate_supports.unconstrain(x)
        log_dets = self.coordinate_supports.log_dets(y, x)
        free = ~np.asarray(self.observed)
        energy = inverse_temperature * energy_fn(y) + log_dets @ free.astype(y.dtype)
        return jnp.where(inside.all(), energy, jnp.inf)

    @validate_sample
    def log_prob(self, value: ArrayLike) -> Array:
        """-E(x), less log Z once `normalize` has run: shape (..., D) to (...).

        Up to an additive constant before `normalize`. Of a clamped distribution: the density of
        the free coordinates.

        Raises:
            ValueError: NaN in `value`, where it can be seen.
        """
        if not isinstance(value, jax.core.Tracer) and np.isnan(np.asarray(value)).any():
            raise ValueError(
                "Expected a `value` without NaN; a density is not defined there. If the value is "
                "data with missing entries, give it to `numpyro_disco.sample(name, prior, "
                "obs=table)`, which makes each missing entry a latent, instead of to `condition`, "
                "`substitute` or `numpyro.sample(..., obs=)`."
            )
        guarded = _constant(self)
        log_prob = -guarded.energy(value)
        return log_prob if self.log_normalizer is None else log_prob - guarded.log_normalizer

    def points(self, x: ArrayLike) -> Array:
        """Points (..., D), clamped coordinates set to their values."""
        x = jnp.asarray(x)
        if x.ndim == 0 or x.shape[-1] != len(self.names):
            raise ValueError(
                f"Expected points with a last axis of {len(self.names)}, one entry for each of "
                f"{self.names}; got shape {x.shape}."
            )
        if self.values is None:
            return x
        return jnp.where(np.asarray(self.observed), self.values, x)

    # -- many distributions in one: `scan` and `jax.vmap` stack the leaves ----------------------

    @property
    def _stack(self) -> tuple[int, ...]:
        """Axes that every leaf has gained on its left, the time of a `scan` say: mostly none."""
        return jnp.shape(self.inverse_temperature)

    @property
    def _clamped_batch(self) -> tuple[int, ...]:
        """Axes that the clamped values have between those of the stack and their last."""
        return () if self.values is None else self.values.shape[len(self._stack) : -1]

    def _beside_batch(self, leaf: Array, event_shape: tuple[int, ...]) -> Array:
        """A leaf, shape stack + event_shape, such that it broadcasts with a batch of values."""
        return leaf.reshape(self._stack + (1,) * len(self._clamped_batch) + event_shape)

    def _at_points(self, transform: Any, x: ArrayLike, out: str) -> Array:
        """`transform(energy)` at points (..., D), each with the weights that belong to it."""
        x, parts = self.points(x), (self.energy_fn, self.inverse_temperature, self.loc)
        if not self._stack:
            at_one = transform(partial(self._energy_at, parts))
            return jnp.vectorize(at_one, signature=f"(d)->{out}")(x)
        leaves, structure = jax.tree.flatten(parts)
        shapes = [jnp.shape(leaf)[len(self._stack) :] for leaf in leaves]
        axes = [",".join(f"w{i}_{j}" for j in range(len(shape))) for i, shape in enumerate(shapes)]
        signature = ",".join([*(f"({of_leaf})" for of_leaf in axes), "(d)"])

        def at_one_of_many(*arguments: Array) -> Array:
            parts = jax.tree.unflatten(structure, arguments[:-1])
            return transform(partial(self._energy_at, parts))(arguments[-1])

        weights = [self._beside_batch(*pair) for pair in zip(leaves, shapes, strict=True)]
        return jnp.vectorize(at_one_of_many, signature=f"{signature}->{out}")(*weights, x)

    # -- relatives ------------------------------------------------------------------------------

    def replace(self, **fields: Any) -> Self:
        new = copy.copy(self)
        for name, value in fields.items():
            setattr(new, name, value)
        return new

    def clamp(self, observed: Mapping[str, ArrayLike] | ArrayLike) -> Self:
        """The conditional given some coordinates, as a distribution on the same (D,) event.

        Its support is the clamped subspace: NUTS moves in the free coordinates only, and whole
        vectors come back. Exact as a density up to its constant, which depends on the clamped
        values; so values must not be inferred.

        Args:
            observed: mapping from names to numbers, or to arrays of one batch shape, which becomes
                the batch shape of the result; or an array (..., D) with NaN for what is free. The
                same coordinates must be observed in every row.

        Returns:
            An `EnergyDistribution`, not normalised.

        Raises:
            ValueError: unknown names, shapes that do not fit, all coordinates observed, or rows
                that observe different coordinates.
        """
        values, mask = observed_values(observed, self.names)
        if isinstance(mask, jax.core.Tracer):
            raise ValueError(
                "Expected a concrete array for `observed`, whose NaN say what is free; got a "
                "traced one. Clamp by a mapping from names to values."
            )
        pattern = mask.reshape(-1, len(self.names))
        if (pattern != pattern[:1]).any():
            raise ValueError(
                "Expected the same coordinates to be `observed` in every row of one clamped "
                "distribution. For rows with different holes use `sample_conditional`, or "
                "`numpyro_disco.sample(name, prior, obs=rows)` inside a model."
            )
        new = pattern[0] if len(pattern) else np.zeros(len(self.names), bool)
        if not new.any():
            return self
        together = new | np.asarray(self.observed)
        if together.all():
            raise ValueError(
                f"Expected at least one free coordinate; `observed` clamps all of {self.names}."
            )
        values = jnp.asarray(values, self.loc.dtype)
        self.check_inside(values, new)
        if self.values is not None:
            values = jnp.where(new, values, self.values)
        distribution = self.replace(
            values=values,
            observed=tuple(bool(o) for o in together),
            log_normalizer=None,
            log_normalizer_error=None,
        )
        return with_batch_shape(distribution, values.shape[:-1])

    def temper(self, inverse_temperature: float) -> Self:
        """p^b / Z_b, with the reference tempered alike: flatter for b < 1, sharper for b > 1.

        With `supports`, p is the density of the unconstrained coordinates.

        Args:
            inverse_temperature: b > 0.

        Returns:
            An `EnergyDistribution`, not normalised.
        """
        if not isinstance(inverse_temperature, jax.core.Tracer):
            inverse_temperature = check_positive(inverse_temperature, "inverse_temperature")
        return self.replace(
            inverse_temperature=self.inverse_temperature * inverse_temperature,
            joint_reference=self.joint_reference.temper(inverse_temperature),
            log_normalizer=None,
            log_normalizer_error=None,
        )

    def cool(self, noise_scale: float) -> Self:
        """Sample as if the smoothing had been `noise_scale`: `temper((sigma_0 / noise_scale)^2)`.

        The score (m(x) - x) / sigma_0^2 is read with a smaller sigma_0, which multiplies it by the
        ratio of the squares. A heuristic: it sharpens every scale of the density alike, not only
        what the smoothing blurred, and it favours heavy modes. Not the data smoothed by less.

        Args:
            noise_scale: standardised units, at most the one of training.

        Returns:
            An `EnergyDistribution`, not normalised.

        References:
            Wedenig & Peharz 2025, section D.1.
        """
        if self.noise_scale is None:
            raise ValueError(
                "This distribution does not know the smoothing it was learned with, so it cannot "
                "be cooled. Give `noise_scale` when you make it, or use `temper`."
            )
        noise_scale = check_positive(noise_scale, "noise_scale")
        learned = float(self.noise_scale)
        if noise_scale > learned * (1 + 1e-6):
            raise ValueError(
                f"Expected `noise_scale` of at most {learned:.4g}, with which this distribution "
                f"was learned; got {noise_scale}. To flatten a density use `temper`."
            )
        cooled = self.temper((learned / noise_scale) ** 2)
        return cooled.replace(noise_scale=jnp.asarray(noise_scale, self.loc.dtype))

    # -- draws ----------------------------------------------------------------------------------

    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws by tempered SMC from the reference, shape sample_shape + batch_shape + (D,).

        Asymptotically exact as particles grow; at least 1024 are used whatever the shape, so ask
        for many draws at once. Draws of one call share their particles and are not independent of
        each other in the way that draws of a closed-form distribution are.

        Raises:
            RuntimeError: the particles did not reach the density. Inside a compiled function,
                where nothing can be raised, draws are NaN instead.
        """
        if key is None:
            raise ValueError("Expected a random key; got None. Wrap the model in `seed`.")
        key = check_key(key)
        num_samples = int(np.prod(sample_shape, dtype=int))
        if num_samples == 0:
            return jnp.zeros(self.shape(sample_shape), self.loc.dtype)
        settings = TemperingSettings(num_particles=max(num_samples, MIN_PARTICLES))
        values, masks = self._rows()
        keys = jax.random.split(key, len(values))
        draws, result = self.draw_conditionals(keys, values, masks, num_samples, settings)
        draws = poisoned(draws, result, axis=1)
        return draws.reshape(self.shape(sample_shape))

    def normalize(self, rng_key: Array, *, num_particles: int = 1024, num_runs: int = 16) -> Self:
        """Estimate log Z by tempered SMC from the reference, whose own log Z is 0.

        Each run's estimate of Z is consistent as particles grow; their mean is taken, and the
        standard error comes from their spread, so it is honest about what one run would hide.

        Args:
            rng_key: random key.
            num_particles: particles of each run.
            num_runs: independent runs, at least 2.

        Returns:
            The same distribution with `log_normalizer` and `log_normalizer_error` set, shape
            batch_shape each, and `log_prob` normalised.

        Raises:
            RuntimeError: the particles did not reach the density.
        """
        rng_key = check_key(rng_key)
        check_count(num_runs, "num_runs", minimum=2)
        settings = TemperingSettings(num_particles=num_particles)
        values, masks = (jnp.repeat(rows, num_runs, axis=0) for rows in self._rows())
        keys = jax.random.split(rng_key, len(values))
        _, result = self.draw_conditionals(keys, values, masks, 1, settings)
        estimates = poisoned(result.log_normalizer, result, axis=0).reshape(-1, num_runs)
        log_normalizer, error = log_mean(estimates)
        return self.replace(
            log_normalizer=log_normalizer.reshape(self.batch_shape),
            log_normalizer_error=error.reshape(self.batch_shape),
        )

    def draw_conditionals(
        self,
        keys: Array,
        values: Array,
        observed: Array,
        num_samples: int,
        settings: TemperingSettings,
        batch_size: int = 64,
    ) -> tuple[Array, TemperedResult]:
        """`draw_conditionals` of the joint energy, whatever is clamped, in the user's units."""
        energy = ScaledEnergy(
            self.energy_fn, self.inverse_temperature, self.joint_reference, self.loc, self.scale
        )
        held = unconstrained_values(self.coordinate_supports, values, observed)
        draws, result = draw_conditionals(
            keys, energy, held, observed, num_samples, settings, batch_size
        )
        if not self.coordinate_supports.real:
            draws = jnp.where(observed, values, self.coordinate_supports.constrain(draws))
        return draws, result

    def log_dets(self, x: Array, which: ArrayLike) -> Array:
        """Log |dx / dy| summed over some coordinates, which alone need be known: (..., D) to (...).

        A density of theirs in unconstrained space, less this, is one in the user's units.
        """
        if self.coordinate_supports.real:
            return jnp.zeros(x.shape[:-1], x.dtype)
        x = jnp.where(which, x, self.coordinate_supports.constrain(self.loc))
        log_dets = self.coordinate_supports.log_dets(self.coordinate_supports.unconstrain(x), x)
        return jnp.where(which, log_dets, 0.0).sum(-1)

    def check_inside(self, values: Any, observed: Any, argument: str = "observed") -> None:
        """Refuse observed values that lie outside of their supports, where they can be seen."""
        if self.coordinate_supports.real or any(
            isinstance(array, jax.core.Tracer) for array in (values, observed)
        ):
            return
        with jax.ensure_compile_time_eval():
            values = jnp.asarray(values, self.loc.dtype)
            # On the bound of an open set a density has no value either.
            finite = jnp.isfinite(self.coordinate_supports.unconstrain(values))
            bad = np.asarray(~(self.coordinate_supports.inside(values) & finite) & observed)
        if bad.any():
            place = tuple(np.argwhere(bad)[0])
            raise ValueError(
                f"Expected values inside of the supports in `{argument}`; got "
                f"{float(values[place])} for {self.names[place[-1]]!r}, whose support is "
                f"{self.coordinate_supports.supports[place[-1]]!r}."
            )

    def _rows(self) -> tuple[Array, Array]:
        """Clamped values and which they are, one row for each entry of the batch: (rows, D)."""
        values = jnp.zeros(self.event_shape, self.loc.dtype) if self.values is None else self.values
        rows = jnp.broadcast_to(values, self.shape()).reshape(-1, len(self.names))
        return rows, jnp.broadcast_to(np.asarray(self.observed), rows.shape)


@promote_batch_shape.register
def _(distribution: EnergyDistribution) -> EnergyDistribution:
    """What `scan` stacked along time becomes a batch: its leaves do not say so by themselves."""
    shape = distribution._stack + distribution._clamped_batch
    return with_batch_shape(copy.copy(distribution), shape)
