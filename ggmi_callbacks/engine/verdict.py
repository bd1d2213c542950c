"""One sentence that says what the numbers of a run say, made from their intervals."""

from __future__ import annotations

from collections.abc import Mapping

from ggmi_callbacks.engine.by_source import Report

Bounds = tuple[float, float, float]  # value, low, high


def verdict(numbers: Mapping[str, float], anchors: int, improved: bool, sources: Report) -> str:
    """What the synthetic data taught and what was memorised of them, as far as intervals of 95 % tell.

    Args:
        numbers: of the run, as logged.
        anchors: how many anchors were given.
        improved: whether these taught the shadow anything.
        sources: see :func:`~ggmi_callbacks.engine.by_source.by_source`.

    Example:
        >>> bounds = {"": 0.21, "_low": 0.18, "_high": 0.24}
        >>> numbers = {f"ggmi/anchor_advantage{end}": value for end, value in bounds.items()}
        >>> verdict(numbers, anchors=128, improved=True, sources={})  # doctest: +ELLIPSIS
        'The synthetic data taught the task more than the 128 anchors could: +0.210 [+0.180, +0.240] nats per token; ...

    """
    parts = [_taught(_bounds(numbers, "anchor_advantage"), anchors), _memorised(numbers)]
    if not improved:
        parts.append("the anchors themselves taught the shadow nothing that can be told from chance")
    below = {name: found for name, found in sources.items() if found.get("gain_high", 0.0) < 0}
    if below:
        gains = ", ".join(f"{name} ({_show((f['gain'], f['gain_low'], f['gain_high']))})" for name, f in below.items())
        parts.append(f"the gain lies below zero for {gains}, Bonferroni over {len(sources)} sources")
    return "; ".join(parts) + "."


def _taught(advantage: Bounds | None, anchors: int) -> str:
    if advantage is None:
        return "How much of the task the synthetic data taught is not known yet"
    _, low, high = advantage
    found = f"{_show(advantage)} nats per token"
    if low <= 0 <= high:
        return f"Whether the synthetic data taught the task more than the {anchors} anchors could is open: {found}"
    return (
        f"The synthetic data taught the task {'more' if low > 0 else 'less'} than the {anchors} anchors could: {found}"
    )


def _memorised(numbers: Mapping[str, float]) -> str:
    """Compare the two gaps; they come from two runs, so their errors add as squares."""
    gap, anchors = _bounds(numbers, "generalization_gap"), _bounds(numbers, "anchor_gap")
    if gap is None or anchors is None:
        return "what was memorised of them is not known, for want of samples that were not trained on (`heldout=0.02`)"
    difference = anchors[0] - gap[0]
    error = ((gap[2] - gap[0]) ** 2 + (anchors[2] - anchors[0]) ** 2) ** 0.5
    both = f"a generalisation gap of {_show(gap)} against {_show(anchors)}"
    if abs(difference) <= error:
        return f"which of the two sets is memorised more is open: {both}"
    return f"they are memorised {'less' if difference > 0 else 'more'} than anchors are: {both}"


def _bounds(numbers: Mapping[str, float], name: str) -> Bounds | None:
    keys = [f"ggmi/{name}{end}" for end in ("", "_low", "_high")]
    if not all(key in numbers for key in keys):
        return None
    value, low, high = (numbers[key] for key in keys)
    return value, low, high


def _show(bounds: Bounds) -> str:
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*bounds)
