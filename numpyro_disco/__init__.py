"""Learn a prior from data, and put it inside a NumPyro model."""

from numpyro_disco.conditionals import LogMarginal, impute, log_marginal, sample_conditional
from numpyro_disco.diagnostics import Calibration, calibration, check_conditional
from numpyro_disco.distributions import EnergyDistribution
from numpyro_disco.fitting import FitResult, fit
from numpyro_disco.inference_data import to_arviz
from numpyro_disco.networks import EnergyNetwork
from numpyro_disco.reference import GaussianReference, MixtureReference
from numpyro_disco.sites import sample, site_values
from numpyro_disco.smc import TemperedSMC
from numpyro_disco.storage import LoadError, load, save

__all__ = [
    "Calibration",
    "EnergyDistribution",
    "EnergyNetwork",
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
