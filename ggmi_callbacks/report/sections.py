"""What stands in each section of the page, ready for its template."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ggmi_callbacks.engine.ledger_view import Bools, Floats, Mean, Samples
from ggmi_callbacks.report.charts import Axis, ranks
from ggmi_callbacks.report.numbers import number, percent, seconds
from ggmi_callbacks.report.words import meaning

_FORMS = {"": "GGMI", "_mixture": "GGMI from code lengths"}

_MIXTURE = (
    "Above zero, training on this data stores less than training on the anchors would; in this form what is learned of "
    "the task and what is memorised of the sample count together."
)
_TWINS = (
    "Above zero, training on this data stores less that is special to its sample than training on the anchors would; "
    "each term is a lower bound."
)


def of_key(results: Mapping[str, Any], key: str, per: float = 1.0) -> Mean | None:
    """The number ``ggmi/<key>`` with its interval, divided by ``per``; None if it was not measured."""
    value = results.get(f"ggmi/{key}")
    if value is None or not math.isfinite(value):
        return None
    low, high = (results.get(f"ggmi/{key}{end}", math.nan) for end in ("_low", "_high"))
    return Mean(value / per, low / per, high / per, 1)


@dataclass(frozen=True)
class Term:
    """A row of a table of quantities."""

    name: str
    mean: Mean
    note: str = ""


@dataclass(frozen=True)
class Form:
    """GGMI in one of its forms."""

    title: str
    estimator: str
    note: str
    """What a value above zero says in this form."""
    terms: list[Term]
    """Per sample, to be drawn on one scale."""
    others: list[Term]
    axis: Axis


def ggmi_forms(results: Mapping[str, Any]) -> list[Form]:
    """GGMI with its two terms, once for each form that was measured."""
    return [form for suffix in _FORMS if (form := _form(results, suffix)) is not None]


def _form(results: Mapping[str, Any], suffix: str) -> Form | None:
    total = of_key(results, f"ggmi{suffix}")
    if total is None:
        return None
    terms, others = [], []
    for side, name in (("anchor", "Training on the anchors stores"), ("synthetic", "Training on this data stores")):
        key = f"{side}_information{suffix}"
        count = results.get(f"ggmi/{side}_samples{suffix}", results.get(f"ggmi/{side}_samples"))
        whole = of_key(results, key)
        if whole is not None:
            others.append(Term(f"{name}, in total", whole, f"{number(count)} samples" if count else ""))
        if count and (each := of_key(results, key, per=count)) is not None:
            terms.append(Term(name, each))
    if (each := of_key(results, f"ggmi{suffix}_per_sample")) is not None:
        terms.append(Term("The difference: GGMI", each))
    others.append(Term("GGMI in total", total, "the sets differ in size, so this one is no comparison of their worth"))
    if (token := of_key(results, f"ggmi{suffix}_per_token")) is not None:
        others.append(Term("GGMI per token", token))
    axis = Axis.over(0.0, *(x for t in terms for x in (t.mean.value, t.mean.low, t.mean.high)))
    estimator = (results.get("estimators") or {}).get(f"ggmi{suffix}", "")
    mixture = bool(suffix) or estimator.startswith("mixture")
    return Form(_FORMS[suffix], estimator, _MIXTURE if mixture else _TWINS, terms, others, axis)


def gaps(results: Mapping[str, Any]) -> list[Term]:
    """Numbers that stand beside GGMI, those that were measured."""
    names = {
        "generalization_gap": "Generalisation gap on this data",
        "anchor_gap": "Generalisation gap of training on the anchors",
        "anchor_advantage": "Advantage on anchors",
        "shared_information": "Shared information of answers to one prompt",
        "weight_information": "Information in the weights, from code lengths",
        "information_gain": "Information gain of the generator",
    }
    found = {key: of_key(results, key) for key in names}
    return [Term(names[key], mean, meaning(key)) for key, mean in found.items() if mean is not None]


def of_sources(results: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[Mean]]]]:
    """What was measured of sources beside gain: names of the quantities, and each source with its numbers."""
    names = {"generalization_gap": "Generalisation gap", "shared_information": "Shared information"}
    sources: Mapping[str, Mapping[str, float]] = results.get("sources") or {}
    keys = [key for key in names if any(key in found for found in sources.values())]
    rows = [
        (name, [_of_source(found, key) for key in keys]) for name, found in sources.items() if set(keys) & set(found)
    ]
    return [names[key] for key in keys], rows


def _of_source(found: Mapping[str, float], key: str) -> Mean:
    value, low, high = (found.get(f"{key}{end}", math.nan) for end in ("", "_low", "_high"))
    return Mean(value, low, high, int(key in found))


@dataclass(frozen=True)
class Part:
    """What one of several scores says."""

    name: str
    n: int
    kept: Mean
    dropped: Mean
    tells: float
    """How well it alone tells kept from dropped samples, as an area under the ROC curve."""
    follows: float
    """Rank correlation with the gain."""
    lowest: float
    """Share of dropped samples, of all if none was dropped, that rank lowest on it."""


def lowest_parts(found: Samples) -> list[str | None]:
    """For each sample the score on which it ranks lowest among all; None with fewer than two scores."""
    if len(found.parts) < 2:
        return [None] * len(found)
    names = list(found.parts)
    table = np.stack([np.nan_to_num(ranks(x), nan=np.inf) for x in found.parts.values()])
    place = table.argmin(0)
    return [names[i] if np.isfinite(least) else None for i, least in zip(place, table.min(0), strict=True)]


def parts(found: Samples) -> list[Part]:
    """What each score says of the samples."""
    lowest = np.array(lowest_parts(found), dtype=object)
    out = ~found.kept if (~found.kept).any() else np.ones(len(found), dtype=bool)
    whole = ranks(found.gain)
    return [
        Part(
            name=name,
            n=int(np.isfinite(x).sum()),
            kept=Mean.of(x[found.kept]),
            dropped=Mean.of(x[~found.kept]),
            tells=_auroc(x, found.kept),
            follows=_correlation(ranks(x), whole),
            lowest=float((lowest[out] == name).mean()),
        )
        for name, x in found.parts.items()
    ]


def _auroc(x: Floats, kept: Bools) -> float:
    """P(a kept sample has more than a dropped one), ties half; NaN if there are not both."""
    known = np.isfinite(x)
    n, m = int((known & kept).sum()), int((known & ~kept).sum())
    if not n or not m:
        return math.nan
    place = ranks(x) * (n + m - 1)
    return float((place[known & kept].sum() - n * (n - 1) / 2) / (n * m))


def _correlation(a: Floats, b: Floats) -> float:
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < 2 or not a[known].std() or not b[known].std():
        return math.nan
    return float(np.corrcoef(a[known], b[known])[0, 1])


@dataclass(frozen=True)
class Fact:
    """A number in words, and what it means."""

    name: str
    value: str
    note: str


def cost(results: Mapping[str, Any], found: Samples, coverage: float) -> list[Fact]:
    """What measuring cost, and how much of the data it covers."""
    scored = int(np.isfinite(found.gain).sum())
    facts = [Fact("Scored", f"{percent(coverage)} ({scored:,} of {len(found):,} samples)", meaning("coverage"))]
    if (overhead := results.get("ggmi/overhead")) is not None:
        facts.append(Fact("Overhead", percent(overhead), meaning("overhead")))
    shadow = results.get("shadow") or {}
    if (spent := shadow.get("seconds")) is not None:
        facts.append(Fact("Shadow run", seconds(spent), "Time of the short training on the anchors, spent once."))
    if lengths := shadow.get("heldout_nll"):
        change = f"{number(lengths[0])} to {number(min(lengths))} nats"
        facts.append(
            Fact("Anchors held out", change, "Their code length before the shadow's training and at its best.")
        )
    return facts


def everything(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """All numbers of ``results()`` by key, with their meaning; ends of intervals stand with their value."""
    ends = ("_low", "_high")
    keys = [
        key
        for key, value in results.items()
        if isinstance(value, int | float) and not (key.endswith(ends) and key.rpartition("_")[0] in results)
    ]
    rows = []
    for key in sorted(keys):
        limits: Sequence[Any] = [results.get(f"{key}{end}") for end in ends]
        value = number(float(results[key]))
        if None not in limits:
            value += f" [{number(float(limits[0]))}, {number(float(limits[1]))}]"
        rows.append((key, value, meaning(key)))
    return rows
