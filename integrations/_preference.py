"""The callbacks for ``DPOTrainer`` and ``RewardTrainer``: a sample is a pair, a chosen and a rejected answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import takewhile
from typing import Any

import datasets
from transformers import Trainer
from trl import DPOTrainer, RewardTrainer

from ggmi_callbacks.data import SampleData, decoder
from ggmi_callbacks.engine import SampleEngine
from ggmi_callbacks.engine.default import default_scorer
from ggmi_callbacks.integrations import _compat
from ggmi_callbacks.integrations._anchors import naming_columns
from ggmi_callbacks.integrations._datasets import Samples
from ggmi_callbacks.integrations._pairs import ChosenRows, PairLoss
from ggmi_callbacks.integrations._refill import RefilledLoader
from ggmi_callbacks.integrations._sft import FusedCausalLM
from ggmi_callbacks.integrations._trl import GGMICallback
from ggmi_callbacks.scorers import (
    DistinctScorer,
    FileScorer,
    JointScorer,
    PairScorer,
    PromptInformationScorer,
    SiblingScorer,
    SimilarityScorer,
)
from ggmi_callbacks.tasks import Inputs, PairedCausalLM, PairedReward, Task, chosen_side

EACH_PAIR = {
    "sigmoid",
    "sigmoid_norm",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "apo_zero",
    "apo_down",
    "discopop",
}
"""Loss types of ``DPOTrainer`` that are a mean over pairs, each term of one pair alone."""


class PairCallback(GGMICallback):
    """What the callbacks for trainers on pairs have in common."""

    _loss_class = PairLoss
    _of_answers = (DistinctScorer, FileScorer, PromptInformationScorer, SiblingScorer, SimilarityScorer)

    @staticmethod
    def _chosen(row: dict[str, Any]) -> tuple[list[int], list[int]]:
        """Prompt and chosen answer of a row, token ids."""
        raise NotImplementedError

    def _prepare_anchors(self, anchors: Any) -> Any:
        if not isinstance(anchors, datasets.Dataset):
            anchors = datasets.Dataset.from_list([anchors[i] for i in range(len(anchors))])
        with naming_columns(anchors):
            prepared = _compat.prepare_pairs(self.trainer, anchors, "anchors")
        return _compat.used_columns(self.trainer, prepared, "anchors")

    def _heldout_collator(self) -> Callable[[list[Any]], Inputs]:
        return self.trainer.data_collator

    def _read_samples(self, source: str | None) -> Samples:
        found = super()._read_samples(source)
        if found.size is None:
            return found
        tokens, decode = ChosenRows(found.data, self._chosen), decoder(self.trainer.processing_class)
        return replace(found, table=SampleData(found.data, tokens, decode))

    def _refuse(self, trainer: Any) -> None:
        super()._refuse(trainer)
        if self._unpacked is not None or self._unpacked_eval is not None:
            raise ValueError(
                f"`train_dataset` and `eval_dataset` of the callback are for packed rows, and {type(trainer).__name__} "
                "packs none: leave them out."
            )
        if self.policy.drops and trainer.args.world_size > 1:
            raise ValueError(
                f"`{self.policy!r}` on {trainer.args.world_size} ranks: {self.trainer_class.__name__} gathers the "
                "rewards of as many pairs from each rank, and a filter leaves each another number. Use `Reweight()`, "
                "or one process."
            )

    def _make_engine(self) -> SampleEngine:
        for scorer in self._scorer.scorers if isinstance(self._scorer, JointScorer) else (self._scorer,):
            if isinstance(scorer, self._of_answers):
                raise ValueError(
                    f"`scorer`: {type(scorer).__name__} reads single answers, and here a sample is a pair. Use "
                    "`PairScorer`, `LikelihoodScorer`, `GradientScorer`, `LookaheadScorer`, `AgreementScorer` or "
                    "`ColumnScorer`, alone or in a `JointScorer(zero='own')`."
                )
        if isinstance(self._scorer, JointScorer) and self._scorer.label is not None:
            raise ValueError(
                f"`JointScorer(label={self._scorer.label!r})` learns from single answers, and here a sample is a "
                "pair: leave `label` out and give `zero='own'`."
            )
        return super()._make_engine()


class DPOCallback(PairCallback):
    """Monitors, filters or reweights the pairs of a ``DPOTrainer``: gain(pair) = gain(chosen) - gain(rejected).

    Anchors are pairs as those of the training set; the shadow learns their chosen answers. Losses by source are
    log p(rejected) - log p(chosen) in nats per token: below zero where the chosen answer is the likelier.

    Weights, and a filter whose batches shrink, need loss types whose terms each depend on one pair (``EACH_PAIR``).
    ``"sft"`` may be weighed too, a mean over the tokens of a batch. Refilled batches are whole, whatever the loss.
    """

    trainer_class: type[Trainer] = DPOTrainer

    @staticmethod
    def _chosen(row: dict[str, Any]) -> tuple[list[int], list[int]]:
        return row["prompt_ids"], row["chosen_ids"]

    def _task(self) -> Task:
        return PairedCausalLM(FusedCausalLM())

    def _anchor_collator(self) -> Callable[[list[Any]], Inputs]:
        collate = self.trainer.data_collator
        return lambda rows: chosen_side(collate(rows))

    def _refuse(self, trainer: Any) -> None:
        super()._refuse(trainer)
        if _compat.sees_images(trainer):
            raise ValueError("vision data sets are not supported by GGMICallback: train on text pairs.")
        if self.policy.acts and not self.policy.refill:
            self._refuse_coupled(trainer)

    def _get_train_dataloader(self) -> Any:
        loader = super()._get_train_dataloader()
        if self.policy.drops and not isinstance(loader, RefilledLoader):
            self._refuse_coupled(self.trainer)
        return loader

    def _refuse_coupled(self, trainer: Any) -> None:
        """Raise where pairs of a batch share a term of the loss, so that none can be weighed or left out alone."""
        accepted = EACH_PAIR if self.policy.drops else EACH_PAIR | {"sft"}
        types = trainer.args.loss_type
        others = sorted(set([types] if isinstance(types, str) else types) - accepted)
        if others:
            raise ValueError(
                f"`loss_type` {', '.join(map(repr, others))} with {self.policy!r}: its terms are not each of one pair "
                "alone, so that none can be weighed or left out. Use `Monitor()`, a `Filter()` that refills its "
                f"batches (one process, a data set with a length), or one of {', '.join(sorted(accepted))}."
            )
        if trainer.aux_loss_enabled:
            raise ValueError(
                f"`router_aux_loss_coef={trainer.router_aux_loss_coef}` with {self.policy!r}: the balance of experts "
                "is a loss of the whole batch. Set it to 0, or use `Monitor()` or a `Filter()` that refills batches."
            )

    def _make_engine(self) -> SampleEngine:
        if self._options["scorer"] is None and self._anchors is not None:
            self._options["scorer"] = default_scorer(self.policy, self._samples.table, PairScorer)
        if isinstance(self._scorer, JointScorer) and self._scorer.zero == "anchors":
            raise ValueError(
                "`JointScorer(zero='anchors')`: an anchor is one answer, whose gain is no difference between two as "
                "that of a pair is. Give `zero='own'`."
            )
        return super()._make_engine()


class RewardCallback(PairCallback):
    """Monitors, filters or reweights the pairs of a ``RewardTrainer``, by their code length under the reward model.

    That is -log sigmoid(r(chosen) - r(rejected)), nats. Anchors are pairs that people judged. A loss with a
    ``margin`` or ``center_rewards_coefficient`` is weighed whole; neither is part of the code length.
    """

    trainer_class: type[Trainer] = RewardTrainer

    @staticmethod
    def _chosen(row: dict[str, Any]) -> tuple[list[int], list[int]]:
        chosen = row["chosen_ids"]
        both = zip(chosen, row["rejected_ids"], strict=False)
        shared = sum(1 for _ in takewhile(lambda two: two[0] == two[1], both))
        return chosen[:shared], chosen[shared:]

    def _task(self) -> Task:
        return PairedReward()
