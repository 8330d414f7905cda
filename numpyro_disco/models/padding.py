"""Tables whose missing entries compiled code does not know, and their draws without padding.

`TemperedSMC` compiles for the shape of a table that is an argument of its model. The site of the
missing entries then has a value for *every* entry. Called with the table itself, the model has a
site of the missing entries alone, and draws have to fit the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from numpyro_disco._tracing import trace_sites
from numpyro_disco.models.missing import MissingEntries
from numpyro_disco.models.programs import FinishedRuns
from numpyro_disco.models.structure import without_wrappers


def without_padding(
    finished: FinishedRuns, model: Callable, args: tuple, kwargs: dict
) -> FinishedRuns:
    """Replace padded draws by those of the sites that the model has when it is called by itself.

    Args:
        finished: the runs.
        model: the model.
        args: its arguments.
        kwargs: its keyword arguments.

    Returns:
        The runs, with a vector of the missing entries in the place of each padded site, and without
        the site of a table in which nothing is missing. Sites that the model pads stay padded.

    Warns:
        UserWarning: the model fails when it is called by itself, so the draws stay as they are.
    """
    if not finished.padded:
        return finished
    try:
        sites = trace_sites(model, args, kwargs)
    except Exception as error:  # noqa: BLE001 - whatever a model raises, the runs are done.
        warnings.warn(
            f"The draws of {list(finished.padded)} keep a value for every entry of their tables, "
            "also for observed ones, because the model could not be called by itself to see which "
            f"entries are missing: {type(error).__name__}: {error}",
            stacklevel=3,
        )
        return finished
    draws = dict(finished.draws)
    for name in finished.padded:
        if name not in sites:
            del draws[name]
            continue
        fn = without_wrappers(sites[name]["fn"])
        if isinstance(fn, MissingEntries):
            values = draws[name]
            flat = values.reshape(*values.shape[:2], -1)
            draws[name] = flat[..., np.asarray(fn.places)]
    latent = tuple(name for name in finished.latent if name in draws)
    return finished._replace(draws=draws, latent=latent)
