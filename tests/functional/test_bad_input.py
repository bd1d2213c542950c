"""What every function does alike with input that is no tensor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ggmi_callbacks import functional

X, Y, Z = torch.randn(3, 60, 2, generator=torch.Generator().manual_seed(0))
FIRST, FINAL = X[:, 0].abs() + 1, Y[:, 0].abs()
LOGS = {"log_probs": -X.abs(), "mask": X > 0}
PROMPT = {"conditional_log_probs": -X.abs(), "unconditional_log_probs": -Y.abs(), "mask": X > 0}
LENGTHS = {"first_nll": FIRST, "final_nll": FINAL}
PAIRS = {"anchor_first": FIRST, "anchor_final": FINAL, "synthetic_first": FIRST, "synthetic_final": FINAL}
SETS = {"real": X, "generated": Y, "synthetic": Z}

CALLS: dict[str, dict[str, Any]] = {
    "code_length": LOGS,
    "conditional_mutual_information": {"x": X, "y": Y, "z": Z, "estimator": "ksg"},
    "cross_entropy_upper_bound": LOGS,
    "divergence_bound": SETS,
    "divergence_terms": SETS,
    "effective_diversity": {"x": X},
    "embedding_information_gain": {"prompt": X, "output": Y},
    "gaussian_channel_information_gain": {"noise_covariance": torch.eye(2)},
    "gaussian_entropy": {"x": X},
    "generalization_bound": {"weight_information": torch.tensor(1.0), "n": 10},
    "ggmi": PAIRS,
    "ggmi_terms": {**PAIRS, "anchor_tokens": FIRST.long(), "synthetic_tokens": FIRST.long()},
    "information_gain": LOGS,
    "knn_entropy": {"x": X},
    "linear_regression_information": {"x": X, "s2": 1.0, "t2": 1.0},
    "loss_difference_information": {"held_in": FINAL, "held_out": FIRST},
    "matrix_entropy": {"x": X},
    "mean_interval": {"x": X, "confidence": 0.9},
    "mutual_information": {"x": X, "y": Y, "estimator": "ksg"},
    "pointwise_prompt_information": PROMPT,
    "pointwise_weight_information": LENGTHS,
    "prompt_information_upper_bound": PROMPT,
    "sampling_log_probs": {"logits": X, "tokens": torch.zeros(60, dtype=torch.long)},
    "table_information_gain": {"joint": X.abs(), "code": torch.zeros(60, dtype=torch.long)},
    "table_shared_information": {"joint": X.abs()},
    "total_variation_lower_bound": {"x": X, "y": Y},
    "weight_information": LENGTHS,
}
# Numbers or texts in, or checked with arguments of another kind below.
OTHERS = {
    "agreement",
    "bootstrap_interval",
    "error_rate_information",
    "final_answer",
    "gaussian_ggmi",
    "gaussian_shared_information",
    "gaussian_weight_information",
    "ggmi_upper_bound",
    "ggmi_upper_bound_terms",
    "noisy_mean_information",
    "noisy_mean_twin_information",
    "shared_information",
    "sibling_information",
    "synthetic_generalization_bound",
}


def test_every_function_is_called_here() -> None:
    functions = {name for name in functional.__all__ if not name[0].isupper()}
    assert functions == set(CALLS) | OTHERS


@pytest.mark.parametrize("name", CALLS)
def test_arrays_and_lists_are_refused_by_name_with_the_way_to_a_tensor(name: str) -> None:
    function, arguments = getattr(functional, name), CALLS[name]
    function(**arguments)
    for argument, x in arguments.items():
        if isinstance(x, Tensor):
            for wrong, kind in ((x.numpy(), "ndarray"), (x.tolist(), "list|float")):
                message = rf"`{argument}` to be a torch\.Tensor but got ({kind}); pass torch\.as_tensor\({argument}\)"
                with pytest.raises(TypeError, match=message):
                    function(**{**arguments, argument: wrong})


def test_a_bootstrap_of_arrays_is_refused() -> None:
    with pytest.raises(TypeError, match=r"`samples` to be a torch\.Tensor but got ndarray"):
        functional.bootstrap_interval(torch.mean, X.numpy(), confidence=0.9)


@pytest.mark.parametrize("name", ["information_gain", "cross_entropy_upper_bound", "code_length"])
def test_code_lengths_in_place_of_log_probabilities_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"`log_probs` to be log-probabilities, at most 0, but got .*; negate"):
        getattr(functional, name)(X.abs())


def test_code_lengths_in_place_of_log_probabilities_of_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="`unconditional_log_probs` to be log-probabilities, at most 0"):
        functional.pointwise_prompt_information(-X.abs(), X.abs())


def test_tokens_of_other_positions_than_the_logits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`tokens` to have the shape of `logits` without the vocabulary, \[60\]"):
        functional.sampling_log_probs(X, torch.zeros(59, dtype=torch.long))


def test_a_final_answer_of_something_that_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="`text` to be a string but got list"):
        functional.final_answer([4, 2])
