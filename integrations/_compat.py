"""Every private name of transformers and TRL that the integrations rest on, with the version it was read in.

Whoever touches another one puts it here: :func:`check` then says which has gone before anything fails obscurely.
"""

from __future__ import annotations

import inspect
from typing import Any

import transformers
from torch import Tensor

READ_IN = {"transformers": "5.23.0", "trl": "1.16.0"}
"""Versions in which the names below were read."""

LOOP = "_inner_training_loop"
"""Method of ``Trainer``: one attempt to train, called by ``train`` and again by ``auto_find_batch_size``."""

COLUMNS = "_signature_columns"
"""Attribute of ``Trainer``: columns that reach the collator, or None before they were asked for."""

EVAL_LOADERS = "_eval_dataloaders"
"""Attribute of ``Trainer``, if any: loaders of evaluation sets that it keeps where their workers persist."""

TRAINER = (
    LOOP,
    COLUMNS,
    "_train_batch_size",
    "_set_signature_columns_if_needed",
    "_remove_unused_columns",
    "_save_checkpoint",  # calls save_model(folder, _internal_call=True) first and removes old checkpoints last
)
ROLLOUTS = ("_generate_and_score_completions", "_calculate_rewards", "_compute_loss")
"""Methods of ``GRPOTrainer`` and ``RLOOTrainer``: sample answers, reward them, and the loss of a micro-batch."""
_OF_ROLLOUTS = (*ROLLOUTS, "_tokenize_prompts", "num_generations", "reward_weights", "aux_loss_enabled")
OF_TRL = {
    "SFTTrainer": ("_prepare_dataset", "_formatting_func", "_is_vision_dataset", "_skip_prepare_dataset"),
    "DPOTrainer": ("_prepare_dataset", "_is_vision_dataset"),
    "RewardTrainer": ("_prepare_dataset",),
    "GRPOTrainer": _OF_ROLLOUTS,
    "RLOOTrainer": _OF_ROLLOUTS,
}
"""Of each trainer of TRL that has a callback."""
HANDLER = ("callbacks", "remove_callback", "pop_callback")  # of trainer.callback_handler


def check(trainer: Any) -> None:
    """Raise if ``trainer`` lacks a private name that the integrations rest on.

    Raises:
        RuntimeError: naming what has gone and the versions that have it.

    """
    of_trl = [name for kind in type(trainer).__mro__ for name in OF_TRL.get(kind.__name__, ())]
    owners: list[tuple[Any, tuple[str, ...]]] = [(trainer, (*TRAINER, *of_trl))]
    owners.append((trainer.callback_handler, HANDLER))
    gone = [f"{type(owner).__name__}.{name}" for owner, names in owners for name in names if not hasattr(owner, name)]
    if gone:
        raise RuntimeError(
            f"transformers {transformers.__version__} (or the TRL beside it) has no {', '.join(gone)}, which "
            f"GGMICallback rests on; they were read in {READ_IN}: install these, or report the newer version."
        )


def batch_size(trainer: Any) -> int:
    """Rows in a batch of one device, as ``auto_find_batch_size`` has them now."""
    return trainer._train_batch_size


def forget_eval_loaders(trainer: Any) -> None:
    """Have the trainer make loaders of its evaluation sets anew."""
    vars(trainer).pop(EVAL_LOADERS, None)


def signature_columns(trainer: Any) -> list[str]:
    """Columns that the trainer lets through to its collator, found without leaving a trace in it."""
    before = trainer._signature_columns
    trainer._set_signature_columns_if_needed()
    columns, trainer._signature_columns = trainer._signature_columns, before
    return columns


def used_columns(trainer: Any, data: Any, name: str) -> Any:
    """``data`` (a ``datasets.Dataset``) without the columns that never reach the collator."""
    before = trainer._signature_columns
    try:
        return trainer._remove_unused_columns(data, description=name)
    finally:
        trainer._signature_columns = before


def smooths_mean(trainer: Any) -> bool:
    """Whether the loss is the label smoother's mean over a micro-batch, whatever ``num_items_in_batch``.

    So it is before transformers 5.15 (read in 4.56.2); DFT in TRL makes no use of the smoother.
    """
    smoother = trainer.label_smoother
    if smoother is None or getattr(trainer.args, "loss_type", "nll") != "nll":
        return False
    return "num_items_in_batch" not in inspect.signature(smoother).parameters


def sft_prepare(trainer: Any, data: Any, args: Any, name: str) -> Any:
    """``SFTTrainer``'s own preprocessing of ``data``, without packing."""
    return trainer._prepare_dataset(data, trainer.processing_class, args, False, trainer._formatting_func, name)


def prepare_pairs(trainer: Any, data: Any, name: str) -> Any:
    """Preprocessing of ``data`` by a ``DPOTrainer`` or a ``RewardTrainer``."""
    return trainer._prepare_dataset(data, trainer.processing_class, trainer.args, name)


def sees_images(trainer: Any) -> bool:
    """Whether a ``DPOTrainer`` takes images."""
    return trainer._is_vision_dataset


def sft_skips_preparation(trainer: Any) -> bool:
    """Whether an ``SFTTrainer`` takes its data as they are, images among them."""
    return trainer._is_vision_dataset or trainer._skip_prepare_dataset


def signals(trainer: Any, rewards: Tensor) -> Tensor:
    """Rewards [n, k] of answers, in any of which a spread within a group moves the model; NaN where there are none.

    The weighted sum, or each reward where every one is normalised by itself; KL penalties do not count.
    """
    if getattr(trainer, "multi_objective_aggregation", "sum_then_normalize") == "normalize_then_sum":
        return rewards
    total = (rewards * trainer.reward_weights.to(rewards.device)).nansum(1, keepdim=True)
    return total.masked_fill(rewards.isnan().all(1, keepdim=True), float("nan"))


def beyond_text(trainer: Any) -> str | None:
    """What a trainer of rollouts does with more than prompts and answers in text; None if nothing."""
    if getattr(trainer, "_is_vlm", False):
        return "images"
    if getattr(trainer, "tools", None):
        return "`tools`"
    return "environments" if getattr(trainer, "environment_factories", None) else None


def shared_term(trainer: Any) -> str | None:
    """A term of the loss of rollouts, or a mask in it, that is taken over all answers of a batch; None if none is."""
    if trainer.aux_loss_enabled:
        return "`router_aux_loss_coef`"
    if getattr(trainer, "_entropy_bonus_enabled", False):
        return "`entropy_coef`"
    return "`top_entropy_quantile` below 1" if getattr(trainer, "top_entropy_quantile", 1.0) < 1.0 else None


def prompt_and_completion(trainer: Any, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Token ids of a row's prompt, as a trainer of rollouts tokenises it, and of its completion with its end."""
    prompt, completion = row["prompt"], row["completion"]
    tokenizer = trainer.processing_class
    ids = list(trainer._tokenize_prompts([prompt])[0][0])
    if isinstance(prompt, str):
        return ids, [*tokenizer(text=completion, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    settings = {"chat_template": getattr(trainer, "chat_template", None), **trainer.chat_template_kwargs}
    whole = tokenizer.apply_chat_template([*prompt, *completion], tokenize=True, return_dict=True, **settings)
    return ids, list(whole["input_ids"])[len(ids) :]
