"""The report page: everything that a run or an offline scoring has found, on one page that needs no network.

from ggmi_callbacks.report import report

report(callback, "gain.html")                            also: callback.report("gain.html")
report("ledger.parquet", "gain.html", texts=rows)        also: ggmi report ledger.parquet --data rows.jsonl
"""

from __future__ import annotations

from ggmi_callbacks.report.page import report

__all__ = ["report"]
