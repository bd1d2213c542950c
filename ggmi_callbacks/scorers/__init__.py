"""Gain of the samples in a live batch: three estimators of one number, other counts, and all of them together."""

from ggmi_callbacks.scorers._base import Score, Scorer, TokenScorer, Unscored
from ggmi_callbacks.scorers._data import DataScorer
from ggmi_callbacks.scorers.agreement import AgreementScorer
from ggmi_callbacks.scorers.column import ColumnScorer
from ggmi_callbacks.scorers.distinct import DistinctScorer
from ggmi_callbacks.scorers.file import FileScorer
from ggmi_callbacks.scorers.gradient import GradientScorer, LookaheadScorer
from ggmi_callbacks.scorers.joint import JointScorer
from ggmi_callbacks.scorers.likelihood import LikelihoodScorer
from ggmi_callbacks.scorers.pair import PairScorer
from ggmi_callbacks.scorers.prompt import PromptInformationScorer
from ggmi_callbacks.scorers.sibling import SiblingScorer
from ggmi_callbacks.scorers.similarity import SimilarityScorer

__all__ = [
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
    "Score",
    "Scorer",
    "SiblingScorer",
    "SimilarityScorer",
    "TokenScorer",
    "Unscored",
]
