"""Information metrics in nats, each a :class:`torchmetrics.Metric` over the function of the same name."""

from ggmi_callbacks.metrics.gain import Gain
from ggmi_callbacks.metrics.ggmi import GGMI
from ggmi_callbacks.metrics.weight_information import WeightInformation

__all__ = ["GGMI", "Gain", "WeightInformation"]
