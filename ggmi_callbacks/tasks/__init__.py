"""What a sample is: where the samples of a batch are, and how likely a model finds each."""

from ggmi_callbacks.tasks.base import GAIN_KEY, IGNORE, SAMPLE_KEY, Inputs, Layout, Task
from ggmi_callbacks.tasks.causal_lm import CausalLM, target_log_probs
from ggmi_callbacks.tasks.pairs import PairedCausalLM, PairedReward, Pairs, chosen_side
from ggmi_callbacks.tasks.per_sample import BATCH_KEY, SampleLoss, unwrap_batch, wrap_batch

__all__ = [
    "BATCH_KEY",
    "GAIN_KEY",
    "IGNORE",
    "SAMPLE_KEY",
    "CausalLM",
    "Inputs",
    "Layout",
    "PairedCausalLM",
    "PairedReward",
    "Pairs",
    "SampleLoss",
    "Task",
    "chosen_side",
    "target_log_probs",
    "unwrap_batch",
    "wrap_batch",
]
