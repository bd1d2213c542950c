"""What scores cannot be joined, refused in plain words: the argument, the value and the way out."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from ggmi_callbacks._extras import extra
from ggmi_callbacks.scorers._base import Scorer
from ggmi_callbacks.scorers.distinct import DistinctScorer
from ggmi_callbacks.scorers.sibling import SiblingScorer


def check_scorers(scorers: Sequence[Scorer]) -> None:
    """Raise if there are none, or some whose scale would be stale at once."""
    if not scorers:
        raise ValueError("`scorers` must name at least one.")
    if live := [type(s).__name__ for s in scorers if not s.static]:
        raise ValueError(f"`scorers` must be static, and {', '.join(live)} change with the weights.")


def check_rule(scorers: Sequence[Scorer], tolerance: float | None, combine: str, zero: str) -> None:
    """Raise if scores cannot be combined so, or be taken from ``zero``."""
    if combine not in ("least", "sum"):
        raise ValueError(f"`combine` must be 'least' or 'sum', got {combine!r}.")
    if zero not in ("anchors", "own"):
        raise ValueError(f"`zero` must be 'anchors' or 'own', got {zero!r}.")
    if zero == "own" and tolerance is not None:
        raise ValueError(f"`tolerance` counts from the anchors; with zero='own' leave it out, got {tolerance}.")
    if any(isinstance(scorer, SiblingScorer) for scorer in scorers):
        raise ValueError(
            "`scorers`: anchors have no siblings in the training set, so they give SiblingScorer no scale: join it by "
            "`label=`, or use it alone."
        )
    if zero == "own" and any(isinstance(scorer, DistinctScorer) for scorer in scorers):
        raise ValueError(
            "`scorers`: no DistinctScorer exceeds its own zero, so nothing would pass; use zero='anchors'."
        )


def check_label(label: str, scorers: Sequence[Scorer], has_rule: bool) -> None:
    """Raise if scores cannot be joined by the column ``label``; ``has_rule``: whether they are told how else."""
    if has_rule:
        raise ValueError(
            f"`label={label!r}` finds weights and zero itself: leave out `tolerance`, `combine` and `zero`, or `label`."
        )
    if label in [scorer.name for scorer in scorers]:
        raise ValueError(f"`label` {label!r} is what one of the `scorers` reads: leave that scorer out.")
    with extra("labels", "JointScorer(label=...)"):
        import_module("sklearn.linear_model")
