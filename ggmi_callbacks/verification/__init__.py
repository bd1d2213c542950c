"""The paper's verification on Gaussian mixtures, done with sound estimators, and one on language models."""

from ggmi_callbacks.verification.divergence import Divergences, Estimate, divergences, entropy, histogram_kl
from ggmi_callbacks.verification.gaussian import GaussianWorld, gaussian_protocol
from ggmi_callbacks.verification.language import Blend, MarkovSource, all_sequences
from ggmi_callbacks.verification.language_models import LanguageDesign, Outcome, language_study
from ggmi_callbacks.verification.language_report import verify_language
from ggmi_callbacks.verification.mixtures import Mixture, expectation_maximisation, fit
from ggmi_callbacks.verification.panels import Design, Point, sweep
from ggmi_callbacks.verification.protocol import World, draw_world, mixture_protocol
from ggmi_callbacks.verification.study import verify

__all__ = [
    "Blend",
    "Design",
    "Divergences",
    "Estimate",
    "GaussianWorld",
    "LanguageDesign",
    "MarkovSource",
    "Mixture",
    "Outcome",
    "Point",
    "World",
    "all_sequences",
    "divergences",
    "draw_world",
    "entropy",
    "expectation_maximisation",
    "fit",
    "gaussian_protocol",
    "histogram_kl",
    "language_study",
    "mixture_protocol",
    "sweep",
    "verify",
    "verify_language",
]
