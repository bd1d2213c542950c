"""Signs that a run on synthetic data goes wrong; each is said once, with numbers.

    anchors      the anchors' code gets longer while the mean gain stays above zero
    diversity    the outputs of the stream are less diverse than at first
    divergence   the outputs can be told from the anchors' better than at first
    nothing      a policy that asks for no share keeps nearly nothing
    one source   a policy keeps samples of one source alone
    constant     every sample has the same score
    shadow       the anchors have taught the shadow nothing

Two numbers differ beyond chance where their 99.9 % intervals lie apart: looks are many.
"""

from __future__ import annotations

import copy
import math
import sys
import warnings
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from ggmi_callbacks.distributed import rank_and_size
from ggmi_callbacks.engine.recorder import Recorder
from ggmi_callbacks.engine.replay import PromptRing
from ggmi_callbacks.engine.tally import Tally
from ggmi_callbacks.functional import Interval, effective_diversity, total_variation_lower_bound
from ggmi_callbacks.model import Shadow
from ggmi_callbacks.policies import Policy
from ggmi_callbacks.tasks import Inputs

_LEVEL = 0.999
_OUTPUTS = 256  # that a comparison of the stream with its beginning rests on
_FEWEST = 32  # anchors to compare outputs with; samples of a source before one says that none is kept
_HARDLY = 0.1  # share kept below which nearly nothing is
_SCORES = 64  # before one says that they are constant
_RELATIVE = 1e-6  # spread below which scores are constant, of their mean


class Alarms:
    """Watches the gains of a run at its logging steps.

    Args:
        recorder: of the run.
        policy: of the run.

    """

    def __init__(self, recorder: Tally, policy: Policy) -> None:
        self.recorder, self.policy = recorder, policy
        self.raised: dict[str, str] = {}
        """What was said so far, by the kind of alarm."""
        self._seen = self._kept = torch.zeros(len(recorder.sources) + 1, dtype=torch.float64)

    def check(self, acts: bool) -> None:
        """Look at the numbers since the last log, before they are reset; every rank must call it."""
        gains, run = self.recorder.gain, self.recorder.run
        with gains.sync_context():
            seen, kept = gains.seen.double().cpu(), gains.kept.double().cpu()
        with run.sync_context():
            sums = [float(x.double().sum()) for x in (run.scored, run.total, run.squares)]
            met, left = float(run.seen.double().sum()), float(run.kept.double().sum())
        if self.policy.drops and self.policy.judges_alone:
            self._check_share(left, met)
        self._check_sources(seen, kept, acts)
        self._check_scores(*sums)

    def _check_sources(self, seen: Tensor, kept: Tensor, acts: bool) -> None:
        self._seen, self._kept = self._seen + seen, self._kept + kept
        names = self.recorder.sources
        many = [i for i in range(len(names)) if self._seen[i] >= _FEWEST]
        if not acts or len(many) < 2:
            return
        left = [i for i in many if self._kept[i] > 0]
        if len(left) == 1:
            others = sum(int(self._seen[i]) for i in many) - int(self._seen[left[0]])
            self._raise(
                "one source",
                f"the policy keeps {names[left[0]]!r} alone: none of {others} samples of {len(many) - 1} other sources "
                "since the last look. Look at their gains by source, or lower the threshold.",
            )
        self._seen, self._kept = torch.zeros_like(self._seen), torch.zeros_like(self._kept)

    def _check_share(self, kept: float, seen: float) -> None:
        highest = _highest_share(kept, seen)
        if highest < _HARDLY:
            self._raise(
                "nothing",
                f"the policy keeps {kept:.0f} of {seen:.0f} samples ({kept / seen:.1%}, with {_LEVEL:.1%} certainty "
                f"less than {highest:.1%}): nearly nothing is left to train on. Lower `threshold` or raise `margin`, "
                "or keep a share, `Filter(keep=0.5)`; a `JointScorer` sets its bar by the anchors, of which few say "
                "little: "
                'give more of them, or `zero="own"`.',
            )

    def _check_scores(self, n: float, total: float, squares: float) -> None:
        if n < _SCORES:
            return
        mean = total / n
        if squares / n - mean**2 <= (_RELATIVE * mean) ** 2 + 1e-24:
            self._raise(
                "constant",
                f"all of {n:.0f} samples have the score {mean:.4g}: the scorer tells nothing apart, so a policy that "
                "acts on it acts at random. Look at what it reads.",
            )

    def _raise(self, kind: str, message: str) -> None:
        if kind in self.raised:
            return
        self.raised[kind] = message
        warnings.warn(message, stacklevel=4)
        if rank_and_size()[0] == 0:
            _tell_trackio(kind, message)

    def state_dict(self) -> dict[str, Any]:
        """What was said, and what later logs are compared with."""
        return copy.deepcopy({"raised": self.raised, "counts": (self._seen, self._kept)})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`."""
        state = copy.deepcopy(state)
        self.raised = state["raised"]
        self._seen, self._kept = (x.cpu() for x in state["counts"])


class AnchorAlarms(Alarms):
    """Watches a run that has anchors.

    Args:
        recorder: of the run.
        policy: of the run.
        anchors: batches of model inputs, on their device.
        shadow: trained on them.

    """

    recorder: Recorder

    def __init__(self, recorder: Recorder, policy: Policy, anchors: Sequence[Inputs], shadow: Shadow) -> None:
        super().__init__(recorder, policy)
        self._anchors = anchors
        self._first: tuple[Interval, Interval | None] | None = None  # diversity and divergence at first
        if not shadow.improved:
            before, after = shadow.heldout_nll[0], min(shadow.heldout_nll)
            self.raised["shadow"] = (
                f"the shadow knows nothing: held-out anchors take {before:.2f} nats before it was trained and at best "
                f"{after:.2f} after, which chance would do too. Numbers that compare with the anchors say little."
            )

    def check(self, acts: bool) -> None:
        """See :meth:`Alarms.check`."""
        gains, run = self.recorder.gain, self.recorder.run
        with gains.sync_context():
            low = float(gains.summary()["low"])
        with run.sync_context():
            low_of_run = float(run.summary()["low"])
        self._check_anchors(low if math.isfinite(low) else low_of_run)  # a window may have scored nothing
        self._check_outputs()
        super().check(acts)

    def _check_anchors(self, gain_low: float) -> None:
        rise = self.recorder.panel.rise
        if rise is not None and rise.low > 0 and gain_low > 0:
            self._raise(
                "anchors",
                f"the anchors' code is {float(rise.value):.3f} nats per token longer than at its shortest "
                f"({_ends(rise)}), and the mean gain still lies above {gain_low:.3g}: training has begun to leave the "
                "task. Stop earlier, lower the learning rate, or mix anchors in.",
            )

    def _check_outputs(self) -> None:
        """Compare the outputs of the stream with its first ones, whenever as many new ones have come."""
        ring = self.recorder.prompts
        if {"diversity", "divergence"} <= self.raised.keys() or ring.fresh < _OUTPUTS:
            return
        outputs = ring.pairs()[1][-_OUTPUTS:]
        if len(outputs) < _OUTPUTS:
            return
        ring.fresh = 0
        real = self._anchor_outputs()
        diversity = _interval(effective_diversity(outputs, confidence=_LEVEL))
        apart = None
        if len(real) >= _FEWEST:
            apart = _interval(total_variation_lower_bound(real, outputs, confidence=_LEVEL))
        if self._first is None:
            self._first = diversity, apart
            return
        at_first, apart_at_first = self._first
        if diversity.high < at_first.low:
            self._raise(
                "diversity",
                f"the last {_OUTPUTS} outputs are as diverse as {float(diversity.value):.2f} different ones "
                f"({_ends(diversity)}), the first were as {float(at_first.value):.2f} ({_ends(at_first)}): the "
                "generator, or what is drawn of it, repeats itself.",
            )
        if apart is not None and apart_at_first is not None and apart.low > apart_at_first.high:
            self._raise(
                "divergence",
                f"total variation between anchors and outputs is at least {float(apart.value):.2f} ({_ends(apart)}), "
                f"at first it was {float(apart_at_first.value):.2f} ({_ends(apart_at_first)}): the stream moves away "
                "from the task.",
            )

    def _anchor_outputs(self) -> Tensor:
        """Mean input embeddings of the anchors' outputs, under the present weights."""
        ring = PromptRing(10**9)
        for batch in self._anchors:
            self.recorder.remember_prompts(batch, self.recorder.probe.task.layout(batch), ring)
        return ring.pairs()[1]

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Alarms.state_dict`."""
        first = None if self._first is None else [None if x is None else list(x) for x in self._first]
        return {**super().state_dict(), "first": copy.deepcopy(first)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`."""
        super().load_state_dict(state)
        first = copy.deepcopy(state["first"])
        if first is not None:
            self._first = Interval(*first[0]), None if first[1] is None else Interval(*first[1])


def _highest_share(count: float, total: float) -> float:
    """Upper end of Wilson's one-sided interval of a share; 1 where there is nothing to take it of."""
    if not total:
        return 1.0
    z = NormalDist().inv_cdf(_LEVEL)
    share, spread = count / total, z**2 / total
    return (share + spread / 2 + z * math.sqrt((share * (1 - share) + spread / 4) / total)) / (1 + spread)


def _interval(found: Tensor | Interval) -> Interval:
    assert isinstance(found, Interval)
    return found


def _ends(interval: Interval) -> str:
    return f"{100 * _LEVEL:.1f} % interval {float(interval.low):.3f} to {float(interval.high):.3f}"


def _tell_trackio(kind: str, message: str) -> None:
    """Send an alert to the run that Trackio logs, if somebody has begun one."""
    trackio: Any = sys.modules.get("trackio")
    if trackio is not None and trackio.context_vars.current_run.get() is not None:
        trackio.alert(title=f"GGMI: {kind}", text=message)
