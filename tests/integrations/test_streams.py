"""Streams: no length, shards read by several workers, and ids that name one sample each."""

from __future__ import annotations

import pytest
from datasets import Dataset
from torch.utils.data import IterableDataset

from ggmi_callbacks import Filter, Monitor, Reweight
from ggmi_callbacks.integrations._datasets import number

from .._sums import sums
from ._jobs import BOTH, callback_class, tokenised


def stream(kind, tokenizer, shards=4):
    data = Dataset.from_list(sums(32))
    return (data if kind == "sft" else tokenised(data, tokenizer)).to_iterable_dataset(num_shards=shards)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("workers", [0, 2, 3])
def test_ids_of_a_stream_are_unique_whatever_workers_read_it_and_come_again_with_their_samples(
    kind, workers, make_trainer, tokenizer
):
    trainer, callback = make_trainer(
        kind, Monitor(), train=stream(kind, tokenizer), max_steps=16, dataloader_num_workers=workers
    )
    trainer.train()
    ids = callback.ledger.table["id"].to_pylist()
    assert len(set(ids[:32])) == 32
    assert sorted(ids[32:]) == sorted(ids[:32])


def test_ids_of_a_stream_are_unique_over_ranks():
    rows = Dataset.from_list([{"x": i} for i in range(8)]).to_iterable_dataset(num_shards=2)
    ids = [row["ggmi_sample"] for rank in range(2) for row in number(rows.shard(2, rank), ranks=2, rank=rank)]
    assert len(set(ids)) == 8


@BOTH
@pytest.mark.filterwarnings("ignore:Filter.* cannot refill batches here .a stream")
@pytest.mark.parametrize("policy", [lambda: Filter(keep=0.5), Reweight], ids=["filter", "reweight"])
def test_policies_act_on_a_stream(kind, policy, make_trainer, tokenizer):
    trainer, callback = make_trainer(kind, policy(), train=stream(kind, tokenizer), max_steps=4)
    trainer.train()
    assert len({row["weight"] for row in callback.ledger.table.to_pylist()}) > 1


@BOTH
def test_sources_of_a_stream_are_refused_by_name(kind, make_trainer, tokenizer):
    with pytest.raises(ValueError, match="`source` 'source' needs a data set with a length"):
        make_trainer(kind, Monitor(), train=stream(kind, tokenizer), callback={"source": "source"}, max_steps=4)


def test_a_stream_that_cannot_be_numbered_is_refused_by_name(make_trainer):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([])

    trainer, _ = make_trainer("trainer")
    human, trainer.train_dataset = trainer.train_dataset.select(range(8)), Stream()
    with pytest.raises(ValueError, match="`train_dataset` must be a `datasets` data set or have a length"):
        callback_class("trainer")(trainer, human)


def test_a_stream_with_packing_is_refused_by_name(make_trainer, tokenizer):
    with pytest.raises(ValueError, match=r"`packing=True` on a stream.*Set `packing=False`"):
        make_trainer("sft", Monitor(), train=stream("sft", tokenizer), packing=True, max_length=64, max_steps=2)
