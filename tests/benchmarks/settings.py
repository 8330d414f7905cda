"""Settings of `disco.fit` on the command line: a flat JSON object, as in `--settings '{...}'`.

    --settings '{"objective": "disco", "noise_scale": 0.05, "width": 64, "learning_rate": 1e-3}'

`fit` takes objects for the objective, the network, the reference and the optimiser. Here their
fields stand side by side, by the same names; `fit_arguments` sorts them into these objects.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpyro_disco as disco

OBJECTIVES: dict[str, type] = {
    "contrastive": disco.Contrastive,
    "disco": disco.Disco,
    "disco_score": disco.DiscoScore,
    "joint": disco.Joint,
    "likelihood": disco.Likelihood,
    "denoising": disco.Denoising,
    "multiscale": disco.Multiscale,
    "diffusion": disco.Diffusion,
    "implicit": disco.Implicit,
    "hutchinson": disco.Hutchinson,
    "sliced": disco.Sliced,
}
WITH_MIXTURE = ("contrastive", "joint", "likelihood")
"""Objectives for which `fit` fits a mixture by default."""
REFERENCES = ("mixture", "gaussian")
PLAIN = (
    "transform",
    "missing",
    "num_steps",
    "batch_size",
    "held_out_fraction",
    "patience",
)
"""Settings that are keyword arguments of `fit` themselves."""
SMALL = {"num_steps": 100, "width": 16, "num_blocks": 1, "max_components": 4}
"""Flat settings of a fit that takes seconds."""


def _names(kind: type) -> tuple[str, ...]:
    """Names of a settings object's fields."""
    return tuple(field.name for field in dataclasses.fields(kind))


NETWORK, REFERENCE, OPTIMIZER = (_names(k) for k in (disco.MLP, disco.MixtureFit, disco.AdamW))
OF_OBJECTIVES = tuple(dict.fromkeys(name for kind in OBJECTIVES.values() for name in _names(kind)))
KNOWN = ("objective", "reference", *OF_OBJECTIVES, *NETWORK, *REFERENCE, *OPTIMIZER, *PLAIN)


def fit_arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `disco.fit` from flat settings.

    Without `objective`, a `noise_scale` selects DISCO, as in `fit`; otherwise the reference
    decides: the contrastive objective beside a mixture, DISCO beside a single Gaussian.

    Args:
        settings: any of the names in `KNOWN`. `max_components` is read only if a mixture is fitted,
            so that one value can be given for several references.

    Returns:
        Keyword arguments with objects in the place of flat names.

    Raises:
        ValueError: an unknown name, or a setting that the objective does not have.
    """
    if unknown := set(settings) - set(KNOWN):
        raise ValueError(
            f"Expected settings among {', '.join(sorted(KNOWN))}; got {', '.join(sorted(unknown))}."
        )
    name = _objective_name(settings)
    reference = settings.get("reference", "mixture" if name in WITH_MIXTURE else "gaussian")
    if reference not in REFERENCES:
        raise ValueError(f"Expected one of {REFERENCES} for `reference`; got {reference!r}.")
    if reference == "mixture":
        reference = disco.MixtureFit(**_chosen(settings, REFERENCE))
    return {
        "objective": _objective(name, settings),
        "network": disco.MLP(**_chosen(settings, NETWORK)),
        "reference": reference,
        "optimizer": disco.AdamW(**_chosen(settings, OPTIMIZER)),
        **_chosen(settings, PLAIN),
    }


def _chosen(settings: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The settings with these names."""
    return {name: settings[name] for name in names if name in settings}


def _objective_name(settings: Mapping[str, Any]) -> str:
    """The objective that is named, or the one that `fit` takes without a name."""
    name = settings.get("objective")
    if name is None:
        near = settings.get("reference", "mixture") == "mixture" and "noise_scale" not in settings
        return "contrastive" if near else "disco"
    if name not in OBJECTIVES:
        raise ValueError(f"Expected one of {tuple(OBJECTIVES)} for `objective`; got {name!r}.")
    return str(name)


def _objective(name: str, settings: Mapping[str, Any]) -> Any:
    """The objective with its settings; settings of other objectives are an error."""
    kind = OBJECTIVES[name]
    given = _chosen(settings, OF_OBJECTIVES)
    if foreign := set(given) - set(_names(kind)):
        raise ValueError(
            f"Expected settings of {name!r} among {', '.join(_names(kind)) or 'none'}; got "
            f"{', '.join(sorted(foreign))}. Name another `objective`."
        )
    return kind(**given)


def flat_settings(text: str) -> dict[str, Any]:
    """Checked settings from JSON, as the `type` of an argparse option."""
    try:
        settings = json.loads(text)
    except json.JSONDecodeError:
        settings = None
    if not isinstance(settings, dict):
        raise argparse.ArgumentTypeError(
            f"Expected a JSON object, for example '{{\"width\": 64}}'; got {text!r}."
        )
    try:
        fit_arguments(settings)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return settings
