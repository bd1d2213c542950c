"""The theory put to the test: on Gaussian mixtures as its paper did, with sound estimators, and on language models.

``ggmi verify`` repeats the paper's experiment (:func:`mixture_protocol`, K, J and L from 2 to 15, 100 repeats each),
``ggmi verify-language`` trains small transformers where every quantity is known (:func:`language_study`). What they
find, with seed 0:

The paper's panels. Its gap falls with K, rises with J, falls with L when read off histograms that each span their own
sample; the same histograms read 7 to 10 nats between two samples of one law. On bins that both share, and by exact
densities in the direction the paper wrote, KL(fit, truth), the gap *rises* with K. In the other direction, KL(truth,
fit), it falls with K, rises weakly with J and is flat in L. Jensen-Shannon alone shows all three claims. With as many
anchors as synthetic samples throughout, the fall with K stays and is half as deep.

GGMI and the gap. The loss-difference estimate follows the difference of *generalisation gaps* (rank correlation .99
across settings, .63 across the repeats of one), which is what the theory derives it for. It does not follow the gap of
divergences, in any of the three forms (-.2 to .3 across settings): with J, the gap rises and GGMI falls. The divergence
counts how faithful the synthetic law is, GGMI how much of its sample a model keeps; Lemma 3.1 has both terms, and
neither replaces the other. The mixture estimate counts what is learned of the law as well, and goes its own way.

The bound. At a = 0 its slack is dI + dH, the entropy that the anchors keep when the synthetic set is known: 1,300 nats
against a GGMI of 75 in the panel of K (medians), 55 against 1.5 for single Gaussians. For densities it depends on the
unit of length, and an entropy may be negative: in two thirds of the repeats in the panels of J and L the "bound" lies
below GGMI and there is no a*.

Language models. dI from log-probabilities and by a learned code is right (r = 1.00). Loss-difference GGMI, per sample,
goes with the measured difference of generalisation gaps: r = .86 over all generators, .98 among synthetic sets as large
as the anchors and 1.00 among those four times as large. The mixture estimate goes with it across sizes only (.67), and
against it at either size (-.92 and -.79).
"""

from ggmi_callbacks.verification.divergence import Divergences, Estimate, divergences, entropy, histogram_kl
from ggmi_callbacks.verification.gaussian import GaussianWorld, gaussian_protocol
from ggmi_callbacks.verification.language import Blend, MarkovSource, all_sequences
from ggmi_callbacks.verification.language_models import LanguageDesign, Outcome, language_study
from ggmi_callbacks.verification.mixtures import Mixture, expectation_maximisation, fit
from ggmi_callbacks.verification.panels import Design, Point, sweep
from ggmi_callbacks.verification.protocol import World, draw_world, mixture_protocol
from ggmi_callbacks.verification.study import verify, verify_language

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
