"""The whole mixture verification: sweep, companion in closed form, timings, table, picture and findings."""

from __future__ import annotations

import time
from pathlib import Path

from ggmi_callbacks.verification.findings import report
from ggmi_callbacks.verification.panels import PANELS, Design, gaussian_worlds, sweep, write_csv
from ggmi_callbacks.verification.plot import plot


def verify(design: Design, output: Path, *, timed: str = "KJL", progress: bool = True) -> str:
    """Run the verification and write ``verification.csv``, ``verification.png`` and ``verification.md``.

    Args:
        design: sizes and seed.
        output: folder for the three files; made where it is missing.
        timed: panels on whose middle setting the baselines are timed; none if it is empty.
        progress: show a progress bar.

    Returns:
        The findings and timings, as written to ``verification.md`` (the timings are the only part that the seed does
        not determine).
    """
    start = time.perf_counter()
    points = sweep(design, progress=progress)
    call = (time.perf_counter() - start) / (len(PANELS) * len(design.values) * design.repeats)
    points += gaussian_worlds(design)
    timing = _timing(design, call, timed)
    output.mkdir(parents=True, exist_ok=True)
    write_csv(points, output / "verification.csv")
    plot(points, output / "verification.png")
    text = f"{report(points)}\n\n{timing}\n"
    (output / "verification.md").write_text(text)
    return text


def _timing(design: Design, call: float, panels: str) -> str:
    if not panels:
        return "Baselines were not timed."
    from ggmi_callbacks.verification.baseline import time_baselines  # and with it scikit-learn's mixtures

    return str(time_baselines(design, call, panels=panels))
