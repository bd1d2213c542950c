"""Training on a part of the samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ggmi_callbacks.policies._ranks import places, sizes
from ggmi_callbacks.policies.base import Policy, check_numbers, scored

FEW = 8
"""Gains of a stratum that its own quantile takes; with fewer of them in the window the quantile of all stands in."""


class Filter(Policy):
    """Trains on the samples whose gain is high enough and skips the rest before the forward.

    With ``keep`` the best share is kept. Cost is tokens, so a gain that is a sum over a sample's targets (nats per
    sample, :attr:`Scorer.additive`) is compared per token; other scores as they are. Where all scores are known, from
    the data or after a pass, exactly the best round(keep x n) samples of each stratum are kept, at least one, ties by
    id. Until then the bar is a quantile of the last ``window`` gains, of the same stratum or, while it has fewer than 8
    among them, of all.

    Args:
        threshold: keep gain + margin x noise > threshold, in the scorer's unit (nats per sample by default). Zero if
            neither this nor ``keep`` is given: drop only what surely speaks against itself, since throwing good data
            away costs as much as bad data do.
        keep: keep about this share instead, (0, 1]. For plentiful data: on a small pool, throwing data away costs what
            the bad data cost.
        window: gains of the stream that are remembered for ``keep``.
        margin: how many standard errors of its own a gain may lie below ``threshold`` and still be kept, 2 if not
            given (one-sided 97.5 %); scores without noise, as agreement, are taken as they are.
        refill: let trainers fill each batch up with other samples that pass, so that an optimiser step sees the batch
            size that was tuned and the run takes as many steps as without a filter. If false, or where a trainer
            cannot (its documentation says so), batches shrink to what is kept of them.
        within: take the share ``keep`` inside each stratum, so that none is lost: ``"prompt"`` (equal prompts, by token
            ids), ``"source"`` (the run's sources), ``"length"`` (octaves of the number of targets: 1, 2 to 3, 4 to 7,
            ...), or else a column of the training set, whose equal values are a stratum.
        per_group: of equal prompts keep at most so many samples, the best of those that pass, ties by id; one without a
            score comes last. It goes with ``threshold`` and with ``keep``, whose share is then filled from what the cap
            leaves. The best of a prompt are not known before all of them are, so this takes scores that the data bring,
            or scores that never change and batches that are refilled: the training set is then scored first.

    Raises:
        TypeError: if a number is none, or ``within`` is no name.
        ValueError: if both ``threshold`` and ``keep`` are given, ``threshold`` is NaN, ``keep`` is outside (0, 1],
            ``margin`` is negative or comes with ``keep``, ``within`` comes without it, ``per_group`` is no whole number
            from 1, or each stratum of ``within`` has one sample.

    Example:
        >>> import torch
        >>> Filter(keep=0.5)(torch.tensor([3.0, -1.0, 2.0, 0.0]))
        tensor([1., 0., 1., 0.])
        >>> best = Filter(keep=0.5, within="source")
        >>> best.read({"source": torch.tensor([0, 0, 1, 1])})
        >>> best.weights_of_all(torch.tensor([3.0, 4.0, 1.0, 0.0]))
        tensor([0., 1., 1., 0.])

    """

    drops = True

    def __init__(
        self,
        threshold: float | None = None,
        keep: float | None = None,
        window: int = 4096,
        margin: float | None = None,
        refill: bool = True,
        within: str | None = None,
        per_group: int | None = None,
    ) -> None:
        super().__init__()
        check_numbers(threshold=threshold, keep=keep, margin=margin, window=window, per_group=per_group)
        _check_bars(threshold, keep, margin)
        _check_groups(keep, within, per_group)
        if window < 2:
            raise ValueError(f"`window` must be at least 2, got {window}.")
        self.threshold = 0.0 if threshold is None and keep is None else threshold
        self.keep = keep
        self.window = window
        self.refill = refill
        self.within, self.per_group = within, per_group
        if keep is None:
            self.margin = 2.0 if margin is None else margin
        self._scattered = False  # most strata are too small for a quantile of their own

    @property
    def needs(self) -> tuple[str, ...]:
        """See :attr:`Policy.needs`: the strata, and the prompts."""
        names = (self.within, None if self.per_group is None else "prompt")
        return tuple(dict.fromkeys(name for name in names if name is not None))

    @property
    def per_token(self) -> bool:
        """See :attr:`Policy.per_token`."""
        return self.keep is not None

    @property
    def needs_all(self) -> str | None:
        """See :attr:`Policy.needs_all`."""
        if self.per_group is not None:
            return "the best samples of a prompt are not known before all of them are"
        if self._scattered:
            return f"most samples are in strata of fewer than {FEW}, whose best are not known before all of them are"
        return None

    @property
    def judges_alone(self) -> bool:
        """See :attr:`Policy.judges_alone`."""
        return self.keep is None and self.per_group is None

    def read(self, groups: Mapping[str, Tensor]) -> None:
        """See :meth:`Policy.read`; raises ValueError if each stratum has one sample."""
        super().read(groups)
        if self.within is None:
            return
        strata = self._groups[0]
        many = sizes(torch.ones_like(strata, dtype=torch.bool), strata)
        if int(many.max()) == 1:
            raise ValueError(
                f"`within={self.within!r}`: each of {len(strata)} strata has one sample, and at least one of each is "
                "kept, so nothing would be dropped. Choose larger strata, or leave `within` out."
            )
        self._scattered = bool((many < FEW).float().mean() > 0.5)

    def update(self, gain: Tensor, *groups: Tensor) -> None:
        """Put the scored gains into the ring of the last ``window`` ones, without waiting for the device."""
        if self.keep is None:
            return
        if not self._state:
            dtype = torch.promote_types(gain.dtype, torch.float32)  # quantiles need as much
            # The last place takes what is not scored.
            ring = torch.full((self.window + 1,), float("nan"), dtype=dtype, device=gain.device)
            strata = torch.zeros_like(ring, dtype=torch.long)
            self._state = {"ring": ring, "strata": strata, "next": strata.new_zeros(())}
        known = ~gain.isnan()
        place = torch.where(known, (self._state["next"] + known.cumsum(0) - 1) % self.window, self.window)
        self._state["ring"][place] = gain.to(self._state["ring"].dtype)
        if self.within is not None:
            self._state["strata"][place] = groups[0]
        self._state["next"] = self._state["next"] + known.sum()

    def weigh(self, gain: Tensor, *groups: Tensor) -> Tensor:
        """One where the gain passes, zero elsewhere."""
        if self.threshold is not None:
            return (gain > self.threshold).to(gain.dtype)
        ring = self._state["ring"][:-1]
        known, low = ~ring.isnan(), ring <= gain.to(ring.dtype)[:, None]
        passes = self._above_quantile(low, known[None])
        if self.within is not None:
            same = known & (self._state["strata"][:-1] == groups[0][:, None])
            passes = torch.where(same.sum(1) < FEW, passes, self._above_quantile(low, same))
        return passes.to(gain.dtype)

    def weights_of_all(self, gain: Tensor, noise: Tensor | None = None) -> Tensor:
        """See :meth:`Policy.weights_of_all`."""
        gain = scored(gain)
        known = ~gain.isnan()
        kept = torch.ones_like(known)
        if self.threshold is not None:
            kept = torch.where(known, gain + self.margin * (0.0 if noise is None else noise) > self.threshold, kept)
        groups = self._of(torch.arange(len(gain), device=gain.device))
        lowest = torch.finfo(gain.dtype).min
        if self.per_group is not None:
            order = gain.masked_fill(~known, lowest).masked_fill(~kept, float("-inf"))
            kept = kept & (places(order, groups[-1]) < self.per_group)
        if self.keep is not None:
            strata = torch.zeros_like(known, dtype=torch.long) if self.within is None else groups[0]
            share = (self.keep * sizes(known, strata).double() + 0.5).floor().clamp_min(1)
            order = gain.masked_fill(~(known & kept), float("-inf"))
            kept = kept & (~known | (places(order, strata) < share))
        return kept.to(gain.dtype)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`; raises if it is another policy's or of another ``window``."""
        size = len(state["ring"]) - 1 if "ring" in state else self.window
        if size != self.window:
            raise ValueError(f"`window` is {self.window}, the checkpoint was written with {size}: resume with {size}.")
        super().load_state_dict(state)

    @property
    def _kind(self) -> str:
        return super()._kind if self.within is None else f"Filter(within={self.within!r})"

    def _above_quantile(self, low: Tensor, among: Tensor) -> Tensor:
        """Which gains reach the quantile 1 - keep of the gains ``among`` [n or 1, window] those seen, bool [n].

        ``low`` [n, window] says which gains seen are not higher. The quantile is rounded up to a gain that was seen, so
        that keep=1 keeps everything and ties stay together.
        """
        assert self.keep is not None
        below = ((among.sum(1) - 1).double() * (1 - self.keep) - 1e-9).ceil()  # ranks below the quantile's
        return (low & among).sum(1) > below


def _check_bars(threshold: float | None, keep: float | None, margin: float | None) -> None:
    if threshold is not None and keep is not None:
        raise ValueError(f"give `threshold` or `keep`, not both (got {threshold} and {keep}).")
    if keep is not None and not 0 < keep <= 1:
        raise ValueError(f"`keep` must be a share in (0, 1], got {keep}.")
    if threshold is not None and threshold != threshold:
        raise ValueError("`threshold` must be a number, got NaN, which no gain exceeds.")
    if margin is not None and keep is not None:
        raise ValueError(f"`margin` goes with a threshold; `keep={keep}` takes a share of the gains as they are.")
    if margin is not None and not margin >= 0:
        raise ValueError(f"`margin` must not be negative, got {margin}.")


def _check_groups(keep: float | None, within: str | None, per_group: int | None) -> None:
    if within is not None and not isinstance(within, str):
        raise TypeError(f"`within` must be 'prompt', 'source', 'length' or the name of a column, got {within!r}.")
    if within is not None and keep is None:
        raise ValueError(f"`within={within!r}` says where the share `keep` is taken, and there is none: give `keep`.")
    if per_group is not None and (per_group < 1 or per_group != int(per_group)):
        raise ValueError(f"`per_group` must be a whole number from 1, got {per_group}.")
