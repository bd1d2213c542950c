"""What every callback shows of its run: ledger, results, the report page, and a glance in a notebook."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from ggmi_callbacks.engine import SampleEngine
from ggmi_callbacks.engine.ledger import Ledger
from ggmi_callbacks.report.glance import glance


class Results:
    """The results of :attr:`engine`, the engine of the present or the last run."""

    engine: Any

    @property
    def ledger(self) -> Ledger:
        """Table of step, id, source, gain, weight, kept and nll; see :class:`~ggmi_callbacks.Ledger`."""
        return self.engine.ledger

    def results(self) -> dict[str, Any]:
        """Return the numbers of the run, the estimators behind them and the shadow's cost."""
        return self.engine.results()

    @property
    def texts(self) -> Any:
        """Texts of the training set by sample id, for the report; None if they cannot be had."""
        return None

    def report(self, path: str | PathLike[str], *, texts: Any = None, title: str | None = None) -> Path:
        """Write the run as one self-contained page; see :func:`ggmi_callbacks.report.report`.

        Args:
            path: where the page goes.
            texts: rows by sample id, in place of the training set's own texts.
            title: heading of the page.

        """
        from ggmi_callbacks.report import report

        return report(self, path, texts=texts, **({} if title is None else {"title": title}))

    def _repr_html_(self) -> str:
        """The verdict and the key numbers, for notebooks."""
        engine: SampleEngine | None = getattr(self, "_engine", None)
        ready = engine is not None and engine.prepared
        return glance(self) if ready else f"<p>{type(self).__name__}: there are no results before training.</p>"
