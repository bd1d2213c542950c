"""Cases in which the answer is known exactly, for tests and for teaching; all in nats."""

from ggmi_callbacks.functional.closed_forms.ggmi import gaussian_ggmi
from ggmi_callbacks.functional.closed_forms.information_gain import (
    gaussian_channel_information_gain,
    table_information_gain,
)
from ggmi_callbacks.functional.closed_forms.shared import gaussian_shared_information, table_shared_information
from ggmi_callbacks.functional.closed_forms.twins import error_rate_information, noisy_mean_twin_information
from ggmi_callbacks.functional.closed_forms.weight_information import (
    GaussianWeightInformation,
    gaussian_weight_information,
    linear_regression_information,
    noisy_mean_information,
)

__all__ = [
    "GaussianWeightInformation",
    "error_rate_information",
    "gaussian_channel_information_gain",
    "gaussian_ggmi",
    "gaussian_shared_information",
    "gaussian_weight_information",
    "linear_regression_information",
    "noisy_mean_information",
    "noisy_mean_twin_information",
    "table_information_gain",
    "table_shared_information",
]
