"""A model and a tokenizer of Hugging Face by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ggmi_callbacks._extras import extra


def load_model(name: str, dtype: torch.dtype | None) -> nn.Module:
    """The causal language model in a folder or on the hub, with weights in ``dtype``; None for the checkpoint's own.

    Raises:
        ValueError: if there is none.

    """
    with extra("transformers", f"Loading the model {name!r}"):
        from transformers import AutoModelForCausalLM
    try:
        return AutoModelForCausalLM.from_pretrained(name, dtype=dtype or "auto")
    except (OSError, ValueError) as error:
        raise ValueError(f"`model` {name!r} cannot be loaded as a causal language model: {error}") from error


def load_tokenizer(name: str) -> Any:
    """The tokenizer in a folder or on the hub.

    Raises:
        ValueError: if there is none.

    """
    with extra("transformers", f"Loading the tokenizer {name!r}"):
        from transformers import AutoTokenizer
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"`tokenizer` {name!r} cannot be loaded: {error}") from error
