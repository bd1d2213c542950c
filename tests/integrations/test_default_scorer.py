"""Several answers to a prompt: what a callback without ``scorer`` makes of them."""

from __future__ import annotations

from datasets import Dataset

from ggmi_callbacks import Filter, Monitor

from .._sums import sums
from ._jobs import BOTH

ANSWERS = 3


def siblings() -> Dataset:
    """Three answers to each of ten sums, the last of them odd."""
    right = sums(10, bad=False)
    odd = [{**row, "completion": f" zebra qux {i} mumble"} for i, row in enumerate(right)]
    return Dataset.from_list([row for pair in zip(right, right, odd, strict=True) for row in pair])


@BOTH
def test_a_filter_also_counts_whether_answers_agree_and_its_results_say_so(kind, make_trainer):
    trainer, callback = make_trainer(kind, Filter(), train=siblings())
    trainer.train()
    results = callback.results()
    assert results["scorer"] == "JointScorer: least of likelihood, agreement, from their own zero"
    assert results["gain_unit"] == "spreads"
    assert results["ggmi/shared_information_low"] > results["ggmi/shared_information_null"]
    rows = callback.ledger.table.to_pylist()
    agreed = {row["id"]: row["gain/agreement"] for row in rows}
    assert min(value for i, value in agreed.items() if i % ANSWERS < 2) > 0
    assert all(not row["kept"] for row in rows if row["gain/agreement"] <= 0)


@BOTH
def test_a_monitor_tells_nats_whatever_the_data(kind, make_trainer):
    trainer, callback = make_trainer(kind, Monitor(), train=siblings())
    trainer.train()
    results = callback.results()
    assert (results["scorer"], results["gain_unit"]) == ("LikelihoodScorer", "nats per sample")
    assert "ggmi/shared_information" not in results
