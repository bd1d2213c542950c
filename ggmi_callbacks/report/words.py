"""What numbers mean, in sentences for people who have not read the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ggmi_callbacks.engine.ledger_view import Group, Mean
from ggmi_callbacks.report.numbers import interval, number, percent

ANY_UNIT = "nats per sample, or the scorer's own unit"
_UNITS = {
    "JointScorer": "spreads of the anchors",
    "AgreementScorer": "share of agreement",
    "DistinctScorer": "share of distinct n-grams",
    "ColumnScorer": "units of the column",
}
_SCARCE = 0.05  # coverage below which a mean is an estimate from few
_APART = 2  # sources at least, for a sentence about them

MEANINGS = {
    "gain": "Mean gain: how much likelier the anchors make a sample.",
    "kept": "Share of samples that the policy kept.",
    "coverage": "Share of samples that were scored.",
    "overhead": "Share of the time of the steps that measuring took.",
    "nonfinite": "Visits of samples whose loss was not finite; they enter no number.",
    "synthetic_nll": "Mean code length of the samples trained on, nats per sample.",
    "nll": "Loss of the samples trained on, nats per token.",
    "anchor_nll": "Mean code length of anchors under the last weights, nats per sample.",
    "loss_per_trained_token": "Loss over the tokens trained on, nats per token.",
    "weight_information": "I(S_gen; W) from code lengths, memorised and generalised together, nats.",
    "information_gain": "What the generator adds to its prompts, by the matrix estimator; relative, nats.",
    "generalization_gap": "Loss of synthetic samples not trained on, minus of those trained on, nats per token.",
    "anchor_gap": "The same gap of a training on the anchors, nats per token.",
    "anchor_advantage": "How much shorter than after training on the anchors an anchor's code is now, nats per token.",
    "shared_information": "What answers to one prompt tell about each other, nats.",
    "anchor_information": "I(S_anchor; W'): what training on the anchors stores, nats.",
    "synthetic_information": "I(S_gen; W): what training on the synthetic data stores, nats.",
    "ggmi": "Anchor information minus synthetic information, nats.",
    "ggmi_per_sample": "GGMI with each term per sample of its own set, nats.",
    "ggmi_per_token": "GGMI with each term per token of its own set, nats.",
    "heldout": "Samples that were never trained on, to compare with.",
    "twins": "Pairs of samples, one trained on and one not, that the estimate rests on.",
    "null_gap": "The gap between two sets that were not trained on: its true value is zero. Nats per token.",
    "null_information": "The information between two sets that were not trained on: its true value is zero. Nats.",
}
"""Meaning of a key of the log, without ``ggmi/``, and without what says which source, form or end of an interval."""


def meaning(key: str) -> str:
    """What a key of ``results()`` means, empty if it is not known.

    Example:
        >>> meaning("ggmi/kept/my source")
        'Share of samples that the policy kept. Of source my source.'

    """
    name, _, source = key.removeprefix("ggmi/").partition("/")
    form = " From code lengths." if "_mixture" in name else ""
    known = MEANINGS.get(name.replace("_mixture", ""), "")
    return known + form + (f" Of source {source}." if known and source else "")


def unit_of(scorer: Any) -> str:
    """Unit of the gains of ``scorer``, or of one that is written out; if it is not known, both that it may be.

    Example:
        >>> unit_of("LikelihoodScorer(normalize='token')"), unit_of("JointScorer")
        ('nats per token', 'spreads of the anchors')

    """
    if scorer is None:
        return ANY_UNIT
    name, _, settings = (scorer if isinstance(scorer, str) else type(scorer).__name__).partition("(")
    if name in _UNITS:
        return _UNITS[name]
    by_token = getattr(scorer, "normalize", None) == "token" or "normalize='token'" in settings
    return "nats per token" if by_token else "nats per sample"


def gain_note(unit: str) -> str:
    """What a gain in this unit says."""
    if unit.startswith("nats"):
        return f"{unit}: how much likelier the anchors make a sample. Above zero, it speaks for their task."
    return f"{unit}: above zero, the score speaks for a sample."


def verdict(results: Mapping[str, Any], gain: Mean, groups: Sequence[Group], acted: bool, unit: str) -> str:
    """The run's own verdict, or else one from gains alone."""
    if results.get("verdict"):
        return str(results["verdict"])
    if not gain.n:
        return "No sample was scored, so nothing can be said about gain."
    said = f"a mean gain of {interval(gain)} {unit}"
    if gain.low > 0:
        text = f"On average this data speaks for the task of the anchors, with {said}."
    elif gain.high < 0:
        text = f"On average this data speaks against the task of the anchors, with {said}."
    else:
        text = f"On average this data cannot be told from data that teaches nothing about the anchors: {said}."
    if acted:
        samples = sum(group.samples for group in groups)
        text += f" {percent(sum(g.kept * g.samples for g in groups) / samples)} of {samples:,} samples were kept."
    return text + _sources(groups)


def _sources(groups: Sequence[Group]) -> str:
    """A sentence on the worst and the best source, if they surely differ."""
    known = sorted((g for g in groups if g.gain.n > 1), key=lambda g: g.gain.value)
    if len(known) < _APART or known[0].gain.high >= known[-1].gain.low:
        return ""
    worst, best = known[0], known[-1]
    return (
        f" By source it runs from {number(worst.gain.value, signed=True)} ({worst.name}) to "
        f"{number(best.gain.value, signed=True)} ({best.name})."
    )


def alarms(results: Mapping[str, Any], coverage: float) -> list[str]:
    """What the run itself warns of, and what takes ground from under its numbers."""
    found = [str(text) for text in results.get("alarms") or ()]
    shadow = results.get("shadow") or {}
    if shadow.get("improved") is False:
        found.append(
            "The anchors taught the shadow nothing that held-out anchors could confirm, so likelihood gains rest on "
            "little. Give more anchors, or another shadow_learning_rate."
        )
    if bad := int(results.get("ggmi/nonfinite") or 0):
        found.append(f"The loss of {bad:,} visits of samples was not finite; they are left out of every number.")
    if coverage < _SCARCE:
        found.append(
            f"Only {percent(coverage)} of the samples were scored, so every number about gain is an estimate from "
            "those. Raise overhead= to score more."
        )
    return found
