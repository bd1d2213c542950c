"""Scores of a whole data set before any training, at the speed of inference."""

from ggmi_callbacks.scoring.columns import GainColumns
from ggmi_callbacks.scoring.run import score
from ggmi_callbacks.scoring.select import select
from ggmi_callbacks.scoring.summary import by_source

__all__ = ["GainColumns", "by_source", "score", "select"]
