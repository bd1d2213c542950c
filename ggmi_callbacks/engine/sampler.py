"""Drawing samples as often as a policy would weigh them."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from ggmi_callbacks.distributed import rank_and_size
from ggmi_callbacks.engine.engine import GainEngine
from ggmi_callbacks.policies import Policy, Reweight, check_policy

_AT_ONCE = 64  # draws by the same weights


class GainSampler(Sampler[int]):
    """Draws positions in the training set, with replacement, by what is known of gains so far.

        p(i) = w(gain_i) / sum_j w(gain_j),   w = 1 for a sample whose gain is not known yet

    To draw by a weight instead of putting it on the loss has the same expected gradient, up to a factor, and spends no
    time on what counts little. Gains are those of ``engine``, which finds them while it trains, or knows them from the
    data; weights are found again every 64 draws. Each rank draws for itself.

    Args:
        engine: with a scorer whose gains never change, and ``num_samples`` or ``data``; it may only monitor, or the
            weights would count twice. Prepare it before the first draw.
        policy: what a gain does to a weight, compared with the gains of the whole training set;
            :class:`~ggmi_callbacks.Reweight` by default.
        num_samples: draws in an epoch, of all ranks; as many as there are samples by default.
        seed: of the draws.

    Raises:
        TypeError: if ``policy`` is no policy.
        ValueError: if gains change with the weights, ``engine`` does not know the training set's size, or it acts
            itself; while drawing, if the policy keeps nothing.

    Example:
        >>> import torch
        >>> from ggmi_callbacks import ColumnScorer, Filter
        >>> from ggmi_callbacks.tasks import SampleLoss
        >>> data = [{"x": float(i), "right": i < 2} for i in range(6)]
        >>> task = SampleLoss(lambda model, batch: model(batch["x"][:, None]).square()[:, 0])
        >>> anchors = [{"x": torch.randn(2)} for _ in range(2)]
        >>> model = torch.nn.Linear(1, 1)
        >>> engine = GainEngine(model, anchors, task=task, data=data, scorer=ColumnScorer("right"), progress=False)
        >>> engine.prepare()
        >>> sorted(set(GainSampler(engine, Filter())))
        [0, 1]

    """

    def __init__(
        self, engine: GainEngine, policy: Policy | None = None, num_samples: int | None = None, seed: int = 0
    ) -> None:
        self.engine, self.policy = engine, Reweight() if policy is None else check_policy(policy)
        if engine.policy.acts:
            raise ValueError(
                f"`engine` acts by {engine.policy!r}, so gains would count twice: give it no policy, and this one here."
            )
        if not engine.scorer.static:
            raise ValueError(
                f"`engine` has {engine.scorer}, whose gains change with the weights: what was found of a sample is "
                "stale when it could be drawn again. Use LikelihoodScorer(), or Reweight() on the loss."
            )
        if not engine.num_samples:
            raise ValueError(
                "`engine` does not know how many samples there are: give GainEngine(num_samples=len(data))."
            )
        if num_samples is not None and num_samples < 1:
            raise ValueError(f"`num_samples` must be at least 1, got {num_samples}.")
        self.num_samples = engine.num_samples if num_samples is None else num_samples
        rank, self._ranks = rank_and_size()
        self._generator = torch.Generator().manual_seed(seed + rank)

    def __len__(self) -> int:
        return -(-self.num_samples // self._ranks)

    def __iter__(self) -> Iterator[int]:
        for start in range(0, len(self), _AT_ONCE):
            draws = min(_AT_ONCE, len(self) - start)
            yield from torch.multinomial(self.weights(), draws, replacement=True, generator=self._generator).tolist()

    def weights(self) -> Tensor:
        """Weight of each sample by what is known now, on the CPU, [N]; waits for the device.

        Raises:
            RuntimeError: before ``engine.prepare()``.
            ValueError: if all of them are zero.

        """
        if not self.engine.prepared:
            raise RuntimeError("the engine is not prepared: call `engine.prepare()` before the first draw.")
        table = self.engine.intake.table
        assert table is not None
        known = table.get(slice(None))
        policy = copy.deepcopy(self.policy)  # its statistics are those of the whole set, each time anew
        policy.reset()
        gain = torch.where(table.known > 0, known.gain, torch.nan)
        weights = policy(gain, noise=known.noise).double().cpu()
        if not weights.any():
            raise ValueError(
                f"`policy` {self.policy!r} keeps none of the {len(weights)} samples: nothing can be drawn."
            )
        return weights
