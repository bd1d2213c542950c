"""Information metrics in nats, each a :class:`torchmetrics.Metric` over the function of the same name."""

from ggmi_callbacks.metrics.divergence_bound import DivergenceBound
from ggmi_callbacks.metrics.effective_diversity import EffectiveDiversity
from ggmi_callbacks.metrics.gain import Gain
from ggmi_callbacks.metrics.generalization_bound import GeneralizationBound
from ggmi_callbacks.metrics.ggmi import GGMI
from ggmi_callbacks.metrics.ggmi_upper_bound import GGMIUpperBound
from ggmi_callbacks.metrics.information_gain import InformationGain
from ggmi_callbacks.metrics.weight_information import WeightInformation

__all__ = [
    "GGMI",
    "DivergenceBound",
    "EffectiveDiversity",
    "GGMIUpperBound",
    "Gain",
    "GeneralizationBound",
    "InformationGain",
    "WeightInformation",
]
