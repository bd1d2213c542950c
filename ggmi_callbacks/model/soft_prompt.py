"""Soft prompts of PEFT: virtual tokens that a model puts before each row.

Prompt tuning and its kin embed V virtual tokens and return outputs for V + T positions of a row of T tokens. Everything
else here counts the tokens of the batch, so the first V outputs are taken off again. Prefix tuning holds its virtual
tokens as keys and values and returns T outputs. Neither keeps the segments of a packed row apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

_AS_KEYS_AND_VALUES = ("PREFIX_TUNING", "CARTRIDGE")  # kinds of PEFT that return no outputs for virtual tokens
_PER_TOKEN = ("logits", "log_probs")  # outputs that a task reads: Hugging Face's and those of TRL's fused head


@contextmanager
def own_tokens(model: nn.Module) -> Iterator[None]:
    """Inside, a model with a soft prompt returns outputs for the tokens that it was given, and for no others.

    PEFT takes no position ids under prompt tuning, so they are left out: what is masked in a row, padding on the left
    or a prompt, still stands between the virtual tokens and the sample.

    Raises:
        ValueError: in the forward, if the batch is packed or its attention mask is not [B, T].

    """
    config = getattr(model, "active_peft_config", None)
    if config is None or not config.is_prompt_learning:
        yield
        return
    extra = 0 if str(config.peft_type.value) in _AS_KEYS_AND_VALUES else config.num_virtual_tokens

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        _refuse(config, kwargs)
        if not extra:
            return args, kwargs
        kwargs = {key: value for key, value in kwargs.items() if key != "position_ids"}
        if isinstance(kept := kwargs.get("logits_to_keep"), Tensor):
            kwargs["logits_to_keep"] = kept + extra
        return args, kwargs

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        for name in _PER_TOKEN if extra else ():
            chosen = name == "logits" and kwargs.get("logits_to_keep") is not None
            if not chosen and (values := getattr(output, name, None)) is not None:
                setattr(output, name, values[:, extra:])

    handles = [
        model.register_forward_pre_hook(before, with_kwargs=True),
        model.register_forward_hook(after, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _refuse(config: Any, inputs: dict[str, Any]) -> None:
    mask = inputs.get("attention_mask")
    if mask is None and inputs.get("position_ids") is not None:
        raise ValueError(
            f"packed rows under PEFT's {config.peft_type.value}: the virtual tokens make its samples see each other. "
            "Train on padded rows (`packing=False`, `padding_free=False`), or use LoRA."
        )
    if mask is not None and mask.dim() != 2:
        raise ValueError(
            f"`attention_mask` must be [B, T] under PEFT's {config.peft_type.value}, which puts virtual tokens before "
            f"each row, got {tuple(mask.shape)}."
        )
