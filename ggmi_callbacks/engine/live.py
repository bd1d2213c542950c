"""GGMI of a run as the theory means it, at every look: both terms from twins, and the gap that the second one follows.

    generalization_gap    loss of synthetic samples not trained on, minus of those trained on, under W
    ggmi                  I(S_anchor; W') - I(S_gen; W), each at least what a pair's loss difference gives away

Nats per token with 95 % intervals, but for GGMI and its terms, whose names say per what.
"""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from ggmi_callbacks.engine.twins import FEWEST, Pairs, Twins
from ggmi_callbacks.functional import Interval, ggmi_terms, loss_difference_information
from ggmi_callbacks.functional._interval import mean_interval
from ggmi_callbacks.functional.ggmi import CONDITIONING
from ggmi_callbacks.model import CrossFit

_CONFIDENCE = 0.95
_AGAIN = 0.1  # visits that are no first ones, of first ones, beyond which a run is past its first pass
_logger = logging.getLogger("ggmi_callbacks")

Values = dict[str, Tensor | Interval]

KEYS = (
    *("generalization_gap", "generalization_gap_per_sample", "ggmi", "ggmi_per_sample", "ggmi_per_token", "twins"),
    *("anchor_information", "synthetic_information", "anchor_samples", "anchor_tokens"),
)
"""Names of the numbers that there are as long as there are twins."""


class LiveGGMI:
    """Makes numbers of the twins of a run.

    Args:
        twins: of the synthetic samples.
        anchors: the cross-fitted anchors.

    """

    def __init__(self, twins: Twins, anchors: CrossFit) -> None:
        self.twins, self.anchors = twins, anchors
        self.shown: Pairs | None = None
        """The pairs behind the latest numbers."""
        self._said = False

    def window(self, step: int, first: Tensor, visited: float) -> Values | None:
        """Numbers at a logging step, from looks of the later half of the run; every rank must call it.

        Args:
            step: optimiser steps so far.
            first: samples met for the first time, and their tokens, [2].
            visited: visits of samples.

        Returns:
            Nothing if there was no look since the last call. None if there are no twins any more.

        """
        fresh = self._collect(first, visited)
        return {} if fresh == 0 else None if fresh is None else self._numbers(self.recent(step), first)

    def finish(self, step: int, first: Tensor, visited: float) -> Values | None:
        """Numbers at the end; of samples held out, those under the last weights alone. With the null control."""
        if self._collect(first, visited) is None:
            return None
        self.twins.look_at_all(step)
        last = self.twins.collect()
        if self.twins.holds_out and last < FEWEST:
            self._say(
                f"{last} samples held out can be paired with samples that were trained on, and fewer than {FEWEST} "
                "pairs tell nothing: `ggmi/generalization_gap` and `ggmi/ggmi` are not measured. Hold out more; under "
                "a filter only those count that it would keep."
            )
        pairs = self.twins.pairs()
        numbers = self._numbers(pairs.last(last).distinct() if last else self.recent(step), first)
        return numbers | _null_control(pairs.unseen())

    def _collect(self, first: Tensor, visited: float) -> int | None:
        """The number of new pairs, or None if there are no twins any more."""
        fresh, again = self.twins.collect(), visited - float(first[0])
        if not self.twins.over and not self.twins.holds_out and again > _AGAIN * float(first[0]):
            self.twins.stop()
        if not self.twins.over:
            return fresh
        self.shown = None
        self._say(
            "the samples of this run come again and none is held out, so nothing is left to compare them with: "
            "`ggmi/generalization_gap` and `ggmi/ggmi` are not logged any more, and are not in the results. Give "
            "`heldout=0.02`, a share of the training set (`Trainer`, `SFTTrainer`), or other samples of the same kind "
            "that are never trained on."
        )
        return None

    def recent(self, step: int) -> Pairs:
        """Pairs that stand for the weights of the moment: of the later half of the run, of a sample the last one."""
        return self.twins.pairs().since(step // 2).distinct()

    def _numbers(self, pairs: Pairs, first: Tensor) -> Values:
        found: Values = {}
        if len(pairs) < FEWEST:
            return found
        self.shown = pairs
        for name, per_token in (("generalization_gap", True), ("generalization_gap_per_sample", False)):
            inside, outside = pairs.losses(per_token)
            found[name] = mean_interval(outside - inside, _CONFIDENCE)
        return found | self._information(pairs, first)

    def _information(self, pairs: Pairs, first: Tensor) -> Values:
        anchor_in, anchor_out = self.anchors.twins()
        if len(anchor_in) < FEWEST:
            return {}
        inside, outside = pairs.losses()
        terms = ggmi_terms(
            anchor_out,
            anchor_in,
            outside,
            inside,
            anchor_tokens=self.anchors.tokens.double().mean() * len(anchor_in),
            synthetic_tokens=first[1] / first[0] * len(pairs),
            estimator="loss_difference",
            anchor_total=len(self.anchors.tokens) / 2,
            synthetic_total=float(first[0]),
            confidence=_CONFIDENCE,
        )
        return {
            "ggmi": terms.ggmi,
            "ggmi_per_sample": terms.per_sample,
            "ggmi_per_token": terms.per_token,
            "anchor_information": terms.anchor_information,
            "synthetic_information": terms.synthetic_information,
            "anchor_samples": terms.anchor_samples,
            "anchor_tokens": terms.anchor_tokens,
            "twins": pairs.step.new_tensor(float(len(pairs))),
        }

    def _say(self, message: str) -> None:
        if not self._said:
            self._said = True
            _logger.warning("GGMI: %s", message)

    @property
    def estimators(self) -> dict[str, str]:
        """What the numbers rest on."""
        if self.twins.over:
            return dict.fromkeys(
                ("generalization_gap", "ggmi"), "none: samples come again, and none is held out (`heldout=0.02`)"
            )
        others = "samples held out" if self.twins.holds_out else "samples still to come, in looks of the later half"
        return {
            "generalization_gap": f"{others}; losses calibrated by the shadow's",
            "ggmi": f"loss_difference, given {CONDITIONING['loss_difference']}; twins: {others}; halves of the anchors",
        }

    def state_dict(self) -> dict[str, Any]:
        """Twins, and whether it was said that there are none."""
        return {"twins": self.twins.state_dict(), "said": self._said}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`."""
        self.twins.load_state_dict(state["twins"])
        self._said = state["said"]


def _null_control(unseen: Pairs) -> Values:
    """The same numbers from pairs of two unseen samples: the truth is zero."""
    if len(unseen) < FEWEST:
        return {}
    one, other = unseen.losses()
    information = loss_difference_information(one, other, confidence=_CONFIDENCE)
    assert isinstance(information, Interval)
    return {"null_gap": mean_interval(other - one, _CONFIDENCE), "null_information": information}


def flat(values: Values) -> dict[str, Tensor]:
    """``values`` with the ends of intervals under names of their own."""
    found: dict[str, Tensor] = {}
    for name, value in values.items():
        if isinstance(value, Interval):
            found |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        else:
            found[name] = value
    return found
