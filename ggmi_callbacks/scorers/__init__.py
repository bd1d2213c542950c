"""Gain of the samples in a live batch: three estimators of one number."""

from ggmi_callbacks.scorers._base import Scorer
from ggmi_callbacks.scorers.gradient import GradientScorer, LookaheadScorer
from ggmi_callbacks.scorers.likelihood import LikelihoodScorer
from ggmi_callbacks.scorers.shadow import Shadow, train_shadow

__all__ = ["GradientScorer", "LikelihoodScorer", "LookaheadScorer", "Scorer", "Shadow", "train_shadow"]
