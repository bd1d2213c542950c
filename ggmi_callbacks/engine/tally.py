"""What a run counts of its samples, and the numbers made of it: gains, shares kept, and losses by source.

    synthetic_nll            sum_i nll_i / n                 nats per sample
    loss_per_trained_token   sum_i nll_i / sum_i tokens_i    nats per token
    nll/<source>             the same over one source        nats per token

Code lengths come from the training forward. The device is read only in :meth:`Tally.window`, at logging steps.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ggmi_callbacks.distributed import sum_over_ranks
from ggmi_callbacks.engine.source_loss import SourceSums
from ggmi_callbacks.engine.visits import Visits
from ggmi_callbacks.metrics.gain import Gain
from ggmi_callbacks.tasks import Inputs, Layout


class Tally:
    """Accumulates on the device; an engine feeds it.

    Args:
        sources: names of the sources, in the order of their codes.
        device: of the model.
        size: number of samples, as of :class:`Visits`.
        scored: whether samples have gains at all; without them only losses by source are counted.

    """

    def __init__(self, sources: Sequence[str], device: torch.device, size: int | None, scored: bool = True) -> None:
        self.sources, self.scored = list(sources), scored
        # Without checks of values: they would wait for the device.
        self.gain = Gain(len(sources) + 1, validate_args=False).to(device)  # since the last log; the last: of no source
        self.run = Gain(len(sources) + 1, validate_args=False).to(device)  # of the whole run, a sample's gain once
        self.losses, self.losses_of_run = SourceSums(self.sources, device), SourceSums(self.sources, device)
        self.latest: dict[str, float] = {}
        self._first = torch.zeros(2, dtype=torch.float64, device=device)  # first visits: samples and tokens
        self._known = Visits(size, device)  # samples that had a gain
        self._scored = torch.zeros(2, dtype=torch.float64, device=device)  # visits: scored, and all
        self._visited = torch.zeros((), dtype=torch.float64, device=device)  # samples, later visits too
        self._warned: set[str] = set()
        self.nonfinite = 0
        """Visits of samples whose code length was not finite."""
        self.found_gain = False
        """Whether any sample of the run had a gain, by the last log."""

    def add_gains(self, identity: Tensor, gain: Tensor, source: Tensor, weights: Tensor) -> None:
        """Take note of a batch's gains and weights, [n] each.

        Over the run the gain of a sample counts once, as it was first found: found again it narrows no interval.
        """
        scored = ~gain.isnan()
        first = self._known.mark(identity, scored)
        self.gain.update(gain, source, weights)
        self.run.update(gain.masked_fill(~first, float("nan")), source, weights)
        self._scored += torch.stack([scored.sum(), torch.ones_like(scored).sum()])

    def add_visits(self, tokens: Tensor, first: Tensor) -> None:
        """Count samples that are trained on, scored or not, by their numbers of targets [n]; ``first``: not before."""
        self._first += torch.stack([((tokens > 0) & first).sum(), (tokens * first).sum()])
        self._visited += (tokens > 0).sum()

    def add_lengths(self, source: Tensor, nll: Tensor, tokens: Tensor) -> None:
        """Take note of code lengths [n] found by the training forward, of samples with ``tokens`` targets [n]."""
        self.losses.add(source, nll, tokens)
        self.losses_of_run.add(source, nll, tokens)

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

    def remember_prompts(self, inputs: Inputs, layout: Layout) -> None:
        """Keep the prompts and outputs of a batch, for what compares them."""

    def window(self, acts: bool, step: int) -> dict[str, float]:
        """Numbers since the last call; every rank must call it. ``acts``: whether a policy may drop samples."""
        coverage = self._coverage()
        values = {**self._sums(self.gain, self.losses, acts), **coverage}
        return self._close(values, coverage, acts)

    def results(self, acts: bool) -> dict[str, float]:
        """Numbers of the run so far: gains and shares over all of it, and what was last logged of the rest."""
        run = self._to_host(self._sums(self.run, self.losses_of_run, acts))
        moment = {k: v for k, v in self.latest.items() if not k.startswith(("ggmi/gain", "ggmi/kept", "ggmi/nll/"))}
        return {**moment, **run, "ggmi/nonfinite": float(self.nonfinite)}

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything accumulated."""
        state = {
            "gain": dict(self.gain.metric_state),
            "run": dict(self.run.metric_state),
            "losses": (self.losses.sums, self.losses_of_run.sums),
            "latest": self.latest,
            "counts": (self._first, self._scored, self._visited, self.nonfinite),
            "known": self._known.state_dict(),
            "found_gain": self.found_gain,
            "warned": sorted(self._warned),
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`."""
        state = copy.deepcopy(state)
        for metric, saved in ((self.gain, state["gain"]), (self.run, state["run"])):
            for name, value in saved.items():
                setattr(metric, name, value)
        self.losses.sums, self.losses_of_run.sums = state["losses"]
        self.latest = state["latest"]
        self._first, self._scored, self._visited, self.nonfinite = state["counts"]
        self._known.load_state_dict(state["known"])
        self.found_gain = state["found_gain"]
        self._warned = set(state["warned"])

    # -- the numbers -------------------------------------------------------------------------------------------------

    def _sums(self, gain: Gain, losses: SourceSums, acts: bool) -> dict[str, Tensor]:
        """Means of what was summed, pooled over ranks."""
        if not self.scored:
            return losses.values()
        nll, samples, targets = losses.totals()
        lengths = {"synthetic_nll": nll / samples, "loss_per_trained_token": nll / targets}
        return {**self._gains(gain, acts), **lengths, **losses.values()}

    def _gains(self, metric: Gain, acts: bool) -> dict[str, Tensor]:
        """Mean gain with its interval, and gain and share kept by source."""
        with metric.sync_context():
            summary = metric.summary()
            kept = metric.kept.sum() / metric.seen.sum()
        values = {"gain": summary["mean"], "gain_low": summary["low"], "gain_high": summary["high"]}
        values |= {f"gain/{name}": summary["gain"][i] for i, name in enumerate(self.sources)}
        values |= {f"kept/{name}": summary["kept"][i] for i, name in enumerate(self.sources)}
        return values | ({"kept": kept} if acts or not self.sources else {})

    def _coverage(self) -> dict[str, Tensor]:
        """Share of the run's visits whose samples have a gain."""
        if not self.scored:
            return {}
        self._known.pool()
        scored, visits = sum_over_ranks(self._scored)
        return {"coverage": scored / visits}

    def _close(self, values: dict[str, Tensor], coverage: dict[str, Tensor], acts: bool) -> dict[str, float]:
        """Publish the numbers of a window, warn of what they show, and begin the next one."""
        self.gain.reset()
        self.losses.sums.zero_()
        self.found_gain = any(bool(share > 0) for share in coverage.values())
        numbers = self._publish(values)
        if acts and numbers.get("ggmi/kept", 1.0) == 0.0:
            self._warn_once(
                "nothing kept",
                f"the policy kept none of the samples since the last log (mean gain {numbers['ggmi/gain']:.4g} nats): "
                "these steps trained on nothing. Lower `threshold`, raise `margin`, use `Filter(keep=...)`, or look "
                "whether the anchors are of this task.",
            )
        return numbers | ({"ggmi/nonfinite": float(self.nonfinite)} if self.nonfinite else {})

    def _publish(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Bring ``values`` to the host and remember them as the latest."""
        logs = self._to_host(values)
        self.latest.update(logs)
        return logs

    @staticmethod
    def _to_host(values: dict[str, Tensor]) -> dict[str, float]:
        """``values`` in one transfer; what was not measured is left out."""
        if not values:
            return {}
        numbers = torch.stack([v.double() for v in values.values()]).tolist()
        return {f"ggmi/{k}": v for k, v in zip(values, numbers, strict=True) if math.isfinite(v)}

    def _warn_once(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(message, stacklevel=3)
