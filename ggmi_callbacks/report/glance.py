"""A run at a glance: the verdict and the key numbers, for a notebook."""

from __future__ import annotations

from html import escape
from typing import Any

from ggmi_callbacks.engine.ledger_view import Mean, by_source, samples
from ggmi_callbacks.report.numbers import interval, percent
from ggmi_callbacks.report.sections import of_key
from ggmi_callbacks.report.words import alarms, meaning, unit_of, verdict


def glance(run: Any) -> str:
    """HTML of the verdict, the alarms and the key numbers of a callback."""
    results, found = run.results(), samples(run.ledger.table)
    gain, acted = Mean.of(found.gain), bool((~found.kept).any())
    coverage = results.get("ggmi/coverage", 1.0)
    said = verdict(results, gain, by_source(found), acted, unit_of(run.engine.scorer))
    keys = {"gain": gain, "ggmi_per_sample": of_key(results, "ggmi_per_sample")}
    rows = [(key, interval(mean)) for key, mean in keys.items() if mean is not None]
    rows += [
        (key, percent(results[f"ggmi/{key}"])) for key in ("kept", "coverage", "overhead") if f"ggmi/{key}" in results
    ]
    body = "".join(
        f'<tr><th scope="row"><code>ggmi/{key}</code></th><td>{value}</td><td>{escape(meaning(key))}</td></tr>'
        for key, value in rows
    )
    warned = "".join(f"<p><strong>Alarm:</strong> {escape(text)}</p>" for text in alarms(results, coverage))
    return f"<p>{escape(said)}</p>{warned}<table><tbody>{body}</tbody></table>"
