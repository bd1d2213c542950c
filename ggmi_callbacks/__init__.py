"""Generalisation gain via mutual information: what synthetic data teaches, measured and acted upon.

Metrics (:mod:`ggmi_callbacks.metrics`, stateless twins in :mod:`ggmi_callbacks.functional`) are in nats. Callbacks
are in :mod:`ggmi_callbacks.integrations`, one module a trainer, on one engine, :class:`GainEngine`.

Names are imported when they are first asked for (PEP 562): torchmetrics takes seconds, and the command line, which has
no use for it, should not wait.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ggmi_callbacks import functional, metrics
    from ggmi_callbacks.config import GGMIConfig
    from ggmi_callbacks.data import CarryIds, Numbered
    from ggmi_callbacks.engine import GainEngine, GainSampler, Ledger, Refill, SampleEngine, SourceLoss
    from ggmi_callbacks.metrics import (
        GGMI,
        CodeLength,
        ConditionalMutualInformation,
        DivergenceBound,
        EffectiveDiversity,
        Gain,
        GaussianEntropy,
        GeneralizationBound,
        GGMIUpperBound,
        InformationGain,
        KNNEntropy,
        MatrixEntropy,
        MutualInformation,
        WeightInformation,
    )
    from ggmi_callbacks.policies import Filter, Monitor, Policy, Reweight
    from ggmi_callbacks.scorers import (
        AgreementScorer,
        ColumnScorer,
        DataScorer,
        DistinctScorer,
        FileScorer,
        GradientScorer,
        JointScorer,
        LikelihoodScorer,
        LookaheadScorer,
        PromptInformationScorer,
        Scorer,
        SiblingScorer,
        SimilarityScorer,
        TokenScorer,
    )
    from ggmi_callbacks.scoring import GainColumns, score
    from ggmi_callbacks.tasks import CausalLM, SampleLoss, Task
    from ggmi_callbacks.weighting.attach import attach

_NAMES = {
    "config": ["GGMIConfig"],
    "data": ["CarryIds", "Numbered"],
    "engine": ["GainEngine", "GainSampler", "Ledger", "Refill", "SampleEngine", "SourceLoss"],
    "policies": ["Filter", "Monitor", "Policy", "Reweight"],
    "scorers": [
        "AgreementScorer",
        "ColumnScorer",
        "DataScorer",
        "DistinctScorer",
        "FileScorer",
        "GradientScorer",
        "JointScorer",
        "LikelihoodScorer",
        "LookaheadScorer",
        "PairScorer",
        "PromptInformationScorer",
        "Scorer",
        "SiblingScorer",
        "SimilarityScorer",
        "TokenScorer",
    ],
    "scoring": ["GainColumns", "score"],
    "tasks": ["CausalLM", "PairedCausalLM", "PairedReward", "SampleLoss", "Task"],
    "weighting.attach": ["attach"],
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}  # of all but the metrics

__version__ = "0.1.0"
__all__ = [
    "GGMI",
    "AgreementScorer",
    "CarryIds",
    "CausalLM",
    "CodeLength",
    "ColumnScorer",
    "ConditionalMutualInformation",
    "DataScorer",
    "DistinctScorer",
    "DivergenceBound",
    "EffectiveDiversity",
    "FileScorer",
    "Filter",
    "GGMIConfig",
    "GGMIUpperBound",
    "Gain",
    "GainColumns",
    "GainEngine",
    "GainSampler",
    "GaussianEntropy",
    "GeneralizationBound",
    "GradientScorer",
    "InformationGain",
    "JointScorer",
    "KNNEntropy",
    "Ledger",
    "LikelihoodScorer",
    "LookaheadScorer",
    "MatrixEntropy",
    "Monitor",
    "MutualInformation",
    "Numbered",
    "PairScorer",
    "PairedCausalLM",
    "PairedReward",
    "Policy",
    "PromptInformationScorer",
    "Refill",
    "Reweight",
    "SampleEngine",
    "SampleLoss",
    "Scorer",
    "SiblingScorer",
    "SimilarityScorer",
    "SourceLoss",
    "Task",
    "TokenScorer",
    "WeightInformation",
    "attach",
    "functional",
    "metrics",
    "score",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if not name.startswith("_") and find_spec(f"{__name__}.{name}"):
            return import_module(f"{__name__}.{name}")
        if name in __all__:
            return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'metrics')}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
