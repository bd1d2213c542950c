"""Information metrics in nats, each a :class:`torchmetrics.Metric` over the function of the same name."""

from ggmi_callbacks.metrics.code_length import CodeLength
from ggmi_callbacks.metrics.conditional_mutual_information import ConditionalMutualInformation
from ggmi_callbacks.metrics.divergence_bound import DivergenceBound
from ggmi_callbacks.metrics.effective_diversity import EffectiveDiversity
from ggmi_callbacks.metrics.gain import Gain
from ggmi_callbacks.metrics.gaussian_entropy import GaussianEntropy
from ggmi_callbacks.metrics.generalization_bound import GeneralizationBound
from ggmi_callbacks.metrics.ggmi import GGMI
from ggmi_callbacks.metrics.ggmi_upper_bound import GGMIUpperBound
from ggmi_callbacks.metrics.information_gain import InformationGain
from ggmi_callbacks.metrics.knn_entropy import KNNEntropy
from ggmi_callbacks.metrics.matrix_entropy import MatrixEntropy
from ggmi_callbacks.metrics.mutual_information import MutualInformation
from ggmi_callbacks.metrics.weight_information import WeightInformation

__all__ = [
    "GGMI",
    "CodeLength",
    "ConditionalMutualInformation",
    "DivergenceBound",
    "EffectiveDiversity",
    "GGMIUpperBound",
    "Gain",
    "GaussianEntropy",
    "GeneralizationBound",
    "InformationGain",
    "KNNEntropy",
    "MatrixEntropy",
    "MutualInformation",
    "WeightInformation",
]
