"""What is known of a run so far, put together: numbers, what they rest on, and what they say in words."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ggmi_callbacks.engine.by_source import by_source
from ggmi_callbacks.engine.recorder import Recorder
from ggmi_callbacks.engine.verdict import verdict
from ggmi_callbacks.model import CrossFit, Shadow
from ggmi_callbacks.policies import Policy
from ggmi_callbacks.scorers import Scorer


def account(
    recorder: Recorder,
    scorer: Scorer,
    policy: Policy,
    anchors: tuple[Shadow, CrossFit],
    codes: Tensor | None,
) -> dict[str, Any]:
    """The part of :meth:`GainEngine.results` that is made of other numbers; every rank must call it.

    Args:
        recorder: of the run.
        scorer: of the run.
        policy: of the run.
        anchors: what was trained on them.
        codes: of the source of each sample by id, if there are sources.

    """
    shadow, cross_fit = anchors
    numbers, summary = recorder.results(acts=policy.acts), scorer.summary()
    told = scorer.shared() if recorder.sources else None
    sources = by_source(recorder.run, recorder.live.shown, recorder.sources, told, codes)
    return {
        **numbers,
        **summary,
        "scorer": str(scorer),
        "gain_unit": scorer.unit,
        "policy": repr(policy),
        "shadow": {
            **shadow.summary(),
            "trained": f"{len(shadow.parameters)} of {len(recorder.probe.trainable)} tensors",
            "cross_fit_seconds": cross_fit.seconds,
        },
        "estimators": {**recorder.estimators, **summary.get("estimators", {})},
        "sources": sources,
        "verdict": verdict(numbers, len(cross_fit.tokens), shadow.improved, sources),
    }
