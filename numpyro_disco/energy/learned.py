"""The models that training learns: a network and a reference in one callable pytree.

Both kinds live in standardised coordinates z = W (x - m), with W the whitening matrix and m the
mean of the training rows, and both add a network to a reference density q of z:

- `LearnedEnergy`: E(z) = -log q(z) + f(z), the energy of a density;
- `LearnedScore`: s(z) = grad log q(z) + g(z), which need not be the gradient of anything.

The network of an energy may itself be a normalised density a(z). Then f(z) = log q(z) - log p(z)
with p = (1 - e) a + e q for a small share e, so that E = -log p, whose integral is one.

Weights are leaves of the callable, so that compiled programs take them as arguments instead of
holding them as constants.
"""

from __future__ import annotations

import abc
import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from numpyro_disco._typing import Array, EnergyFn, Pytree
from numpyro_disco.energy.autoregressive import AutoregressiveNetwork
from numpyro_disco.references.base import Reference


@dataclasses.dataclass(frozen=True)
class Learned(abc.ABC):
    """A network over standardised points, together with a reference."""

    weights: Pytree
    """State of the network."""
    reference: Reference
    """The density q of z."""
    loc: Array
    """Mean of the training rows, shape (D,)."""
    whitener: Array
    """The matrix W that standardises, shape (D, D)."""
    log_det: Array
    """Log of the determinant of W, shape ()."""
    graph: Any
    """The network without its weights."""
    smoothed: Reference | None = None
    """Used during training only: q smoothed like the training rows, in place of q. The network then
    need not learn what smoothing does to q, and with q back in place afterwards most of the
    smoothing is undone. None otherwise."""

    def standardize(self, x: Array) -> Array:
        """Standardise one point, z = W (x - m), shape (D,) to (D,)."""
        return self.whitener @ (x - self.loc)

    def parts(self, z: Array) -> tuple[Array, Array]:
        """The reference and the network at one standardised point.

        Args:
            z: shape (D,).

        Returns:
            log q(z), shape (), and the output of the network: the correction f(z), shape (), of an
            energy network, or g(z), shape (D,), of a score network.
        """
        network = nnx.merge(self.graph, self.weights)
        log_prob, local = self.reference.describe(z)
        if isinstance(network, AutoregressiveNetwork):
            return log_prob, log_prob - network.mixed_with(log_prob, network.log_prob(z))
        return log_prob, network(z, local) if network.num_local else network(z)

    @abc.abstractmethod
    def score(self, z: Array) -> Array:
        """The score at one standardised point, in standardised coordinates, shape (D,)."""


register_learned = partial(
    jax.tree_util.register_dataclass,
    data_fields=["weights", "reference", "loc", "whitener", "log_det", "smoothed"],
    meta_fields=["graph"],
)
"""Class decorator that makes a subclass of `Learned` a JAX pytree."""


@register_learned
@dataclasses.dataclass(frozen=True)
class LearnedEnergy(Learned):
    """E(x) = -log q(z) - log |dz / dx| + f(z), the energy of a density of x in the user's units."""

    def __call__(self, x: Array) -> Array:
        """The energy at one point in the user's units, shape (D,) to ()."""
        log_prob, correction = self.parts(self.standardize(x))
        return correction - log_prob - self.log_det

    def standardized(self, z: Array) -> Array:
        """The energy of z itself, shape (D,) to (); the smoothed one during training."""
        log_prob, correction = self.parts(z)
        if self.smoothed is not None:
            log_prob, _ = self.smoothed.describe(z)
        return correction - log_prob

    def score(self, z: Array) -> Array:
        """Minus the gradient of `standardized`, shape (D,)."""
        return -jax.grad(self.standardized)(z)

    @property
    def normalized_order(self) -> tuple[int, ...] | None:
        """The order of the columns of a network that is a normalised density; None for others.

        exp(-E) then integrates to one.
        """
        network = nnx.merge(self.graph, self.weights)
        return network.order if isinstance(network, AutoregressiveNetwork) else None

    def sample_given(
        self, rng_key: Array, num_draws: int, values: Array, observed: Array
    ) -> tuple[Array, Array]:
        """Independent draws of a conditional of exp(-E), which has to be normalised.

        With p = (1 - e) a + e q, a conditional of p is one of a or of q, with probabilities
        proportional to (1 - e) a(x_o) and e q(x_o), where x_o is what is observed.

        Args:
            rng_key: random key.
            num_draws: number of draws.
            values: values of the observed coordinates, shape (D,), in the user's units.
            observed: boolean array (D,). True for none, or, where the whitening matrix is diagonal,
                for some of the first columns of `normalized_order`.

        Returns:
            Draws (num_draws, D), and the log density of the observed values, shape ().
        """
        network_key, reference_key, share_key = jax.random.split(rng_key, 3)
        network, num_given = nnx.merge(self.graph, self.weights), observed.sum()
        given = jnp.where(observed, self.standardize(values), 0.0)
        others = self.reference.condition(given, observed)
        drawn = network.sample(network_key, num_draws, given, num_given)
        log_reference = self.reference.marginal_log_prob(given, observed)
        log_prob = network.mixed_with(log_reference, network.log_prob(given, num_given))
        share = network.defensive_share * jnp.exp(log_reference - log_prob)
        taken = jax.random.uniform(share_key, (num_draws, 1)) < share
        z = jnp.where(taken, others.sample(reference_key, (num_draws,)), drawn)
        log_scales = jnp.where(observed, jnp.log(jnp.abs(jnp.diagonal(self.whitener))), 0.0)
        return self.loc + jnp.linalg.solve(self.whitener, z.T).T, log_prob + log_scales.sum()


@register_learned
@dataclasses.dataclass(frozen=True)
class LearnedScore(Learned):
    """s(z) = grad log q(z) + g(z), a score that need not be the gradient of anything.

    A network that is a whole score, such as `ScoreUNet`, is not added to that of the reference.
    """

    def score(self, z: Array) -> Array:
        """The score of the reference plus the output of the network, shape (D,)."""
        network = nnx.merge(self.graph, self.weights)
        if getattr(network, "is_whole_score", False):
            return network(z)
        gradient = jax.grad(lambda z: self.reference.describe(z)[0])(z)
        return gradient + self.parts(z)[1]


def as_pytree_callable(energy_fn: EnergyFn) -> EnergyFn:
    """Return `energy_fn` as a pytree whose leaves are arrays.

    Args:
        energy_fn: a callable. One that is a pytree already (a flax or equinox module, a
            `jax.tree_util.Partial`) is returned unchanged. A plain function becomes a `Partial`
            without arguments; arrays in its closure are constants of any compiled program.

    Raises:
        ValueError: a leaf that is not an array.
    """
    if jax.tree_util.all_leaves([energy_fn]):
        return jax.tree_util.Partial(energy_fn)
    for leaf in jax.tree.leaves(energy_fn):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | float | int):
            raise ValueError(
                f"Expected arrays as the leaves of `energy_fn`; got {leaf!r}. Keep everything else "
                "out of the tree: `jax.tree_util.Partial(function, weights)`, with the rest in the "
                "function's closure."
            )
    return energy_fn
