"""Stateless estimators of information, tensors in and nats out."""

from ggmi_callbacks.functional._embedding_gain import embedding_information_gain
from ggmi_callbacks.functional._interval import Interval, bootstrap_interval, mean_interval
from ggmi_callbacks.functional.agreement import agreement
from ggmi_callbacks.functional.bounds import (
    GGMIUpperBoundTerms,
    generalization_bound,
    ggmi_upper_bound,
    ggmi_upper_bound_terms,
    synthetic_generalization_bound,
)
from ggmi_callbacks.functional.closed_forms import (
    GaussianWeightInformation,
    error_rate_information,
    gaussian_channel_information_gain,
    gaussian_ggmi,
    gaussian_shared_information,
    gaussian_weight_information,
    linear_regression_information,
    noisy_mean_information,
    noisy_mean_twin_information,
    table_information_gain,
    table_shared_information,
)
from ggmi_callbacks.functional.divergence import (
    DivergenceTerms,
    divergence_bound,
    divergence_terms,
    total_variation_lower_bound,
)
from ggmi_callbacks.functional.diversity import effective_diversity
from ggmi_callbacks.functional.entropy import code_length, gaussian_entropy, knn_entropy, matrix_entropy
from ggmi_callbacks.functional.final_answer import final_answer
from ggmi_callbacks.functional.ggmi import GGMITerms, ggmi, ggmi_terms
from ggmi_callbacks.functional.information_gain import (
    cross_entropy_upper_bound,
    information_gain,
    pointwise_prompt_information,
    prompt_information_upper_bound,
    sampling_log_probs,
)
from ggmi_callbacks.functional.mutual_information import conditional_mutual_information, mutual_information
from ggmi_callbacks.functional.shared_information import SharedInformation, shared_information, sibling_information
from ggmi_callbacks.functional.weight_information import (
    loss_difference_information,
    pointwise_weight_information,
    weight_information,
)

__all__ = [
    "DivergenceTerms",
    "GGMITerms",
    "GGMIUpperBoundTerms",
    "GaussianWeightInformation",
    "Interval",
    "SharedInformation",
    "agreement",
    "bootstrap_interval",
    "code_length",
    "conditional_mutual_information",
    "cross_entropy_upper_bound",
    "divergence_bound",
    "divergence_terms",
    "effective_diversity",
    "embedding_information_gain",
    "error_rate_information",
    "final_answer",
    "gaussian_channel_information_gain",
    "gaussian_entropy",
    "gaussian_ggmi",
    "gaussian_shared_information",
    "gaussian_weight_information",
    "generalization_bound",
    "ggmi",
    "ggmi_terms",
    "ggmi_upper_bound",
    "ggmi_upper_bound_terms",
    "information_gain",
    "knn_entropy",
    "linear_regression_information",
    "loss_difference_information",
    "matrix_entropy",
    "mean_interval",
    "mutual_information",
    "noisy_mean_information",
    "noisy_mean_twin_information",
    "pointwise_prompt_information",
    "pointwise_weight_information",
    "prompt_information_upper_bound",
    "sampling_log_probs",
    "shared_information",
    "sibling_information",
    "synthetic_generalization_bound",
    "table_information_gain",
    "table_shared_information",
    "total_variation_lower_bound",
    "weight_information",
]
