"""Learn a prior from data, and put it inside a NumPyro model."""

from numpyro_disco.diagnostics.calibration import Calibration, calibration
from numpyro_disco.diagnostics.conditionals import check_conditional
from numpyro_disco.energy.archive import LoadError
from numpyro_disco.energy.conditionals import LogMarginal, log_marginal, sample_conditional
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.energy.imputation import impute
from numpyro_disco.energy.storage import load, save
from numpyro_disco.models.arviz import to_arviz
from numpyro_disco.models.sites import sample, site_values
from numpyro_disco.models.tempered_smc import TemperedSMC
from numpyro_disco.references.gaussian import GaussianReference
from numpyro_disco.references.mixture import MixtureReference
from numpyro_disco.training.fit import FitResult, fit

__all__ = [
    "Calibration",
    "EnergyDistribution",
    "FitResult",
    "GaussianReference",
    "LoadError",
    "LogMarginal",
    "MixtureReference",
    "TemperedSMC",
    "calibration",
    "check_conditional",
    "fit",
    "impute",
    "load",
    "log_marginal",
    "sample",
    "sample_conditional",
    "save",
    "site_values",
    "to_arviz",
]
__version__ = "0.1.0"
