"""Which sample is which: ids, first visits, and what is refused where nobody can know."""

from __future__ import annotations

import pytest
import torch

from ggmi_callbacks import CausalLM, Monitor, Numbered, SampleLoss
from ggmi_callbacks.data import CarryIds
from ggmi_callbacks.engine.visits import Visits
from ggmi_callbacks.tasks import SAMPLE_KEY
from tests._batches import packed, padded, samples
from tests._loop import builder, stream


@pytest.fixture
def build(make_model):
    return builder(make_model)


def without_ids(batch):
    return {k: v for k, v in batch.items() if k != SAMPLE_KEY}


@pytest.mark.parametrize("settings", [{}, {"sources": None, "num_samples": 80}], ids=["sources", "num_samples"])
def test_sources_and_sizes_without_ids_are_refused_at_the_first_batch(build, settings) -> None:
    loop = build(**settings)
    with pytest.raises(ValueError, match=r"carries no sample ids.*80 samples.*'ggmi_sample'"):
        loop.step(without_ids(stream(1)[0]))


def test_a_loop_without_epochs_or_ids_counts_each_sample_once(build) -> None:
    loop = build(Monitor(), sources=None, overhead=0.9)
    for _ in range(3):
        for batch in stream(2):
            loop.step(without_ids(batch))
    loop.engine.log()
    assert loop.engine.finish()["ggmi/synthetic_samples"] == 8


def test_later_passes_do_not_shorten_the_first_code_lengths(build) -> None:
    """Only first visits pair with second looks: the pairs of a second pass would tell nearly nothing."""
    numbers = []
    for passes in (1, 3):
        loop = build(Monitor(), sources=None, overhead=0.9)
        loop.model.eval()
        first = 0.0
        for i in range(passes):
            for batch in stream(2):
                with torch.no_grad():
                    first -= float(CausalLM().log_probs(loop.model, batch).sum()) if i == 0 else 0.0
                loop.step(batch)
        with torch.no_grad():
            now = -sum(float(CausalLM().log_probs(loop.model, batch).sum()) for batch in stream(2))
        loop.engine.log()
        found = loop.engine.finish()
        numbers.append(found["ggmi/synthetic_information_mixture"])
        assert found["ggmi/synthetic_information_mixture"] == pytest.approx(first - now, rel=1e-4)
    assert numbers[1] > numbers[0]


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (torch.arange(3), "each of 4 samples, got 3"),
        (torch.arange(4.0), "got 4 of torch.float32"),
        (torch.ones(4, dtype=torch.bool), "got 4 of torch.bool"),
    ],
    ids=["short", "floating", "bool"],
)
def test_ids_that_are_no_whole_numbers_one_a_sample_are_refused(build, ids, words) -> None:
    with pytest.raises(ValueError, match=f"'ggmi_sample' must hold a whole number for.*{words}"):
        build().step({**stream(1)[0], SAMPLE_KEY: ids})


@pytest.mark.parametrize("bad", [-1, 80])
def test_ids_outside_the_training_set_are_refused_when_logging(build, bad) -> None:
    loop = build()
    loop.step({**stream(1)[0], SAMPLE_KEY: torch.tensor([0, 1, bad, 3])})
    with pytest.raises(ValueError, match=r"ids outside \[0, 80\)"):
        loop.engine.log()


@pytest.mark.parametrize("bad", [[{SAMPLE_KEY: -1}], [{SAMPLE_KEY: 0.5}]])
def test_the_collator_refuses_ids_that_are_none(bad) -> None:
    with pytest.raises(ValueError, match="must hold whole numbers that are not negative"):
        CarryIds()([{"x": 1.0, **row} for row in bad])


def test_numbered_rows_carry_their_position_through_the_collator() -> None:
    data = Numbered([{"x": float(i)} for i in range(4)])
    assert CarryIds()([data[3], data[1]])[SAMPLE_KEY].tolist() == [3, 1]


def test_visits_tell_first_ones_whatever_the_batch() -> None:
    visits = Visits(10, torch.device("cpu"))
    assert visits.mark(torch.tensor([2, 5, 2])).tolist() == [True, True, False]
    assert visits.mark(torch.tensor([5, 6])).tolist() == [False, True]
    restored = Visits(10, torch.device("cpu"))
    restored.load_state_dict(visits.state_dict())
    assert restored.mark(torch.arange(10)).tolist() == [i not in (2, 5, 6) for i in range(10)]


def test_a_fingerprint_knows_a_sample_in_any_batch() -> None:
    task, drawn = CausalLM(), samples(5, seed=3)
    forms = [padded(drawn), padded(drawn, left=True), packed(drawn), padded(drawn[::-1])]
    found = [task.fingerprint(batch, task.layout(batch, 5)) for batch in forms]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[0], found[3].flip(0))
    assert len(set(found[0].tolist())) == 5
    assert (found[0] >= 0).all()


def test_a_fingerprint_sees_one_changed_token_or_label() -> None:
    task, (ids, labels) = CausalLM(), samples(1)[0]
    other, masked = ids.clone(), labels.clone()
    other[-1] += 1
    masked[2] = -100
    rows = [(ids, labels), (other, torch.cat([labels[:-1], other[-1:]])), (ids, masked)]
    batch = padded(rows)
    assert len(set(task.fingerprint(batch, task.layout(batch)).tolist())) == 3


def test_a_fingerprint_of_any_batch_is_of_its_content() -> None:
    task = SampleLoss(lambda model, batch: batch["x"].sum(1))
    batch = {"x": torch.tensor([[0.1, 0.2], [0.2, 0.1], [0.1, 0.2]]), "y": torch.tensor([1, 1, 1])}
    found = task.fingerprint(batch, task.layout(batch)).tolist()
    assert found[0] == found[2]
    assert found[0] != found[1]
