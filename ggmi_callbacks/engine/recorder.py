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
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.utilities.distributed import gather_all_tensors

from ggmi_callbacks.distributed import is_distributed, sum_over_ranks
from ggmi_callbacks.engine.anchor_panel import AnchorPanel
from ggmi_callbacks.engine.live import KEYS, LiveGGMI, flat
from ggmi_callbacks.engine.replay import PromptRing, Reservoir, Visit
from ggmi_callbacks.functional import embedding_information_gain, ggmi_terms, weight_information
from ggmi_callbacks.metrics.gain import Gain
from ggmi_callbacks.model import Probe, Shadow
from ggmi_callbacks.tasks import Inputs, Layout

_VISITS = 16  # batches kept for a second look
_LOOKS = 2  # of them looked at again at a time
_PROMPTS = 256  # pairs for the information gain
_SLACK = {torch.float64: 1e-6, torch.float32: 3e-3}  # of a code length between batches, autocast included

Pairs = tuple[Tensor, Tensor, Tensor]  # first nll, nll now, tokens; [m] each


class Recorder:
    """Accumulates on the device; :class:`~ggmi_callbacks.GainEngine` feeds it."""

    def __init__(
        self, probe: Probe, panel: AnchorPanel, live: LiveGGMI, sources: Sequence[str], seed: int, device: torch.device
    ) -> None:
        self.probe, self.panel, self.live = probe, panel, live
        self.sources = list(sources)
        # Without checks of values: they would wait for the device.
        self.gain = Gain(len(sources) + 1, validate_args=False).to(device)  # since the last log; the last: of no source
        self.run = Gain(len(sources) + 1, validate_args=False).to(device)  # of the whole run
        self.reservoir = Reservoir(_VISITS, seed)
        self.prompts = PromptRing(_PROMPTS)
        self.latest: dict[str, float] = {}
        self.estimators = {"weight_information": "mixture"}
        self._nll = torch.zeros(3, dtype=torch.float64, device=device)  # sum, samples and targets since the last log
        self._nll_of_run = torch.zeros(3, dtype=torch.float64, device=device)
        self._first = torch.zeros(2, dtype=torch.float64, device=device)  # first visits: samples and tokens
        self._visited = torch.zeros((), dtype=torch.float64, device=device)  # samples, later visits too
        self._first_at_log = 0.0  # samples, when last logged
        self._pairs: Pairs | None = None
        self._warned: set[str] = set()
        self.nonfinite = 0
        """Visits of samples whose code length was not finite."""
        self.finds_news = True
        """Whether the last window held samples that had not been trained on before."""
        self.found_gain = False
        """Whether any sample of the run had a gain, by the last log."""

    def add_gains(self, gain: Tensor, source: Tensor, weights: Tensor) -> None:
        """Take note of a batch's gains and weights, [n] each."""
        self.gain.update(gain, source, weights)
        self.run.update(gain, source, weights)

    def remember_prompts(self, inputs: Inputs, layout: Layout, ring: PromptRing | None = None) -> None:
        """Keep the prompts and outputs of a batch, if it has prompts; in ``ring`` if it is given."""
        mask = self.probe.task.prompt_mask(inputs, layout)
        if mask is not None:
            embed: nn.Module = self.probe.model.get_input_embeddings()  # type: ignore[operator]
            with torch.no_grad(), self.probe.quiet():  # hooks on embeddings may draw noise in training mode (NEFTune)
                embeddings = embed(inputs["input_ids"])
            (self.prompts if ring is None else ring).add(embeddings[:, 1:], mask, layout)

    def add_visits(self, tokens: Tensor, first: Tensor) -> None:
        """Count samples that are trained on, scored or not, by their numbers of targets [n]; ``first``: not before."""
        self._first += torch.stack([((tokens > 0) & first).sum(), (tokens * first).sum()])
        self._visited += (tokens > 0).sum()

    def add_lengths(self, nll: Tensor, tokens: Tensor) -> None:
        """Take note of code lengths [n] found by the training forward, of samples with ``tokens`` targets [n]."""
        sums = torch.stack([nll.double().sum(), (tokens > 0).sum(), tokens.sum()])
        self._nll += sums
        self._nll_of_run += sums

    def add_nonfinite(self, ids: Sequence[int], step: int) -> None:
        """Take note of samples, by id, whose code length was not finite; the first ones are named."""
        self.nonfinite += len(ids)
        if ids:
            self._warn_once(
                "nonfinite",
                f"the loss of samples {sorted(set(ids))[:20]} is not finite (ids in the training set, {len(ids)} in "
                f"all, by step {step}). They are left out of every statistic and counted in `ggmi/nonfinite`. Look at "
                "these samples, or lower the learning rate.",
            )

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
        """Numbers since the last call; every rank must call it. ``acts``: whether a policy may drop samples."""
        with self.run.sync_context():
            run = self.run.summary()
        nll, total = sum_over_ranks(self._nll), sum_over_ranks(self._first)
        values = {
            **self._gains(self.gain, acts),
            "coverage": run["coverage"],
            **_per_sample_and_token(nll),
            **flat(self.panel.values()),
            **self._twins(step, total),
        }
        pairs = self._all_pairs()
        if pairs is not None:
            values["weight_information"] = weight_information(pairs[0], pairs[1], total=float(total[0]))
        if (information_gain := self._information_gain()) is not None:
            values["information_gain"] = information_gain
        self._pairs = self.panel.nll = None  # of this moment, and not to be shown again
        self.gain.reset()
        self._nll.zero_()
        first = float(total[0])
        self.found_gain = bool(run["coverage"] > 0)
        self.finds_news, self._first_at_log = first > self._first_at_log or not first, first
        numbers = self._publish(values)
        if acts and numbers.get("ggmi/kept", 1.0) == 0.0:
            self._warn_once(
                "nothing kept",
                f"the policy kept none of the samples since the last log (mean gain {numbers['ggmi/gain']:.4g} nats): "
                "these steps trained on nothing. Lower `threshold`, raise `margin`, use `Filter(keep=...)`, or look "
                "whether the anchors are of this task.",
            )
        return numbers | ({"ggmi/nonfinite": float(self.nonfinite)} if self.nonfinite else {})

    def results(self, acts: bool) -> dict[str, float]:
        """Numbers of the run so far: gains and shares over all of it, and what was last logged of the rest."""
        run = self._to_host({**self._gains(self.run, acts), **_per_sample_and_token(sum_over_ranks(self._nll_of_run))})
        moment = {k: v for k, v in self.latest.items() if not k.startswith(("ggmi/gain", "ggmi/kept"))}
        return {**moment, **run, "ggmi/nonfinite": float(self.nonfinite)}

    def ggmi(self, shadow: Shadow, step: int) -> dict[str, float]:
        """GGMI of the run in both forms, its terms in total, per sample and per token; every rank must call it."""
        pairs, total = self._all_pairs(), sum_over_ranks(self._first)
        values = {**flat(self.panel.values()), **self._twins(step, total, at_the_end=True)}
        values |= {"synthetic_samples": total[0], "synthetic_tokens": total[1]}
        if pairs is not None:
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
            "gain": dict(self.gain.metric_state),
            "run": dict(self.run.metric_state),
            "reservoir": self.reservoir.state_dict(),
            "prompts": vars(self.prompts),
            "latest": self.latest,
            "counts": (self._nll, self._nll_of_run, self._first, self._visited, self.nonfinite),
            "live": self.live.state_dict(),
            "panel": self.panel.best,
            "news": (self.finds_news, self._first_at_log, self.found_gain),
            "warned": sorted(self._warned),
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`."""
        state = copy.deepcopy(state)
        for metric, saved in ((self.gain, state["gain"]), (self.run, state["run"])):
            for name, value in saved.items():
                setattr(metric, name, value)
        self.reservoir.load_state_dict(state["reservoir"])
        vars(self.prompts).update(state["prompts"])
        self.latest = state["latest"]
        self._nll, self._nll_of_run, self._first, self._visited, self.nonfinite = state["counts"]
        self.live.load_state_dict(state["live"])
        self.panel.best = state["panel"]
        self.finds_news, self._first_at_log, self.found_gain = state["news"]
        self._warned = set(state["warned"])

    def _all_pairs(self) -> Pairs | None:
        """Second looks of all ranks; ranks look back at different samples."""
        if not is_distributed():
            return self._pairs
        local = torch.stack(self._pairs) if self._pairs else torch.empty(3, 0, device=self._nll.device)
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

    def _gains(self, metric: Gain, acts: bool) -> dict[str, Tensor]:
        """Mean gain with its interval, and gain and share kept by source; pooled over ranks."""
        with metric.sync_context():
            summary = metric.summary()
            kept = metric.kept.sum() / metric.seen.sum()
        values = {"gain": summary["mean"], "gain_low": summary["low"], "gain_high": summary["high"]}
        values |= {f"gain/{name}": summary["gain"][i] for i, name in enumerate(self.sources)}
        values |= {f"kept/{name}": summary["kept"][i] for i, name in enumerate(self.sources)}
        return values | ({"kept": kept} if acts or not self.sources else {})

    def _publish(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Bring ``values`` to the host and remember them as the latest."""
        logs = self._to_host(values)
        self.latest.update(logs)
        return logs

    @staticmethod
    def _to_host(values: dict[str, Tensor]) -> dict[str, float]:
        """``values`` in one transfer; what was not measured is left out."""
        numbers = torch.stack([v.double() for v in values.values()]).tolist()
        return {f"ggmi/{k}": v for k, v in zip(values, numbers, strict=True) if math.isfinite(v)}

    def _warn_once(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(message, stacklevel=3)


def _per_sample_and_token(nll: Tensor) -> dict[str, Tensor]:
    """Mean code lengths from (sum, samples, targets)."""
    return {"synthetic_nll": nll[0] / nll[1], "loss_per_trained_token": nll[0] / nll[2]}
