"""Two memories of the stream, of constant size: a uniform sample of its batches, and its latest prompts."""

from __future__ import annotations

import io

import pytest
import torch

from ggmi_callbacks.engine.gain_table import GainTable
from ggmi_callbacks.engine.replay import PromptRing, Reservoir, Visit
from ggmi_callbacks.scorers import Score
from ggmi_callbacks.tasks import CausalLM, Layout
from tests._batches import packed, padded, samples

LAYOUT = Layout(torch.ones(1, 2, dtype=torch.bool), 1, None, torch.tensor([3]))


def visit(number: int) -> Visit:
    return Visit({"input_ids": torch.tensor([[number]])}, LAYOUT, torch.tensor([float(number)]))


def numbers(reservoir: Reservoir) -> list[int]:
    return [int(v.first_nll) for v in reservoir.visits]


def test_a_reservoir_is_a_uniform_sample_of_all_that_passed() -> None:
    # Each of 20 is held with probability 1/5. Over R runs sum (count - R/5)^2 / (R 1/5 4/5) x 19/20 is chi-square
    # with 19 degrees of freedom; its 99.9 % quantile is 43.8.
    size, stream, runs = 4, 20, 1500
    count = torch.zeros(stream)
    for seed in range(runs):
        reservoir = Reservoir(size, seed)
        for number in range(stream):
            reservoir.add(visit(number))
        count[numbers(reservoir)] += 1
    share = size / stream
    chi_square = ((count - runs * share) ** 2 / (runs * share * (1 - share))).sum() * (stream - 1) / stream
    assert count.sum() == runs * size
    assert chi_square < 43.8


def test_a_reservoir_keeps_its_size() -> None:
    reservoir = Reservoir(3, seed=0)
    for number in range(10):
        reservoir.add(visit(number))
        assert len(reservoir.visits) == min(number + 1, 3)
        assert len(set(numbers(reservoir))) == len(reservoir.visits)


def test_a_reservoir_draws_from_its_own_stream() -> None:
    import random

    random.seed(0)
    before = random.getstate()
    reservoir = Reservoir(1, seed=0)
    for number in range(5):
        reservoir.add(visit(number))
    assert random.getstate() == before


def test_a_reservoir_takes_up_where_its_state_was_saved() -> None:
    reservoir, resumed = Reservoir(4, seed=5), Reservoir(4, seed=6)
    for number in range(30):
        reservoir.add(visit(number))
    saved = io.BytesIO()
    torch.save(reservoir.state_dict(), saved)
    saved.seek(0)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    for number in range(30, 90):
        reservoir.add(visit(number))
        resumed.add(visit(number))
    assert numbers(resumed) == numbers(reservoir)
    assert resumed.visits[0].layout.n == 1


def batch(n: int, form: str = "rows", prompt: int = 2) -> tuple[torch.Tensor, torch.Tensor, Layout, list[torch.Tensor]]:
    """Embeddings, prompt mask and layout of a batch, and the mean embedding of each sample's prompt and output."""
    drawn = samples(n, prompt=prompt)
    inputs = packed(drawn) if form == "packed" else padded(drawn)
    task = CausalLM()
    layout = task.layout(inputs, n)
    table = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    mask = task.prompt_mask(inputs, layout)
    outputs = [table[ids[prompt:]].mean(0) for ids, _ in drawn]
    return table[inputs["input_ids"]][:, 1:], mask, layout, outputs


@pytest.mark.parametrize("form", ["rows", "packed"])
def test_prompts_and_outputs_are_means_over_their_own_tokens(form: str) -> None:
    ring = PromptRing(16)
    embeddings, mask, layout, outputs = batch(5, form)
    ring.add(embeddings, mask, layout)
    prompts, found = ring.pairs()
    assert torch.allclose(found, torch.stack(outputs), atol=1e-6)
    assert prompts.shape == (5, 3)
    assert prompts.isfinite().all()


def test_samples_without_a_prompt_make_no_pair() -> None:
    ring = PromptRing(16)
    ring.add(*batch(3, prompt=0)[:3])
    assert len(ring.pairs()[0]) == 0
    ring.add(*batch(4)[:3])
    assert len(ring.pairs()[0]) == 4


@pytest.mark.parametrize("sizes", [[3] * 30, [1] * 30, [25] * 4, [7, 2, 11, 1, 5] * 4])
def test_a_prompt_ring_holds_the_latest_and_never_more_than_it_needs(sizes: list[int]) -> None:
    ring, passed, asked = PromptRing(10), [], []
    for scale, n in enumerate(sizes):
        embeddings, mask, layout, outputs = batch(n)
        ring.add(scale * embeddings, mask, layout)
        alone = PromptRing(100)
        alone.add(scale * embeddings, mask, layout)
        asked.append(alone.pairs()[0])
        passed += [scale * output for output in outputs]
        held = sum(map(len, ring._prompts))
        assert held < 10 + len(ring._prompts[0])
    prompts, outputs = ring.pairs()
    assert torch.equal(prompts, torch.cat(asked)[-10:])
    assert torch.allclose(outputs, torch.stack(passed[-10:]), atol=1e-4)


def test_an_empty_prompt_ring_has_no_pairs() -> None:
    prompts, outputs = PromptRing(4).pairs()
    assert len(prompts) == len(outputs) == 0


def test_gains_are_known_by_sample_id_once_they_were_put() -> None:
    cache = GainTable(4, torch.device("cpu"))
    cache.put(torch.tensor([2, 0]), Score(torch.tensor([1.5, float("nan")]), torch.tensor([0.1, float("nan")])))
    assert not cache.complete()
    cache.put(torch.tensor([3, 1]), Score(torch.tensor([-1.0, 0.0]), torch.tensor([0.2, 0.3])))
    assert cache.complete()
    gain, noise, _ = cache.get(torch.tensor([1, 2, 3, 0]))
    assert gain[:3].tolist() == [0.0, 1.5, -1.0]
    assert torch.equal(noise[:3], torch.tensor([0.3, 0.1, 0.2]))
    assert gain[3].isnan()  # a sample without targets has no gain, and that is known too
