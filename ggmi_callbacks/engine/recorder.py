"""What a run has shown so far, and the numbers made of it. All in nats.

    weight_information   n x mean( nll when first seen - nll now )      mixture form of I(S_gen; W)
    information_gain     S(K_p * K_y) - S(K_p) on mean input embeddings of prompts and outputs (matrix estimator)
    ggmi_mixture         I(S_anchor; W') - I(S_gen; W), both in mixture form
    ggmi                 the same from twins (:mod:`ggmi_callbacks.engine.live`)

First lengths come from the training forward, so dropout lengthens them and raises ``weight_information``; second looks
are in eval mode. The device is read only in :meth:`Recorder.window` and :meth:`Recorder.ggmi`, at logging steps.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.utilities.distributed import gather_all_tensors

from ggmi_callbacks.distributed import is_distributed, sum_over_ranks
from ggmi_callbacks.engine.anchor_panel import AnchorPanel
from ggmi_callbacks.engine.live import KEYS, LiveGGMI, flat
from ggmi_callbacks.engine.replay import PromptRing, Reservoir, Visit
from ggmi_callbacks.engine.tally import Tally
from ggmi_callbacks.functional import embedding_information_gain, ggmi_terms, weight_information
from ggmi_callbacks.model import Probe, Shadow
from ggmi_callbacks.tasks import Inputs, Layout

_VISITS = 16  # batches kept for a second look
_LOOKS = 2  # of them looked at again at a time
_PROMPTS = 256  # pairs for the information gain
_SLACK = {torch.float64: 1e-6, torch.float32: 3e-3}  # of a code length between batches, autocast included

Pairs = tuple[Tensor, Tensor, Tensor]  # first nll, nll now, tokens; [m] each


class Recorder(Tally):
    """A tally that also compares what was first found with what is found now; the engine feeds it."""

    def __init__(
        self, probe: Probe, panel: AnchorPanel, live: LiveGGMI, sources: Sequence[str], size: int | None, seed: int
    ) -> None:
        super().__init__(sources, next(probe.model.parameters()).device, size)
        self.probe, self.panel, self.live = probe, panel, live
        self.reservoir = Reservoir(_VISITS, seed)
        self.prompts = PromptRing(_PROMPTS)
        self.estimators = {"weight_information": "mixture"}
        self._first_at_log = 0.0  # samples, when last logged
        self._pairs: Pairs | None = None
        self.finds_news = True
        """Whether the last window held samples that had not been trained on before."""

    def remember_prompts(self, inputs: Inputs, layout: Layout, ring: PromptRing | None = None) -> None:
        """Keep the prompts and outputs of a batch, if it has prompts; in ``ring`` if it is given."""
        mask = self.probe.task.prompt_mask(inputs, layout)
        if mask is not None:
            embed: nn.Module = self.probe.model.get_input_embeddings()  # type: ignore[operator]
            with torch.no_grad(), self.probe.quiet():  # hooks on embeddings may draw noise in training mode (NEFTune)
                embeddings = embed(inputs["input_ids"])
            (self.prompts if ring is None else ring).add(embeddings[:, 1:], mask, layout)

    def look_back(self, step: int, whole: bool = False) -> None:
        """Score some of the past batches again under the present weights, and a fixed panel of anchors."""
        if not whole:
            self.live.twins.look(step)
        visits = self.reservoir.visits if whole else self.reservoir.draw(_LOOKS)
        if visits:
            now = [self.probe.nll(v.inputs, v.layout) for v in visits]
            tokens = torch.cat([v.layout.tokens for v in visits])
            self._check_alone(visits[0], now[0])
            first, now_nll = torch.cat([v.first_nll for v in visits]), torch.cat(now)
            news = (tokens > 0) & first.isfinite() & now_nll.isfinite()
            self._pairs = (first[news], now_nll[news], tokens[news]) if news.any() else None
        self.panel.look(whole)

    def _check_alone(self, visit: Visit, together: Tensor) -> None:
        """Warn, once, if a sample scores otherwise alone than among the others of its batch."""
        if "together" in self._warned or visit.layout.n < 2:
            return
        one = torch.zeros_like(together)
        one[-1] = 1.0  # the last one: in a packed row it has all the others before it
        inputs, _ = self.probe.task.select(visit.inputs, visit.layout, one)
        alone = self.probe.nll(inputs, self.probe.task.layout(inputs, 1))[0]
        slack = _SLACK.get(next(self.probe.model.parameters()).dtype, 2e-2)
        if abs(alone - together[-1]) > slack * (1 + abs(together[-1])):
            self._warn_once(
                "together",
                f"a sample has a code length of {float(alone):.3f} nats alone and {float(together[-1]):.3f} in its "
                "batch: samples see each other. Look at `attn_implementation` (packing needs a kernel that keeps "
                "segments apart), at padding without an attention mask, or at kernels that are not deterministic.",
            )

    def window(self, acts: bool, step: int) -> dict[str, float]:
        """See :meth:`Tally.window`."""
        coverage, total = self._coverage(), sum_over_ranks(self._first)
        values = {
            **self._sums(self.gain, self.losses, acts),
            **coverage,
            **flat(self.panel.values()),
            **self._twins(step, total),
        }
        pairs = self._all_pairs()
        if pairs is not None and self.probe.task.is_code_length:
            values["weight_information"] = weight_information(pairs[0], pairs[1], total=float(total[0]))
        if (information_gain := self._information_gain()) is not None:
            values["information_gain"] = information_gain
        self._pairs = self.panel.nll = None  # of this moment, and not to be shown again
        first = float(total[0])
        self.finds_news, self._first_at_log = first > self._first_at_log or not first, first
        return self._close(values, coverage, acts)

    def ggmi(self, shadow: Shadow, step: int) -> dict[str, float]:
        """GGMI of the run in both forms, its terms in total, per sample and per token; every rank must call it."""
        pairs, total = self._all_pairs(), sum_over_ranks(self._first)
        values = {**flat(self.panel.values()), **self._twins(step, total, at_the_end=True)}
        values |= {"synthetic_samples": total[0], "synthetic_tokens": total[1]}
        if pairs is not None and self.probe.task.is_code_length:
            values |= self._mixture(shadow, pairs, total)
        return self._publish(values)

    def _mixture(self, shadow: Shadow, pairs: Pairs, total: Tensor) -> dict[str, Tensor]:
        """The mixture form of everything."""
        first, now, tokens = pairs
        terms = ggmi_terms(
            shadow.first_nll,
            shadow.final_nll,
            first,
            now,
            anchor_tokens=shadow.tokens,
            synthetic_tokens=tokens,
            synthetic_total=float(total[0]),
            confidence=0.95,
        )
        self.estimators["ggmi_mixture"] = f"mixture, given {terms.conditioning}"
        values = {
            "ggmi_mixture": terms.ggmi,
            "ggmi_mixture_per_sample": terms.per_sample,
            "ggmi_mixture_per_token": terms.per_token,
            "anchor_information_mixture": terms.anchor_information,
            "synthetic_information_mixture": terms.synthetic_information,
            "anchor_samples_mixture": terms.anchor_samples,
            "anchor_tokens_mixture": terms.anchor_tokens,
            "weight_information": weight_information(first, now, total=float(total[0])),
        }
        return flat(values)

    def _twins(self, step: int, total: Tensor, at_the_end: bool = False) -> dict[str, Tensor]:
        """What twins say; what they said once is forgotten when there are none any more."""
        find = self.live.finish if at_the_end else self.live.window
        found = find(step, total, float(sum_over_ranks(self._visited)))
        self.estimators |= self.live.estimators
        if found is None:
            for name in KEYS:
                for end in ("", "_low", "_high"):
                    self.latest.pop(f"ggmi/{name}{end}", None)
            return {}
        return flat(found)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything accumulated."""
        state = {
            "reservoir": self.reservoir.state_dict(),
            "prompts": vars(self.prompts),
            "live": self.live.state_dict(),
            "panel": self.panel.best,
            "news": (self.finds_news, self._first_at_log),
        }
        return {**super().state_dict(), **copy.deepcopy(state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`."""
        super().load_state_dict(state)
        state = copy.deepcopy(state)
        self.reservoir.load_state_dict(state["reservoir"])
        vars(self.prompts).update(state["prompts"])
        self.live.load_state_dict(state["live"])
        self.panel.best = state["panel"]
        self.finds_news, self._first_at_log = state["news"]

    def _all_pairs(self) -> Pairs | None:
        """Second looks of all ranks; ranks look back at different samples."""
        if not is_distributed():
            return self._pairs
        local = torch.stack(self._pairs) if self._pairs else torch.empty(3, 0, device=self._first.device)
        pooled = torch.cat(gather_all_tensors(local.T.contiguous())).T
        return tuple(pooled) if pooled.shape[1] else None

    def _information_gain(self) -> Tensor | None:
        prompts, outputs = self.prompts.pairs()
        if len(prompts) < 2:
            return None
        self.estimators["information_gain"] = f"matrix, mean input embeddings of {len(prompts)} samples"
        gain = embedding_information_gain(prompts, outputs, estimator="matrix")
        assert isinstance(gain, Tensor)
        return gain
