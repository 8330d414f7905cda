"""Learn a prior from data, and put it inside a NumPyro model."""

from numpyro_disco.conditionals import impute, sample_conditional
from numpyro_disco.distributions import EnergyDistribution
from numpyro_disco.fitting import FitResult, fit
from numpyro_disco.networks import EnergyNetwork
from numpyro_disco.reference import GaussianReference, MixtureReference
from numpyro_disco.sites import sample, site_values
from numpyro_disco.smc import TemperedSMC
from numpyro_disco.storage import LoadError, load, save

__all__ = [
    "EnergyDistribution",
    "EnergyNetwork",
    "FitResult",
    "GaussianReference",
    "LoadError",
    "MixtureReference",
    "TemperedSMC",
    "fit",
    "impute",
    "load",
    "sample",
    "sample_conditional",
    "save",
    "site_values",
]
__version__ = "0.1.0"
