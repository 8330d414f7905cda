"""`RowRefresh`: an HMC or NUTS that also draws rows of learned priors afresh.

NUTS follows gradients and stays in the mode where it is. Between its draws, `RowRefresh` proposes
the latent part x_i of one vector or row at a time from the reference q given what is observed in
that row, wherever x_i is now, and accepts with probability

    min(1, [pi(x_i', rest) q(x_i)] / [pi(x_i, rest) q(x_i')]),

where pi is the joint density of the whole model. This leaves the posterior as it is, for any model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to
from numpyro.infer import HMC
from numpyro.infer.hmc import HMCState
from numpyro.infer.mcmc import MCMCKernel

from numpyro_disco._checks import check_count
from numpyro_disco._tracing import is_latent, trace_sites
from numpyro_disco._typing import Array
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.models.bases import default_base
from numpyro_disco.models.groups import CoordinateGroup, coordinate_groups
from numpyro_disco.models.missing import MissingEntries, PaddedEntries
from numpyro_disco.models.structure import unconstrained_value, without_wrappers


class RowRefresh(MCMCKernel):
    """Alternate an HMC or NUTS kernel with fresh draws of rows from their references.

    Use it where missing entries, or the free coordinates of a learned prior, have several modes
    that NUTS does not move between. A fresh draw is accepted often where the reference is close to
    the prior and the rest of the model says little about the row.

    A proposal evaluates the whole model once, without its gradient. Rows are taken in random order,
    one after the other, as the model may connect them.

    Args:
        kernel: an `HMC` or `NUTS` of a model.
        num_proposals: proposals after each draw of `kernel`. By default one for each row or vector
            of each learned prior, and at most 100.

    Raises:
        ValueError: `kernel` is of another kind or has no model, or the model has no learned prior
            that is latent as vectors or missing entries.

    References:
        Tierney 1994, section 2.3.3 (independence chains) and 2.4 (hybrids).

    Example:
        >>> import jax, jax.numpy as jnp, numpyro_disco as disco
        >>> from numpyro.infer import MCMC, NUTS
        >>> q = disco.MixtureReference(jnp.ones(2), jnp.array([[-9.0], [9.0]]), jnp.ones((2, 1, 1)))
        >>> prior = disco.EnergyDistribution(lambda x: -q.log_prob(x), q)
        >>> kernel = disco.RowRefresh(NUTS(lambda: disco.sample("x", prior)))
        >>> mcmc = MCMC(kernel, num_warmup=20, num_samples=20, progress_bar=False)
        >>> mcmc.run(jax.random.key(0))
        >>> mcmc.get_samples()["x.0"].shape
        (20,)
    """

    def __init__(self, kernel: HMC, *, num_proposals: int | None = None) -> None:
        if not isinstance(kernel, HMC) or kernel.model is None:
            raise ValueError(
                "Expected a `numpyro.infer.HMC` or `NUTS` of a model for `kernel`; got "
                f"{type(kernel).__name__}."
            )
        if num_proposals is not None:
            check_count(num_proposals, "num_proposals")
        self.kernel, self.num_proposals = kernel, num_proposals

    @property
    def model(self) -> Callable:
        """The model of the kernel."""
        return self.kernel.model

    @property
    def sample_field(self) -> str:
        """Name of the draws in the kernel's state."""
        return self.kernel.sample_field

    @property
    def default_fields(self) -> tuple[str, ...]:
        """Fields of the kernel's state that `MCMC` always collects."""
        return self.kernel.default_fields

    def get_diagnostics_str(self, state: HMCState) -> str:
        """The kernel's line for the progress bar."""
        return self.kernel.get_diagnostics_str(state)

    def postprocess_fn(self, args: tuple, kwargs: dict) -> Callable:
        """The kernel's map from unconstrained to constrained draws."""
        return self.kernel.postprocess_fn(args, kwargs)

    def init(
        self,
        rng_key: Array,
        num_warmup: int,
        init_params: Any = None,
        model_args: tuple = (),
        model_kwargs: dict | None = None,
    ) -> HMCState:
        """The kernel's first state."""
        model_kwargs = {} if model_kwargs is None else model_kwargs
        sites = trace_sites(self.model, model_args, model_kwargs)
        if not read_blocks(sites):
            raise ValueError(
                "Expected a model with a latent vector or latent missing entries of a learned "
                "prior; this one has none. Run the kernel itself."
            )
        return self.kernel.init(rng_key, num_warmup, init_params, model_args, model_kwargs)

    def sample(self, state: HMCState, model_args: tuple, model_kwargs: dict) -> HMCState:
        """One draw of the kernel, then fresh proposals for rows."""
        state = self.kernel.sample(state, model_args, model_kwargs)
        sites = trace_sites(self.model, model_args, model_kwargs)
        potential = self.kernel.get_potential_fn(model_args, model_kwargs)

        def refresh(rng_key: Array, z: dict[str, Array]) -> tuple:
            rng_key, *block_keys = jax.random.split(rng_key, 1 + len(blocks))
            for block, block_key in zip(blocks, block_keys, strict=True):
                count = self.num_proposals or min(block.num_rows, MAX_PROPOSALS)
                z = refresh_rows(block_key, block, sites, potential, z, count)
            moved = self.kernel.refresh(state._replace(z=z), model_args, model_kwargs)
            return rng_key, z, moved.potential_energy, moved.z_grad

        blocks = read_blocks(sites)
        # The state of vectorised chains has an axis for them, which the kernel maps over itself.
        batched = jnp.ndim(state.potential_energy) > 0
        fields = (jax.vmap(refresh) if batched else refresh)(state.rng_key, state.z)
        names = ("rng_key", "z", "potential_energy", "z_grad")
        return state._replace(**dict(zip(names, fields, strict=True)))


MAX_PROPOSALS = 100
"""Proposals after each draw unless their number is given."""


class Block(NamedTuple):
    """The latent sites of one learned prior."""

    rows: dict[str, np.ndarray]
    """From the name of each site to the row of each of its unconstrained numbers, or arrays that
    broadcast to them."""
    num_rows: int
    """Number of rows or vectors, which are independent under the reference."""
    group: CoordinateGroup | None
    """The coordinate sites of a vector, or None for one site."""

    def draw(self, rng_key: Array, sites: dict[str, dict]) -> dict[str, Array]:
        """Unconstrained values of the sites, drawn from the reference."""
        if self.group is None:
            (name,) = self.rows
            values = {name: default_base(sites[name]["fn"]).sample(rng_key)}
        else:
            values = self.group.draw(rng_key, sites)
        return {
            name: unconstrained_value({**sites[name], "value": value})
            for name, value in values.items()
        }

    def log_reference(self, sites: dict[str, dict], z: dict[str, Array]) -> Array:
        """Log density of unconstrained values of the sites under the reference."""
        log_prob, at = jnp.zeros(()), dict(sites)
        for name in self.rows:
            transform = biject_to(sites[name]["fn"].support)
            value = transform(z[name])
            at[name] = {**sites[name], "value": value}
            log_prob += transform.log_abs_det_jacobian(z[name], value).sum()
            if self.group is None:
                log_prob += default_base(sites[name]["fn"]).log_prob(value).sum()
        if self.group is not None:
            log_prob += self.group.log_base(at).sum()
        return log_prob


def read_blocks(sites: dict[str, dict]) -> list[Block]:
    """The latent sites of each learned prior in the trace of a model."""
    blocks = []
    for name, site in sites.items():
        fn = without_wrappers(site["fn"]) if is_latent(site) else None
        if isinstance(fn, MissingEntries):
            of_entries = np.repeat(np.arange(len(fn.sizes)), fn.sizes)
            blocks.append(Block({name: of_entries}, len(fn.sizes), None))
        elif isinstance(fn, PaddedEntries | EnergyDistribution):
            shape = np.shape(site["value"])[: -len(fn.event_shape)]
            blocks.append(Block({name: _number(shape)[..., None]}, int(np.prod(shape)), None))
    for group in coordinate_groups(sites, ()):
        first, part = next(iter(group.free.items()))
        value = np.shape(sites[first]["value"])
        shape = value[: len(value) - part.event_dim]
        rows = {
            name: _number(shape).reshape(shape + (1,) * _unconstrained_axes(sites[name]))
            for name in group.free
        }
        blocks.append(Block(rows, int(np.prod(shape)), group))
    return blocks


def refresh_rows(
    rng_key: Array,
    block: Block,
    sites: dict[str, dict],
    potential: Callable[[dict], Array],
    z: dict[str, Array],
    num_proposals: int,
) -> dict[str, Array]:
    """Propose fresh values of some rows, one row after the other, and accept or reject each.

    Args:
        rng_key: random key.
        block: the sites of one learned prior.
        sites: trace of the model.
        potential: minus the log joint density of unconstrained values of all sites.
        z: unconstrained values of all sites.
        num_proposals: number of proposals, in random order of the rows.

    Returns:
        Unconstrained values of all sites.
    """
    draw_key, order_key, accept_key = jax.random.split(rng_key, 3)
    log_uniform = jnp.log(jax.random.uniform(accept_key, (num_proposals,)))
    # Sweeps over all rows, each in an order of its own and with draws of its own.
    num_sweeps = -(-num_proposals // block.num_rows)
    orders = jax.vmap(lambda key: jax.random.permutation(key, block.num_rows))(
        jax.random.split(order_key, num_sweeps)
    )
    drawn = jax.vmap(lambda key: block.draw(key, sites))(jax.random.split(draw_key, num_sweeps))
    sweep = np.arange(num_proposals) // block.num_rows

    def log_weight(z: dict[str, Array]) -> Array:
        return -potential(z) - block.log_reference(sites, z)

    def propose(state: tuple, entry: tuple) -> tuple:
        z, log_weight_z = state
        row, sweep, log_u = entry
        moved = {
            name: jnp.where(rows == row, drawn[name][sweep], z[name])
            for name, rows in block.rows.items()
        }
        proposal = {**z, **moved}
        log_weight_proposal = log_weight(proposal)
        # False where the log density of the proposal is NaN.
        accept = log_u < log_weight_proposal - log_weight_z
        z = jax.tree.map(lambda new, old: jnp.where(accept, new, old), proposal, z)
        return (z, jnp.where(accept, log_weight_proposal, log_weight_z)), None

    entries = orders.ravel()[:num_proposals], sweep, log_uniform
    (z, _), _ = jax.lax.scan(propose, (z, log_weight(z)), entries)
    return z


def _unconstrained_axes(site: dict) -> int:
    """Number of axes that one unconstrained value of a site has."""
    return biject_to(site["fn"].support).domain.event_dim


def _number(shape: tuple[int, ...]) -> np.ndarray:
    """The numbers 0, 1, ... in an array of this shape."""
    return np.arange(int(np.prod(shape))).reshape(shape)
