"""What a callback is given, refused in plain words: the argument, the value and the way out."""

from __future__ import annotations

from typing import Any

from torch import nn

from ggmi_callbacks.integrations import _compat
from ggmi_callbacks.policies import Policy
from ggmi_callbacks.scorers import Scorer

_SUPPORTED = (
    "GGMI knows `transformers.Trainer` (`ggmi_callbacks.integrations.transformers`) and TRL's `SFTTrainer`, "
    "`DPOTrainer`, `RewardTrainer`, `GRPOTrainer` and `RLOOTrainer` (`ggmi_callbacks.integrations.trl`)"
)


def check_trainer(trainer: Any, wanted: type) -> None:
    """Raise TypeError unless ``trainer`` is a built ``wanted`` whose loss is that of its class."""
    name = wanted.__name__
    stranger = _trl_class(type(trainer), wanted)
    if stranger in _compat.OF_TRL:
        raise TypeError(
            f"`trainer` is a {type(trainer).__name__}, of TRL: use the callback for it, "
            "`from ggmi_callbacks.integrations.trl import GGMICallback`."
        )
    if stranger is not None:
        raise TypeError(
            f"`trainer` is a {type(trainer).__name__}, and the loss of {stranger} is no sum over the tokens of samples "
            f"that could be scored one by one. {_SUPPORTED}."
        )
    if not isinstance(trainer, wanted):
        raise TypeError(
            f"`trainer` must be the {name} that will train, got {type(trainer).__name__}. A callback handed over "
            "before the trainer exists can reach neither its data nor its log. Write\n\n"
            f"    trainer = {name}(...)\n"
            "    trainer.add_callback(GGMICallback(trainer, anchors=..., policy=...))\n"
            f"    trainer.train()\n\n{_SUPPORTED}."
        )


def check_policy(policy: Any) -> None:
    """Raise TypeError unless ``policy`` is a policy."""
    _check_instance("policy", policy, Policy, "Monitor(), Filter() or Reweight()")


def check_scorer(scorer: Any) -> None:
    """Raise TypeError unless ``scorer`` is a scorer."""
    _check_instance("scorer", scorer, Scorer, "LikelihoodScorer() or GradientScorer()")


def check_without_anchors(way: str, listens: bool, scorer: Any, policy: Policy, heldout: Any) -> None:
    """Raise ValueError where without ``anchors`` there is nothing to do, or nothing to compare with.

    Args:
        way: argument that asks for losses by source.
        listens: whether it was given.
        scorer: the callback's.
        policy: the callback's.
        heldout: the callback's.

    """
    if not listens and scorer is None and not policy.acts:
        raise ValueError(
            "`anchors` are missing: give a few dozen real examples of the task, `anchors=human`. Without any, "
            f"`{way}` logs losses by source, and a policy may act on what a scorer reads off the training "
            "set, `policy=Filter(), scorer=ColumnScorer('reward')`."
        )
    if heldout is not None:
        raise ValueError(
            "`heldout` samples serve comparisons with `anchors`, and there are none: give both, or neither."
        )


def check_rate(rate: float | None) -> None:
    """Raise ValueError unless ``rate`` is a learning rate that teaches a shadow something."""
    if rate is not None and not rate > 0:
        raise ValueError(
            f"`shadow_learning_rate` must be positive, got {rate}: a shadow that learns nothing gives every sample a "
            "gain of zero. Leave it out for the trainer's own."
        )


def check_model(model: nn.Module) -> None:
    """Raise ValueError where ``model`` is no language model at all, or can learn nothing."""
    if not hasattr(model, "get_input_embeddings"):
        raise ValueError(
            f"`model` ({type(model).__name__}) is no language model of Hugging Face (it has no "
            "`get_input_embeddings`), so its samples have no code length that the trainer could tell. Train it in a "
            "loop with `GainEngine(model, anchors, task=SampleLoss(loss))`, see `ggmi_callbacks.integrations.loop`."
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"`model` ({type(model).__name__}) is frozen: none of its parameters requires a gradient, so neither it "
            "nor a shadow can learn. Unfreeze some, or add an adapter."
        )


def check_setup(trainer: Any, policy: Policy) -> None:
    """Raise ValueError where the model is spread, or its loss is beyond the reach of weights."""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError("FSDP and DeepSpeed shard the model, which the probe reads whole: use DDP.")
    if trainer.args.n_gpu > 1:
        raise ValueError("`nn.DataParallel` is not supported: launch with `accelerate launch` or `torchrun`.")
    if policy.acts and trainer.compute_loss_func is not None:
        raise ValueError(
            f"`compute_loss_func` with {type(policy).__name__}: a loss of your own may not be a sum over tokens."
        )


def _check_instance(name: str, value: Any, kind: type, examples: str) -> None:
    if isinstance(value, kind):
        return
    if isinstance(value, type) and issubclass(value, kind):
        raise TypeError(f"`{name}` is the class {value.__name__}: make one, `{name}={value.__name__}()`.")
    raise TypeError(f"`{name}` must be a {kind.__name__} such as {examples}, got {value!r}.")


def _trl_class(kind: type, wanted: type) -> str | None:
    """Name of the first class of TRL that ``kind`` has beyond ``wanted``."""
    known = wanted.__mro__
    return next((c.__name__ for c in kind.__mro__ if c.__module__.split(".")[0] == "trl" and c not in known), None)
