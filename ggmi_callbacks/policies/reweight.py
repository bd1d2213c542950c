"""Weighing samples by their gain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ggmi_callbacks.policies._shrinkage import shrunk_means
from ggmi_callbacks.policies.base import Policy, check_numbers


class Reweight(Policy):
    """Weighs each sample by its gain, or by its source's, against the running mean of weights.

    One sample's gain is noisy, a source's mean gain is well known. With ``by="source"`` a sample weighs what its
    source's mean gain m_s would weigh, shrunk toward the mean over all by as much as it is uncertain:

        m_s = mean + tau^2 / (tau^2 + se_s^2) (mean_s - mean)

    se_s^2 is the pooled variance within sources over n_s. tau^2, the variance between sources, is found by moments
    (DerSimonian and Laird 1986, with the variance within sources common to all, which is the analysis of variance's);
    where sources differ by no more than chance it is zero, and every weight is exactly 1.

    Args:
        temperature: in standard deviations of gain; small is close to a filter at the mean, large to plain training.
        min_weight: weights are clipped from below, after division by their running mean,
        max_weight: and from above.
        by: ``"source"`` weighs whole sources; samples without a source are one of them. By default each sample is
            weighed for itself.

    Raises:
        TypeError: if a number is none.
        ValueError: if ``temperature`` is not positive, the bounds do not enclose 1, ``by`` is anything else, or there
            is one source only.

    Example:
        Equal gains give exactly one.

        >>> import torch
        >>> Reweight()(torch.tensor([0.3, 0.3, 0.3]))
        tensor([1., 1., 1.])
        >>> Reweight(temperature=0.5)(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([0.1590, 1.0000, 1.8410])
        >>> policy = Reweight(by="source")
        >>> policy.read({"source": torch.tensor([0, 0, 1, 1])})
        >>> policy(torch.tensor([-1.1, -0.9, 0.9, 1.1]), ids=torch.arange(4))
        tensor([0.5418, 0.5418, 1.4582, 1.4582])

    """

    def __init__(
        self,
        temperature: float = 1.0,
        min_weight: float = 0.0,
        max_weight: float = 5.0,
        by: Literal["source"] | None = None,
    ) -> None:
        super().__init__()
        check_numbers(temperature=temperature, min_weight=min_weight, max_weight=max_weight)
        if not temperature > 0:
            raise ValueError(f"`temperature` must be positive, got {temperature}.")
        if not 0 <= min_weight <= 1 <= max_weight:
            raise ValueError(
                "`min_weight` and `max_weight` must satisfy 0 <= min_weight <= 1 <= max_weight, "
                f"got {min_weight} and {max_weight}."
            )
        if by not in (None, "source"):
            raise ValueError(f"`by` must be 'source' or None, got {by!r}.")
        self.temperature, self.min_weight, self.max_weight, self.by = temperature, min_weight, max_weight, by
        self._sources = 1

    @property
    def needs(self) -> tuple[str, ...]:
        """See :attr:`Policy.needs`."""
        return () if self.by is None else (self.by,)

    def read(self, groups: Mapping[str, Tensor]) -> None:
        """See :meth:`Policy.read`; raises ValueError if there is one source only."""
        super().read(groups)
        if self.by is None:
            return
        source = self._groups[0]
        if int(source.min()) == int(source.max()):
            raise ValueError(
                f"`by={self.by!r}` weighs sources against each other, and all {len(source)} samples are of one: name "
                "two or more, or use Reweight()."
            )
        self._sources = int(source.max()) + 1

    def update(self, gain: Tensor, *groups: Tensor) -> None:
        """Add to the sums of gain and gain^2, of each source, or of gain, gain^2 and raw weight.

        In float64, where the sum of equal float32 numbers and its quotient are exact: equal gains give exactly one.
        """
        known, value = ~gain.isnan(), gain.double().nan_to_num(0.0)
        source = groups[0] if groups else torch.zeros_like(gain, dtype=torch.long)
        member = known & (source == torch.arange(self._sources, device=gain.device)[:, None])  # [S, n]
        new = {"count": member.sum(1).double(), "sum": (member * value).sum(1), "squares": value.square().sum()}
        if not self._state:
            self._state = {name: torch.zeros_like(v) for name, v in new.items()} | {"raw": value.new_zeros(())}
        self._state = {**self._state, **{name: self._state[name] + v for name, v in new.items()}}
        if self.by is None:
            raw = (self._raw(gain.double()) * known).nan_to_num(0.0).sum()
            self._state["raw"] = self._state["raw"] + raw

    def weigh(self, gain: Tensor, *groups: Tensor) -> Tensor:
        """Raw weight over its running mean, clipped."""
        count = self._state["count"]
        if self.by is None:
            raw, mean = self._raw(gain.double()), self._state["raw"] / count.sum().clamp_min(1)
        else:
            each = self._raw(shrunk_means(count, self._state["sum"], self._state["squares"]))  # [S]
            raw, mean = each[groups[0]], (count * each).sum() / count.sum().clamp_min(1)
        return (raw / mean).clamp(self.min_weight, self.max_weight).to(gain.dtype)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`; raises if it is another policy's or of other sources."""
        super().load_state_dict(state)
        found = len(state["count"]) if "count" in state else self._sources
        if found != self._sources:
            raise ValueError(
                f"the checkpoint was written with {found} sources, this run has {self._sources}: resume with the same "
                "training set."
            )

    @property
    def _kind(self) -> str:
        return super()._kind if self.by is None else f"Reweight(by={self.by!r})"

    def _raw(self, gain: Tensor) -> Tensor:
        """Weights of ``gain``, a sample's or a source's, before they are divided by their mean."""
        count = self._state["count"].sum().clamp_min(1)
        mean = self._state["sum"].sum() / count
        # squares / count - mean^2 cancels to rounding, not to zero, when all gains are equal; the numerator is zero.
        deviation = (self._state["squares"] / count - mean.square()).clamp_min(0).sqrt()
        return 2 * torch.sigmoid((gain - mean) / (self.temperature * deviation.clamp_min(1e-12)))
