"""`EnergyDistribution`: an energy as a NumPyro distribution."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal, Self, overload

import jax.numpy as jnp
import numpy as np

from numpyro_disco._checks import check_count, check_key, check_positive, is_traced
from numpyro_disco._numpyro import promote_batch_shape, with_batch_shape
from numpyro_disco._typing import Array, ArrayLike
from numpyro_disco.energy.density import EnergyDensity
from numpyro_disco.energy.drawing import DrawInfo, Request, RowDraws, draw_rows, particles_for
from numpyro_disco.energy.importance import ScaledEnergy
from numpyro_disco.energy.pattern import Pattern, make_pattern, parse_pattern
from numpyro_disco.tables.writing import LIBRARIES, new_frame


def check_prior(prior: Any) -> None:
    """Require an `EnergyDistribution`."""
    if not isinstance(prior, EnergyDistribution):
        hint = " Give its `distribution`." if hasattr(prior, "distribution") else ""
        raise ValueError(
            f"Expected an `EnergyDistribution` for `prior`; got {type(prior).__name__}.{hint}"
        )


class EnergyDistribution(EnergyDensity):
    r"""A density given by its energy, p(x) = exp(-E(x)) / Z, over vectors of D numbers.

    `log_prob` is **unnormalised**, -E(x), until `normalize` has estimated log Z; it is then
    -E(x) - log Z, exact up to the reported standard error. Samplers that need gradients only
    (NUTS, HMC, SVI, `TemperedSMC`) do not need Z, as long as Z depends on nothing that is inferred;
    where it would, differentiating `log_prob` raises a `NormalizerError`. Kernels without gradients
    (AIES, ESS, SA) and discrete latents differentiate nothing, so they cannot be checked: keep Z
    free of unknowns there yourself.

    An `EnergyDistribution` is a JAX pytree whose leaves include the weights of the energy, so it
    can be an argument of a model or of a compiled function.

    Args:
        energy_fn: E, from one point (D,) in the user's units to an energy () in nats. For weights
            to be leaves, give a callable pytree: a flax or equinox module, or
            `jax.tree_util.Partial(function, weights)`. Arrays in a plain function's closure are
            constants. E + log q must be bounded below, where q is the reference: this makes
            exp(-E) a density, and it is not checked.
        reference: a `GaussianReference`, `MixtureReference` or `MixedReference` q over the same D
            coordinates, from which tempering starts; wide enough to cover the density.
        names: D distinct names of the coordinates; "0", "1", ... by default.
        columns: from names to what the numbers of a coordinate stand for, such as
            `disco.Categories(("low", "high"))`. By default, whole numbers where the support is
            discrete, and real numbers elsewhere.
        supports: from names to NumPyro constraints on one number, for coordinates that are not
            unbounded. **With supports, `energy_fn`, `reference`, `loc` and `scale` refer to the
            unconstrained coordinates** y = biject_to(support).inv(x), and the density of y is
            exp(-E(y)) / Z; methods take and return x, Jacobians included. Coordinates whose support
            is `boolean`, or `integer_interval` with at most 64 levels, are discrete: y is a code,
            0.0 for the lowest level, and exp(-E(y)) / Z a mass in it. By default codes for the
            discrete coordinates of a `MixedReference`.
        loc: where samplers start, shape (D,); the reference's mean by default. Entries of discrete
            coordinates are ignored, as are those of `scale`.
        scale: the unit in which samplers move, shape (D,); the reference's standard deviations by
            default.
        noise_scale: the smoothing with which the energy was learned, in standardised units; None
            if it was not smoothed. `cool` needs it.
        validate_args: NumPyro's switch for checks of values.

    Raises:
        ValueError: the energy is not a single number or not finite where the reference has its
            mass, the names do not fit, or the reference is already conditioned.

    References:
        Wedenig & Peharz 2025, equation 4: fixing coordinates of an energy leaves the energy of the
        conditional.

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

    # -- what is observed -----------------------------------------------------------------------

    def pattern(self, observed: Any, argument: str = "observed") -> Pattern:
        """Parse and check observations.

        Args:
            observed: mapping from names to values or to arrays of one batch shape; a DataFrame, a
                series or an xarray object; or an array (..., D). What is missing is free. For a
                prior over variables, names are those of variables, with arrays (...) + shape, or of
                elements, "b[0]". For a prior over arrays, an array (...) + event_shape.
            argument: name of the argument for error messages.

        Returns:
            A `Pattern` of what `observed` itself says; `with_clamped` adds what is clamped.

        Raises:
            ValueError: unknown names, shapes that do not fit, entries that are not numbers, values
                outside their supports, or some coordinates of a variable with a joint support.
        """
        if self._array is not None and not isinstance(observed, Mapping):
            observed = self._flattened(observed, argument)
        elif self.variables is not None and isinstance(observed, Mapping):
            observed = self.variables.observed_coordinates(observed, argument)
        pattern = parse_pattern(
            observed,
            self.names,
            self.columns,
            self.coordinate_supports,
            self.loc.dtype,
            argument,
        )
        if self.variables is not None and not is_traced(pattern.observed):
            self.variables.check_whole(np.asarray(pattern.observed), argument)
        return pattern

    def with_clamped(self, pattern: Pattern) -> Pattern:
        """`pattern`, completed by the clamped values of this distribution."""
        return pattern if self.values is None else pattern.fill_from(self.clamped)

    @property
    def clamped(self) -> Pattern:
        """The clamped coordinates of each member of the batch, shape batch_shape + (D,)."""
        values = jnp.zeros(self.loc.shape, self.loc.dtype) if self.values is None else self.values
        values = jnp.broadcast_to(values, (*self.batch_shape, len(self.names)))
        return self.pattern_at(values, np.broadcast_to(np.asarray(self.observed), values.shape))

    def pattern_at(self, values: Array, observed: ArrayLike) -> Pattern:
        """The `Pattern` of values (..., D) that are known to be valid, where `observed`."""
        return make_pattern(values, observed, self.coordinate_supports, self.loc.dtype)

    # -- related distributions ------------------------------------------------------------------

    def clamp(self, observed: Mapping[str, ArrayLike] | ArrayLike) -> Self:
        """The conditional given some coordinates, as a distribution on the same (D,) event.

        Its support is the subspace with these values: NUTS moves in the free coordinates only and
        returns whole vectors. The density is exact up to its constant, which depends on the clamped
        values; so the values must not be inferred.

        Args:
            observed: mapping from names to numbers, or to arrays of one batch shape, which becomes
                the batch shape of the result; or an array (..., D) with NaN for what is free. The
                same coordinates must be observed in every row. For a prior over variables, whole
                variables, `{"b": [0.3, nan]}`, or elements, `{"b[0]": 0.3}`.

        Returns:
            An `EnergyDistribution`, not normalised.

        Raises:
            ValueError: unknown names, shapes that do not fit, values outside their supports, all
                coordinates observed, or rows that observe different coordinates.
        """
        pattern = self.pattern(observed)
        if is_traced(pattern.observed):
            raise ValueError(
                "Expected a concrete array for `observed`, whose NaN mark what is free; got a "
                "traced one. Clamp with a mapping from names to values."
            )
        rows = pattern.observed.reshape(-1, len(self.names))
        if (rows != rows[:1]).any():
            raise ValueError(
                "Expected the same coordinates to be `observed` in every row of one clamped "
                "distribution; got different ones. For rows with different missing entries use "
                "`sample_conditional`, or `numpyro_disco.sample(name, prior, obs=rows)` inside a "
                "model."
            )
        new = rows[0] if len(rows) else np.zeros(len(self.names), bool)
        if not new.any():
            return self
        together = new | np.asarray(self.observed)
        if together.all():
            raise ValueError(
                f"Expected at least one free coordinate; `observed` clamps all of {self.names}."
            )
        values = jnp.asarray(pattern.values, self.loc.dtype)
        if self.values is not None:
            values = jnp.where(new, values, self.values)
        clamped = self._unnormalized(values=values, observed=tuple(bool(o) for o in together))
        return with_batch_shape(clamped, values.shape[:-1])

    def temper(self, inverse_temperature: float) -> Self:
        """p^b / Z_b, with the reference tempered as well: flatter for b < 1, sharper for b > 1.

        With `supports`, p is the density of the unconstrained coordinates.

        Args:
            inverse_temperature: b > 0.

        Returns:
            An `EnergyDistribution`, not normalised.
        """
        if not is_traced(inverse_temperature):
            inverse_temperature = check_positive(inverse_temperature, "inverse_temperature")
        return self._unnormalized(
            inverse_temperature=self.inverse_temperature * inverse_temperature,
            joint_reference=self.joint_reference.temper(inverse_temperature),
        )

    def cool(self, noise_scale: float) -> Self:
        """Sample as if the smoothing had been `noise_scale`: `temper((sigma_0 / noise_scale)^2)`.

        Reading the score (m(x) - x) / sigma_0^2 with a smaller sigma_0 multiplies it by the ratio
        of the squares. This is a heuristic: it sharpens every scale of the density alike, not only
        what the smoothing blurred, and it favours heavy modes. The result is not the data smoothed
        by less.

        Args:
            noise_scale: in standardised units, at most the noise scale of training.

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

    def _unnormalized(self, **fields: Any) -> Self:
        return self.replace(log_normalizer=None, log_normalizer_error=None, **fields)

    # -- draws ----------------------------------------------------------------------------------

    @overload
    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ...) -> Array: ...
    @overload
    def sample(
        self, key: Array | None, sample_shape: tuple[int, ...] = ..., *, return_info: Literal[True]
    ) -> tuple[Array, DrawInfo | None]: ...
    def sample(
        self, key: Array | None, sample_shape: tuple[int, ...] = (), *, return_info: bool = False
    ) -> Array | tuple[Array, DrawInfo | None]:
        """Draws of the density, shape sample_shape + batch_shape + (D,).

        Weighted draws of the reference are resampled where they are good enough, and tempered SMC
        from the reference does the rest, as for `sample_conditional`. Asymptotically exact. The
        draws of one call are not independent, unlike those of a closed-form distribution, so ask
        for many at once. Draws of a normalised density, learned by `Likelihood`, are exact and
        independent if no coordinate is clamped.

        Args:
            key: random key.
            sample_shape: shape of the draws.
            return_info: also return a `DrawInfo` with one row for each member of the batch: how the
                draws were made, and how many are distinct. It is None inside a compiled function.

        Raises:
            RuntimeError: the particles did not reach the density. Inside a compiled function,
                where nothing can be raised, the draws are NaN instead.
        """
        if key is None:
            raise ValueError("Expected a random key; got None. Wrap the model in `seed`.")
        key = check_key(key)
        num_samples = int(np.prod(sample_shape, dtype=int))
        info, draws = None, jnp.zeros(self.shape(sample_shape), self.loc.dtype)
        if num_samples:
            request = Request(num_samples, particles_for(num_samples))
            drawn = self.draw_rows(key, self._clamped_rows(), request)
            info, draws = drawn.info, drawn.draws.reshape(draws.shape)
        return (draws, info) if return_info else draws

    def to_frame(self, draws: ArrayLike, library: str = "pandas") -> Any:
        """Draws as a data frame, with levels, dates and dtypes of the columns learned from.

        Args:
            draws: array (n, D), such as `sample` and `sample_conditional` return.
            library: "pandas", "polars" or "pyarrow".

        Returns:
            A data frame with the columns `names`.

        Example:
            >>> import jax.numpy as jnp, numpyro_disco as disco
            >>> q = disco.GaussianReference(jnp.zeros(1), jnp.eye(1))
            >>> size = {"size": disco.Categories(("small", "large"))}
            >>> p = disco.EnergyDistribution(lambda x: x @ x, q, names=["size"], columns=size)
            >>> p.to_frame(jnp.array([[1.0], [0.0]]))["size"].tolist()
            ['large', 'small']
        """
        numbers = np.asarray(draws, np.float64)
        if numbers.ndim != 2 or numbers.shape[1] != len(self.names):
            raise ValueError(
                f"Expected draws of shape (n, {len(self.names)}) for `draws`; got {numbers.shape}. "
                f"Reshape them: `draws.reshape(-1, {len(self.names)})`."
            )
        if library not in LIBRARIES:
            raise ValueError(f"Expected one of {LIBRARIES} for `library`; got {library!r}.")
        if not np.isfinite(numbers).all():
            raise ValueError("Expected finite `draws`; got NaN or infinity.")
        return new_frame(self.names, self.columns, numbers, library)

    @overload
    def normalize(
        self, rng_key: Array, *, num_particles: int = ..., num_chains: int = ...
    ) -> Self: ...
    @overload
    def normalize(
        self,
        rng_key: Array,
        *,
        num_particles: int = ...,
        num_chains: int = ...,
        return_info: Literal[True],
    ) -> tuple[Self, DrawInfo | None]: ...
    def normalize(
        self,
        rng_key: Array,
        *,
        num_particles: int = 1024,
        num_chains: int = 16,
        return_info: bool = False,
    ) -> Self | tuple[Self, DrawInfo | None]:
        """Estimate log Z, from the reference, whose own log Z is 0.

        A normalised density, learned by `Likelihood`, has log Z = 0, and nothing is drawn if no
        coordinate is clamped. For others Z is the mean weight exp(-E) / q of draws of the reference
        q, where as many of them are effective as there are particles in all, and estimated by
        tempered SMC from the reference otherwise. The estimate is the mean over independent runs,
        each consistent as the number of particles grows. Its standard error comes from the spread
        between runs, which shows what a single run would hide.

        Args:
            rng_key: random key.
            num_particles: particles of each run.
            num_chains: independent runs, at least 2.
            return_info: return a pair of the distribution and a `DrawInfo`, as `sample` does.

        Returns:
            The same distribution with `log_normalizer` and `log_normalizer_error` set, shape
            batch_shape each, and `log_prob` normalised.

        Raises:
            RuntimeError: the particles did not reach the density.
        """
        rng_key = check_key(rng_key)
        check_count(num_particles, "num_particles", minimum=2)
        check_count(num_chains, "num_chains", minimum=2)
        request = Request(0, num_particles, num_chains)
        result = self.draw_rows(rng_key, self._clamped_rows(), request)
        normalized = self.replace(
            log_normalizer=result.log_integral.reshape(self.batch_shape),
            log_normalizer_error=result.error.reshape(self.batch_shape),
        )
        return (normalized, result.info) if return_info else normalized

    def _clamped_rows(self) -> Pattern:
        """The clamped coordinates, one row for each member of the batch: (rows, D)."""
        return self.clamped.reshape(-1, len(self.names))

    def draw_rows(self, rng_key: Array, rows: Pattern, request: Request) -> RowDraws:
        """Draws of the joint density given each row, and the integrals of its conditionals.

        What this distribution has clamped is ignored; `with_clamped` adds it to the rows.

        Args:
            rng_key: random key.
            rows: what is observed, shape (rows, D).
            request: what is asked of each row.

        Returns:
            A `RowDraws`.

        Raises:
            RuntimeError: the particles of some row did not reach its conditional.
        """
        energy = ScaledEnergy(
            self.energy_fn, self.inverse_temperature, self.joint_reference, self.loc, self.scale
        )
        return draw_rows(rng_key, energy, self.coordinate_supports, rows, request)


@promote_batch_shape.register
def _(distribution: EnergyDistribution) -> EnergyDistribution:
    """Count axes that `scan` has stacked as batch axes, which the leaves alone do not show."""
    values = distribution.values
    shape = jnp.shape(distribution.inverse_temperature) if values is None else values.shape[:-1]
    return with_batch_shape(copy.copy(distribution), shape)
