"""The callback for the trainers of TRL: which kind it is, its trainer's type says.

A kind is a subclass in a file of its own, for one class of trainers, which it names as ``trainer_class``.
"""

from __future__ import annotations

from os import PathLike
from typing import Any

from transformers import Trainer
from trl import RichProgressCallback

from ggmi_callbacks.integrations import transformers as base
from ggmi_callbacks.policies import Policy
from ggmi_callbacks.scorers import Scorer

_KINDS: dict[type[Trainer], type[GGMICallback]] = {}


class GGMICallback(base.GGMICallback):
    """Monitors, filters or reweights the training samples of a trainer of TRL by their gain.

    The trainer's type says what a sample is.

    ``SFTTrainer``: a row, or a segment of a packed one.

    ``DPOTrainer``, ``RewardTrainer``: a pair, the chosen and the rejected answer. Anchors are pairs too.

    ``GRPOTrainer``, ``RLOOTrainer``: a rollout; groups of one prompt are dropped whole. Anchors are not needed for what
    rewards and siblings tell; ``source``, ``heldout`` and ``overhead`` are refused.

    Anchors come in any form that ``SFTTrainer`` takes and get the very preprocessing of its training set; a list may
    hold rows, lists of messages or texts, and packed rows are split into their samples. Packed and padding-free
    batches are scored, weighed and filtered per sample, that is per segment.

    Args:
        trainer: the trainer, already built.
        anchors: real examples of the task; without any there are losses by ``source``, and what a ``scorer`` reads off
            the training set.
        policy: as the other arguments below, see :class:`ggmi_callbacks.integrations.transformers.GGMICallback`.
        scorer: how gain is estimated; by default :class:`~ggmi_callbacks.LikelihoodScorer`, in nats. Where three
            samples in four have two other answers to their prompt, a ``Filter`` without a threshold and ``Reweight``
            also count whether they agree, in spreads: see :class:`~ggmi_callbacks.GainEngine`. A packed set is read if
            ``train_dataset`` is given.
        source: column of the training set that says where a sample came from; losses by source are logged, of each
            evaluation set that has this column too.
        overhead: share of step time that scoring may take.
        shadow_learning_rate: of the shadow run on the anchors.
        shadow_epochs: at most so many passes of the shadow over the anchors.
        heldout: a share of the training set that is never trained on, as 0.02, or other samples like those of it.
        ledger: folder into which the ledger is written as the run goes; None to keep it in memory.
        train_dataset: the data set that was given to a trainer with ``packing=True``. Packing keeps tokens alone;
            ids (positions in this data set) and sources are found again by content. Without it samples are
            numbered as packed, and have no sources.
        eval_dataset: the evaluation sets that were given to a trainer that packs them, likewise, for their losses by
            source; without them packed evaluation sets have none.

    """

    _consoles = (*base.GGMICallback._consoles, RichProgressCallback)

    def __init_subclass__(cls) -> None:
        if "trainer_class" in vars(cls):
            _KINDS.setdefault(cls.trainer_class, cls)

    def __init__(
        self,
        trainer: Any = None,
        anchors: Any = None,
        *,
        policy: Policy | None = None,
        scorer: Scorer | None = None,
        source: str | None = None,
        overhead: float | None = None,
        shadow_learning_rate: float | None = None,
        shadow_epochs: int = 3,
        heldout: Any = None,
        ledger: str | PathLike[str] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
    ) -> None:
        if type(self) is GGMICallback:
            self.__class__ = _kind_of(trainer)
        self._unpacked, self._unpacked_eval = train_dataset, eval_dataset
        super().__init__(
            trainer,
            anchors,
            policy=policy,
            scorer=scorer,
            source=source,
            overhead=overhead,
            shadow_learning_rate=shadow_learning_rate,
            shadow_epochs=shadow_epochs,
            heldout=heldout,
            ledger=ledger,
        )


def _kind_of(trainer: Any) -> type[GGMICallback]:
    """The callback for the class that ``trainer`` is nearest to; the first one refuses what it does not know."""
    return next((_KINDS[c] for c in type(trainer).__mro__ if c in _KINDS), next(iter(_KINDS.values())))
