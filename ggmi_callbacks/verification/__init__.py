"""The theory put to the test: on Gaussian mixtures as its paper did, with sound estimators, and on language models.

``ggmi verify`` repeats the paper's experiment (:func:`mixture_protocol`, K, J and L from 2 to 15, 100 repeats each).
Beside it stand worlds in closed form: single Gaussians (:func:`gaussian_protocol`) and tables (:class:`FiniteWorld`).
``ggmi verify-language`` trains small transformers where every quantity is known (:func:`language_study`).
"""

from ggmi_callbacks.verification.divergence import Divergences, Estimate, divergences, entropy, histogram_kl
from ggmi_callbacks.verification.finite import Coins, FiniteWorld
from ggmi_callbacks.verification.gaussian import GaussianWorld, gaussian_protocol
from ggmi_callbacks.verification.language import Blend, MarkovSource, all_sequences
from ggmi_callbacks.verification.language_models import LanguageDesign, Outcome, language_study
from ggmi_callbacks.verification.mixtures import Mixture, expectation_maximisation, fit
from ggmi_callbacks.verification.panels import Design, Point, sweep
from ggmi_callbacks.verification.protocol import mixture_protocol
from ggmi_callbacks.verification.study import verify, verify_language
from ggmi_callbacks.verification.world import World, draw_world

__all__ = [
    "Blend",
    "Coins",
    "Design",
    "Divergences",
    "Estimate",
    "FiniteWorld",
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
