"""Generalisation gain via mutual information: what synthetic data teaches, measured and acted upon.

Metrics (:mod:`ggmi_callbacks.metrics`, stateless twins in :mod:`ggmi_callbacks.functional`) are in nats. Callbacks
are in :mod:`ggmi_callbacks.integrations`, one module a trainer, on one engine, :class:`GainEngine`.
"""

from ggmi_callbacks import functional, metrics
from ggmi_callbacks.engine import GainEngine
from ggmi_callbacks.ledger import Ledger
from ggmi_callbacks.metrics import *  # noqa: F403
from ggmi_callbacks.policies import Filter, Monitor, Policy, Reweight
from ggmi_callbacks.sample_loss import SampleLoss
from ggmi_callbacks.samples import CarryIds, Numbered
from ggmi_callbacks.scorers import GradientScorer, LikelihoodScorer, LookaheadScorer, Scorer
from ggmi_callbacks.tasks import CausalLM, Task

__version__ = "0.1.0"
__all__ = [
    "CarryIds",
    "CausalLM",
    "Filter",
    "GainEngine",
    "GradientScorer",
    "Ledger",
    "LikelihoodScorer",
    "LookaheadScorer",
    "Monitor",
    "Numbered",
    "Policy",
    "Reweight",
    "SampleLoss",
    "Scorer",
    "Task",
    "functional",
    "metrics",
    *metrics.__all__,
]
