"""Both verifications from end to end: run, table, picture and findings.

What an extra brings along is imported first of all: where it is missing, nothing is run in vain.
"""

from __future__ import annotations

import time
from pathlib import Path

from ggmi_callbacks.verification import language_report
from ggmi_callbacks.verification.findings import report
from ggmi_callbacks.verification.language_models import LanguageDesign, language_study
from ggmi_callbacks.verification.panels import PANELS, Design, gaussian_worlds, sweep, write_csv
from ggmi_callbacks.verification.parallel import one_thread


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
    from ggmi_callbacks.verification.plot import plot

    if timed:
        from ggmi_callbacks.verification.baseline import time_baselines
    start = time.perf_counter()
    points = sweep(design, progress=progress)
    call = (time.perf_counter() - start) / (len(PANELS) * len(design.values) * design.repeats)
    points += gaussian_worlds(design)
    timing = str(time_baselines(design, call, panels=timed)) if timed else "Baselines were not timed."
    output.mkdir(parents=True, exist_ok=True)
    write_csv(points, output / "verification.csv")
    plot(points, output / "verification.png")
    text = f"{report(points)}\n\n{timing}\n"
    (output / "verification.md").write_text(text)
    return text


def verify_language(design: LanguageDesign, output: Path, *, progress: bool = True) -> str:
    """Run the study and write ``language.csv``, ``language.png`` and ``language.md``.

    Args:
        design: sizes and seed.
        output: folder for the three files; made where it is missing.
        progress: show progress bars.

    Returns:
        The findings, as written to ``language.md``.
    """
    from ggmi_callbacks.verification.language_plot import plot

    with one_thread():  # the tables are small
        outcomes = language_study(design, progress=progress)
    output.mkdir(parents=True, exist_ok=True)
    language_report.write_csv(outcomes, output / "language.csv")
    plot(outcomes, output / "language.png")
    text = language_report.report(outcomes)
    (output / "language.md").write_text(text + "\n")
    return text
