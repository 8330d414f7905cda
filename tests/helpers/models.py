"""Latent sites, densities and samplers of NumPyro models.

`initialize_model` is what NUTS itself calls. The potential energy that it returns determines the
posterior, so most tests need not run chains, which take minutes.
"""

from __future__ import annotations

import jax
import numpy as np
from numpyro import handlers
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import initialize_model

KEY = jax.random.key(11)
CHAIN_SIGMAS = 15
"""Eight chains: Student's t with 7 degrees of freedom is beyond 15 as rarely as a Gaussian is
beyond 5."""


def started(model, *args, **kwargs):
    """NumPyro's record of a model at a point where a sampler would start."""
    return initialize_model(KEY, model, model_args=args, dynamic_args=True, **kwargs)


def latents(model, *args, **kwargs):
    """Shapes of the sites that a sampler would move, in unconstrained space.

    The model is traced, and nothing is compiled.
    """
    sites = jax.eval_shape(lambda: started(model, *args, **kwargs).param_info.z)
    return {name: value.shape for name, value in sites.items()}


def traced(model, values, *args):
    """The trace of a model with values for its sites."""
    substituted = handlers.substitute(handlers.seed(model, KEY), values)
    return handlers.trace(substituted).get_trace(*args)


def nuts(model, *, num_warmup, num_samples, num_chains=1, **options):
    """An `MCMC` with NUTS, whose chains run side by side without a progress bar."""
    return MCMC(
        NUTS(model),
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=num_chains,
        chain_method="vectorized",
        progress_bar=False,
        **options,
    )


def chain_means(mcmc, names):
    """Means over chains and their standard error: chains are independent, draws are not."""
    samples = mcmc.get_samples(group_by_chain=True)
    columns = [np.asarray(samples[name], float) for name in names]
    columns = [draws if draws.ndim == 3 else draws[..., None] for draws in columns]
    means = np.concatenate(columns, axis=-1).mean(1)
    return means.mean(0), means.std(0, ddof=1) / np.sqrt(len(means))
