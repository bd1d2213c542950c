"""Twins without holding anything back: samples that were trained on, beside samples of the same law that were not.

    gap = E[loss of a sample not trained on] - E[loss of a sample trained on]       nats per token, one and the same W

In a first epoch over shuffled data the samples still to come are such twins of those in the past. A *look* evaluates a
batch from the whole past at a logging step (in), and the next batch to come before the update that uses it (out): the
same weights, the same mode, and nothing changes for the run. Where samples are held out for good they are the twins,
in any epoch. Losses are calibrated by the shadow, which saw neither (:mod:`ggmi_callbacks.functional._twins`).

Looks draw from the past with replacement, so that each is a uniform sample of it, and held-out batches come in turn. An
interval takes pairs for independent: of a sample that was looked at several times, :meth:`Pairs.distinct` leaves the
last look alone.

Both twins have to be of one law. What is trained on under a filter are the samples that it keeps, so of those held out
the same are taken: :class:`Twins` asks the policy. Weights other than zero and one leave the law of the samples as it
is, and so the gap under them is that of samples as they come, unweighted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from ggmi_callbacks.distributed import is_distributed, rank_and_size
from ggmi_callbacks.engine.replay import Reservoir, Visit
from ggmi_callbacks.functional._twins import calibrated
from ggmi_callbacks.model import Parameters, Probe

_PAST = 32  # batches of the past that are kept
_MOST = 4096  # pairs that are kept
_FIELDS = 5  # of a sample: nll, nll under the fixed weights, tokens, source, identity
FEWEST = 8
"""Pairs below which nothing is said of them."""


@dataclass
class Pairs:
    """Pairs of twins, one of which the weights of the moment were trained on; nats."""

    step: Tensor  # [k] of the look
    nll: Tensor  # [2, k]; in, out
    reference: Tensor  # [2, k] the same under the fixed weights, NaN where there are none
    tokens: Tensor  # [2, k]
    source: Tensor  # [2, k] codes
    sample: Tensor  # [2, k] by which a sample is known again

    def __len__(self) -> int:
        return len(self.step)

    def since(self, step: int) -> Pairs:
        """The pairs of looks after ``step``."""
        return self._select(self.step > step)

    def last(self, n: int) -> Pairs:
        """The ``n`` pairs that were found last."""
        return self._select(slice(len(self) - n, None))

    def distinct(self) -> Pairs:
        """The pairs neither of whose samples comes again, on the same side of a later pair."""
        return self._select(_comes_last(self.sample[0]) & _comes_last(self.sample[1]))

    def losses(self, per_token: bool = True) -> tuple[Tensor, Tensor]:
        """Calibrated losses of the samples in and out, [k] each, nats per token or per sample."""
        scale = self.tokens if per_token else torch.ones_like(self.tokens)
        (inside, outside), (known, unknown) = self.nll / scale, self.reference / scale
        return calibrated(inside, outside, known, unknown)

    def unseen(self) -> Pairs:
        """Pairs of two samples that were both not trained on, of one look each, none twice: the null control."""
        once = self._select(_comes_last(self.sample[1]))
        even, odd = _neighbours(once.step)
        fields = (torch.stack((x[1, even], x[1, odd])) for x in list(vars(once).values())[1:])
        return Pairs(once.step[even], *fields)

    def _select(self, which: Tensor | slice) -> Pairs:
        return Pairs(*(field[..., which] for field in vars(self).values()))


class Twins:
    """Collects pairs of twins; nothing here waits for the device but :meth:`collect`.

    Args:
        probe: the model and its task.
        reference: fixed weights, trained on none of the samples, by which losses are calibrated.
        heldout: batches that are never trained on; without any, samples still to come are the twins.
        seed: of the draws.
        device: where numbers are kept.
        keeps: which samples of a held-out batch the policy would train on, bool [n]; None if it is all of them.

    """

    def __init__(
        self,
        probe: Probe,
        reference: Parameters,
        heldout: Sequence[Visit],
        seed: int,
        device: torch.device,
        keeps: Callable[[Visit], Tensor] | None = None,
    ) -> None:
        self.probe, self.reference = probe, reference
        self.past = Reservoir(_PAST, seed)
        self.over = False
        """Whether samples come again and none is held out, so that there are no twins any more."""
        self._heldout, self._keeps = heldout, keeps
        self._next = rank_and_size()[0]  # of the held-out batches
        self._inside: Tensor | None = None  # evaluated at a logging step, and waiting for the next batch
        self._new = self._rows = torch.empty(1 + 2 * _FIELDS, 0, dtype=torch.float64, device=device)

    def look(self, step: int) -> None:
        """Evaluate a batch of the past now, and its twins: held-out ones now, the next samples when they come."""
        visits = [] if self.over else self.past.draw(1)
        if not visits:
            return
        inside = self._measure(visits[0])
        if self._heldout:
            self._pair(step, inside, self._measure_unseen(self._heldout[self._next % len(self._heldout)]))
            self._next += rank_and_size()[1]
        else:
            self._inside = inside

    @property
    def waits(self) -> bool:
        """Whether the next batch is to be evaluated before it is trained on."""
        return self._inside is not None

    def meet(self, step: int, visit: Visit, first: Tensor) -> None:
        """Take a batch that is about to be trained on; ``first`` [n] says which of its samples have not been yet."""
        if self._inside is not None:
            outside = self._measure(visit)
            outside[0] = outside[0].masked_fill(~first, float("nan"))
            self._pair(step, self._inside, outside)
            self._inside = None
        if not self.over:
            self.past.add(visit)

    def look_at_all(self, step: int) -> None:
        """Evaluate what is held out, and as many samples of the past; ranks share the held-out batches."""
        rank, size = rank_and_size()
        nothing = self._new[1 : 1 + _FIELDS, :0]
        outside = torch.cat([nothing, *map(self._measure_unseen, self._heldout[rank::size][:_PAST])], 1)
        inside = nothing
        for visit in self.past.draw(_PAST):
            if inside.shape[1] < outside.shape[1]:
                inside = torch.cat([inside, self._measure(visit)], 1)
                inside = inside[:, _comes_last(inside[-1])]  # the past of several epochs holds a sample several times
        self._pair(step, inside, outside)

    def collect(self) -> int:
        """Pool what all ranks have found since the last call; the number of new pairs. Every rank must call it."""
        new = self._new
        if is_distributed():
            new = torch.cat(gather_all_tensors(new.T.contiguous())).T
        inside, outside = new[1:].split(_FIELDS)
        known = [side[0].isfinite() & (side[2] > 0) for side in (inside, outside)]
        new = new[:, known[0] & known[1]]
        self._new = new[:, :0]
        self._rows = torch.cat([self._rows, new], 1)[:, -_MOST:]
        return new.shape[1]

    def pairs(self) -> Pairs:
        """All pairs that were collected."""
        step, inside, outside = self._rows.split([1, _FIELDS, _FIELDS])
        return Pairs(step[0], *torch.stack((inside, outside), 1))

    def stop(self) -> None:
        """Give up: what is left of the run trains on its samples again."""
        self.over, self._inside = True, None
        self.past.visits.clear()
        self._new = self._rows = self._rows[:, :0]

    @property
    def holds_out(self) -> bool:
        """Whether there are samples that are never trained on."""
        return bool(self._heldout)

    def state_dict(self) -> dict[str, Any]:
        """Pairs, the past, and where the draws are."""
        names = ("over", "_next", "_inside", "_new", "_rows")
        return copy.deepcopy({"past": self.past.state_dict(), **{name: getattr(self, name) for name in names}})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`."""
        state = copy.deepcopy(state)
        self.past.load_state_dict(state.pop("past"))
        vars(self).update(state)

    def _measure_unseen(self, visit: Visit) -> Tensor:
        """The same of the samples of a held-out batch that would be trained on."""
        found = self._measure(visit)
        return found if self._keeps is None else found[:, self._keeps(visit)]

    def _measure(self, visit: Visit) -> Tensor:
        """Nll now, nll under the fixed weights, tokens, source and identity of each sample of ``visit``, [5, n]."""
        if visit.reference is None:
            visit.reference = self.probe.nll(visit.inputs, visit.layout, self.reference)
        now = self.probe.nll(visit.inputs, visit.layout)
        assert visit.source is not None
        assert visit.identity is not None
        told = (now, visit.reference, visit.layout.tokens, visit.source, visit.identity)
        return torch.stack([x.double() for x in told])

    def _pair(self, step: int, inside: Tensor, outside: Tensor) -> None:
        n = min(inside.shape[1], outside.shape[1])
        steps = torch.full_like(inside[:1, :n], step)
        self._new = torch.cat([self._new, torch.cat([steps, inside[:, :n], outside[:, :n]])], 1)


def _comes_last(sample: Tensor) -> Tensor:
    """Whether a name [k] does not come again, bool [k]."""
    _, which = sample.unique(return_inverse=True)
    place = torch.arange(len(sample), device=sample.device)
    return torch.zeros_like(place).scatter_reduce(0, which, place, "amax")[which] == place


def _neighbours(step: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of two samples each of one look, drawn without regard to their places in the batch."""
    draw = torch.rand(len(step), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order = (step + draw.to(step)).argsort()
    look = step[order].contiguous()
    place = torch.arange(len(look), device=look.device) - torch.searchsorted(look, look)  # in its look
    even = (place[:-1] % 2 == 0) & (look[:-1] == look[1:])
    return order[:-1][even], order[1:][even]
