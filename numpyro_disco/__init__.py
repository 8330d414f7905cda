"""Learn a prior from data, and put it inside a NumPyro model."""

from numpyro_disco.diagnostics.calibration import Calibration, calibration
from numpyro_disco.diagnostics.conditionals import ConditionalCheck, check_conditional
from numpyro_disco.diagnostics.prior_plots import plot_conditional, plot_pairs
from numpyro_disco.energy.archive import LoadError
from numpyro_disco.energy.conditionals import LogMarginal, log_marginal, sample_conditional
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.energy.drawing import DrawInfo
from numpyro_disco.energy.guard import NormalizerError
from numpyro_disco.energy.imputation import impute
from numpyro_disco.energy.langevin import AnnealedLangevin, Heun, Langevin, sample_langevin
from numpyro_disco.energy.score_function import ScoreFunction
from numpyro_disco.models.arviz import to_arviz
from numpyro_disco.models.refresh import RowRefresh
from numpyro_disco.models.sites import sample, site_values
from numpyro_disco.models.tempered_smc import TemperedSMC
from numpyro_disco.references.base import Reference
from numpyro_disco.references.fitting import MixtureFit
from numpyro_disco.references.gaussian import GaussianReference
from numpyro_disco.references.mixed import MixedReference
from numpyro_disco.references.mixture import MixtureReference
from numpyro_disco.tables.columns import Boolean, Categories, Dates, Real, Whole
from numpyro_disco.tempering.checkpoints import CheckpointError
from numpyro_disco.tempering.settings import TemperingSettings
from numpyro_disco.tempering.state import TemperedHistory
from numpyro_disco.training.fit import fit
from numpyro_disco.training.loop import History
from numpyro_disco.training.network import MLP, UNet
from numpyro_disco.training.objectives import (
    Contrastive,
    Denoising,
    Diffusion,
    Disco,
    DiscoScore,
    Hutchinson,
    Implicit,
    Joint,
    Likelihood,
    Multiscale,
    Sliced,
)
from numpyro_disco.training.optimizer import AdamW
from numpyro_disco.training.report.lines import ReportLine
from numpyro_disco.training.report.report import Report
from numpyro_disco.training.result import FitResult
from numpyro_disco.training.settings import FitSettings, Refit
from numpyro_disco.training.storage import SavedFit, load, save

__all__ = [
    "AdamW",
    "AnnealedLangevin",
    "Boolean",
    "Calibration",
    "Categories",
    "CheckpointError",
    "ConditionalCheck",
    "Contrastive",
    "Dates",
    "Denoising",
    "Diffusion",
    "Disco",
    "DiscoScore",
    "DrawInfo",
    "EnergyDistribution",
    "FitResult",
    "FitSettings",
    "GaussianReference",
    "Heun",
    "History",
    "Hutchinson",
    "Implicit",
    "Joint",
    "Langevin",
    "Likelihood",
    "LoadError",
    "LogMarginal",
    "MLP",
    "MixedReference",
    "MixtureFit",
    "MixtureReference",
    "Multiscale",
    "NormalizerError",
    "Real",
    "Reference",
    "Refit",
    "Report",
    "ReportLine",
    "RowRefresh",
    "SavedFit",
    "ScoreFunction",
    "Sliced",
    "TemperedHistory",
    "TemperedSMC",
    "TemperingSettings",
    "UNet",
    "Whole",
    "calibration",
    "check_conditional",
    "fit",
    "impute",
    "load",
    "log_marginal",
    "plot_conditional",
    "plot_pairs",
    "sample",
    "sample_conditional",
    "sample_langevin",
    "save",
    "site_values",
    "to_arviz",
]
__version__ = "0.1.0"
