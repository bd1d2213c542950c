"""When the engine works: which batches it scores, and when it looks back at past ones."""

from __future__ import annotations

from typing import Any

from ggmi_callbacks.engine.budget import Budget

LOOK_EVERY = 100
"""Steps between looks back in a run without a budget: a look takes about as long as two steps, so 2 % of the run."""

ALWAYS_SCORED = 64
"""The first samples of a run are scored whatever the budget, so that short runs have numbers too."""


class Schedule:
    """Decides by the budget, and without one by steps, so that a resumed run works when an uninterrupted one does.

    Args:
        budget: the account of the engine's time.

    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.scored = 0
        """Samples that were to be scored so far."""
        self._looked_at: int | None = None
        self._look_is_due = False  # a look back that did not fit comes before more scores

    def scores(self, n: int) -> bool:
        """Whether a batch of ``n`` samples is scored now."""
        fits = self.scored < ALWAYS_SCORED or (not self._look_is_due and self.budget.allows("score"))
        self.scored += n * fits
        return fits

    def looks_back(self, step: int) -> bool:
        """Whether past batches are scored again now, at a logging step after ``step``."""
        self._look_is_due = not self.budget.allows("probe", then="twins")
        recent = self._looked_at is not None and step - self._looked_at < LOOK_EVERY
        if self._look_is_due or (self.budget.overhead is None and recent):
            return False
        self._looked_at = step
        return True

    def state_dict(self) -> dict[str, Any]:
        """What has been done so far; the clock itself starts anew."""
        return {"scored": self.scored, "looked_at": self._looked_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`."""
        self.scored, self._looked_at = state["scored"], state["looked_at"]


class Never(Schedule):
    """Scores nothing: of a run that has no scorer."""

    def scores(self, n: int) -> bool:
        """See :meth:`Schedule.scores`."""
        return False
