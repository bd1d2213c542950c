"""What siblings in the context tell the model about an answer."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from ggmi_callbacks import CausalLM, Filter, GainEngine, SampleLoss, SiblingScorer
from ggmi_callbacks.data import SampleData
from ggmi_callbacks.functional import table_shared_information
from ggmi_callbacks.model import Probe
from tests._batches import VOCABULARY, batches, packed, padded, shadow_of

TASK = CausalLM()
ANCHORS = batches(4, size=2, seed=1)
PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12], [13]]
ANSWERS = [[20, 21, 22], [23, 24], [20, 25], [26], [27, 28, 29], [30]]
OF = [0, 0, 0, 1, 1, 3]  # whose prompt each answers; the last is alone


def data(prompts: list[list[int]], answers: list[list[int]]) -> SampleData:
    pairs = zip(prompts, answers, strict=True)
    return SampleData([{"input_ids": p + a, "labels": [-100] * len(p) + a} for p, a in pairs])


DATA = data([PROMPTS[i] for i in OF], ANSWERS)
SAMPLES = [(torch.tensor(ids), torch.tensor(labels)) for ids, labels in DATA.tokens()]


class Law(nn.Module):
    """A language model by a function of the tokens [B, T] that gives the logits [B, T, V]."""

    def __init__(self, logits) -> None:
        super().__init__()
        self.logits, self.unused = logits, nn.Parameter(torch.zeros(()))

    def forward(self, input_ids: Tensor, **_) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits(input_ids))


def prepared(model: nn.Module, rows: SampleData = DATA, **settings) -> SiblingScorer:
    scorer = SiblingScorer(**settings)
    scorer.read(rows)
    scorer.prepare(Probe(model, TASK), ANCHORS, shadow_of({}))
    return scorer


def gains(scorer: SiblingScorer, chosen: list[int] | None = None, form=padded) -> Tensor:
    chosen = list(range(len(SAMPLES))) if chosen is None else chosen
    return scorer(*batch_of(chosen, form))


def batch_of(chosen: list[int], form=padded) -> tuple:
    batch = form([SAMPLES[i] for i in chosen])
    return batch, replace(TASK.layout(batch, len(chosen)), ids=torch.tensor(chosen))


def bigrams(ids: Tensor) -> Tensor:
    table = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(0))
    return table[ids]


def test_a_model_that_looks_at_no_context_gains_exactly_nothing() -> None:
    scorer = prepared(Law(bigrams))
    assert torch.equal(gains(scorer)[:5], torch.zeros(5))
    assert torch.equal(scorer.null(*batch_of([0, 1, 2, 3, 4])), torch.zeros(5))


def test_under_the_true_law_its_mean_is_the_shared_information() -> None:
    """Answers y ~ p(y | m) of one token to prompts that do not show m; pairs occur as often as they are likely."""
    joint = torch.tensor([[0.4, 0.1], [0.1, 0.4]])
    law, prior = joint / joint.sum(1, keepdim=True), joint.sum(1)

    def posterior(ids: Tensor) -> Tensor:
        """log p(y | answers so far), by Bayes; tokens 1 and 2 are the answers, others say nothing."""
        seen = torch.stack([ids == 1, ids == 2], -1).cumsum(1).float()  # [B, T, y]
        of_m = (prior.log() + seen @ law.log().T).softmax(-1)
        return nn.functional.pad((of_m @ law).log(), (1, VOCABULARY - 3), value=-1e4)

    pairs = [(1, 1)] * 34 + [(2, 2)] * 34 + [(1, 2)] * 16 + [(2, 1)] * 16  # of 100: p(y, y') = .34, .16
    rows = data([[10 + i] for i in range(100) for _ in "12"], [[y] for pair in pairs for y in pair])
    scorer = prepared(Law(posterior), rows)
    batch = padded([(torch.tensor(ids), torch.tensor(labels)) for ids, labels in rows.tokens()])
    layout = replace(TASK.layout(batch), ids=torch.arange(200))
    assert abs(scorer(batch, layout).mean() - table_shared_information(joint)) < 1e-6
    assert scorer.null(batch, layout).mean() < 0.01


def counts(ids: Tensor) -> Tensor:
    """A token is as likely as it was frequent so far, by Laplace's rule: a model that copies from its context."""
    return (1 + nn.functional.one_hot(ids, VOCABULARY).cumsum(1)).double().log()


def test_a_model_that_copies_gains_by_the_tokens_that_siblings_share() -> None:
    found = gains(prepared(Law(counts), siblings=5))
    # Sample 0 is 5 6 7 | 20 21 22, its siblings 23 24 and 20 25. Counts of a token over all tokens before it, V more.
    v = VOCABULARY
    alone = torch.tensor([1 / (v + 3), 1 / (v + 4), 1 / (v + 5)]).log().sum()
    first = torch.tensor([1 / (v + 8), 1 / (v + 9), 1 / (v + 10)]).log().sum()  # after 5 6 7 23 24 5 6 7
    second = torch.tensor([2 / (v + 8), 1 / (v + 9), 1 / (v + 10)]).log().sum()
    assert torch.allclose(found[0], ((first + second) / 2 - alone).double().to(found.dtype), atol=1e-5)
    assert found[5].isnan()  # alone with its prompt


@pytest.fixture
def llama(make_model) -> nn.Module:
    return make_model(vocab_size=VOCABULARY).double()


def nll(model: nn.Module, context: list[int], sample: tuple[Tensor, Tensor]) -> Tensor:
    ids = torch.cat([torch.tensor(context, dtype=torch.long), sample[0]])
    labels = torch.cat([torch.full((len(context),), -100), sample[1]])
    return Probe(model, TASK).nll(batch := padded([(ids, labels)]), TASK.layout(batch))[0]


def test_it_is_what_an_own_row_with_each_sibling_in_front_finds(llama: nn.Module) -> None:
    found = gains(prepared(llama, siblings=2))
    for i in range(5):
        others = [PROMPTS[OF[i]] + ANSWERS[j] for j in range(5) if OF[j] == OF[i] and j != i]
        given = torch.stack([nll(llama, context, SAMPLES[i]) for context in others]).mean()
        assert torch.allclose(found[i], nll(llama, [], SAMPLES[i]) - given, atol=1e-5)


def test_its_null_has_another_prompts_answer_behind_the_own_prompt(llama: nn.Module) -> None:
    scorer = prepared(llama)
    found = scorer.null(*batch_of([0, 1, 2, 3, 4, 5]))
    for i in range(5):
        own = PROMPTS[OF[i]]
        possible = [nll(llama, [], SAMPLES[i]) - nll(llama, own + ANSWERS[j], SAMPLES[i]) for j in range(5)]
        assert any(torch.allclose(found[i], possible[j], atol=1e-5) for j in range(5) if OF[j] != OF[i])
    assert found[5].isnan()


def test_packed_alone_and_in_another_order_it_is_the_same(llama: nn.Module) -> None:
    scorer = prepared(llama)
    expected = gains(scorer)[:5]
    alone = torch.cat([gains(scorer, [i]) for i in range(5)])
    assert torch.allclose(alone, expected, atol=1e-6)
    assert torch.allclose(gains(scorer, form=packed)[:5], expected, atol=1e-6)
    assert torch.allclose(gains(scorer, [4, 2, 0, 1, 3]), expected[[4, 2, 0, 1, 3]], atol=1e-6)


def test_noise_and_nats_per_token_are_those_of_its_targets(llama: nn.Module) -> None:
    scorer, per_token = prepared(llama), prepared(llama, normalize="token")
    whole, normalised = (s.score(*batch_of([0, 1, 2, 3, 4])) for s in (scorer, per_token))
    tokens = torch.tensor([3, 2, 2, 1, 3])
    assert torch.allclose(normalised.gain * tokens, whole.gain)
    assert torch.allclose(normalised.noise * tokens, whole.noise)
    assert torch.allclose(per_token.null(*batch_of([0])) * 3, scorer.null(*batch_of([0])))
    assert whole.noise[3] == 0  # one target has no spread
    assert (whole.noise[[0, 1, 2, 4]] > 0).all()


def test_groups_are_named_by_a_column(llama: nn.Module) -> None:
    rows = [{"input_ids": p + a, "labels": [-100] * len(p) + a, "question": q}
            for p, a, q in zip(PROMPTS, ANSWERS[:4], "aabc", strict=True)]  # fmt: skip
    found = gains(prepared(llama, SampleData(rows), group="question"), [0, 1, 2, 3])
    assert found.isnan().tolist() == [False, False, True, True]


def test_siblings_are_asked_equally_often() -> None:
    rows = data([[i // 7] for i in range(70)], [[20 + i % 7] for i in range(70)])
    partners = torch.from_numpy(prepared(Law(bigrams), rows, siblings=3)._partners)
    assert torch.equal(torch.bincount(partners.flatten()), torch.full((70,), 3))
    assert torch.equal(partners // 7, torch.arange(70)[:, None].expand(-1, 3) // 7)
    assert all(len({i, *row}) == 4 for i, row in enumerate(partners.tolist()))


def test_the_first_token_of_a_sample_is_no_target_behind_a_sibling_either() -> None:
    rows = SampleData([{"input_ids": [a, 3], "labels": [a, 3], "question": 0} for a in (4, 5)])
    scorer = prepared(Law(bigrams), rows, group="question")
    batch = padded([(torch.tensor([a, 3]), torch.tensor([a, 3])) for a in (4, 5)])
    assert torch.equal(scorer(batch, replace(TASK.layout(batch), ids=torch.arange(2))), torch.zeros(2))


def test_samples_without_a_prompt_are_nobodys_siblings() -> None:
    plain = [{"input_ids": [a, 3], "labels": [a, 3]} for a in (4, 5)]
    asked = [{"input_ids": [9, a, 3], "labels": [-100, a, 3]} for a in (6, 7)]
    scorer = prepared(Law(counts), SampleData(plain + asked))
    batch = padded([(torch.tensor(r["input_ids"]), torch.tensor(r["labels"])) for r in plain + asked])
    found = scorer(batch, replace(TASK.layout(batch), ids=torch.arange(4)))
    assert found.isnan().tolist() == [True, True, False, False]
    with pytest.raises(ValueError, match="each of the 2 prompts has one answer"):
        prepared(Law(counts), SampleData(plain))


def test_it_is_that_of_the_weights_before_training_and_outlives_a_restart(llama: nn.Module) -> None:
    scorer = prepared(llama)
    before = gains(scorer)[:5]
    with torch.no_grad():
        for p in llama.parameters():
            p.add_(torch.randn_like(p))
    assert torch.equal(gains(scorer)[:5], before)
    resumed = prepared(llama)
    assert not torch.allclose(gains(resumed)[:5], before, atol=1e-3)
    resumed.load_state_dict(scorer.state_dict())
    assert torch.equal(gains(resumed)[:5], before)


def test_it_leaves_no_trace(llama: nn.Module) -> None:
    scorer = prepared(llama.train())
    weights, rng = {k: v.clone() for k, v in llama.state_dict().items()}, torch.get_rng_state()
    gains(scorer)
    assert all(torch.equal(v, weights[k]) for k, v in llama.state_dict().items())
    assert all(module.training for module in llama.modules())
    assert torch.equal(torch.get_rng_state(), rng)


def test_bfloat16_is_near(make_model) -> None:
    model = make_model(vocab_size=VOCABULARY)
    whole, half = (gains(prepared(model, dtype=dtype))[:5] for dtype in (None, torch.bfloat16))
    assert not torch.equal(whole, half)
    assert torch.allclose(whole, half, atol=0.05)


def gpt2(positions: int) -> nn.Module:
    own = {"bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=positions, n_embd=32, n_layer=1, n_head=2, **own)
    return GPT2LMHeadModel(config)


def test_siblings_that_do_not_fit_into_the_context_are_left_out_and_counted() -> None:
    """Sample 0 has 6 tokens, behind 3 of its prompt and 2 or more of an answer; sample 1 fits behind sample 2 alone."""
    model = gpt2(10)
    with pytest.warns(UserWarning, match=r"1 of 5 answers with siblings do not fit.*context of 10 tokens"):
        found = gains(prepared(model))
    assert torch.equal(found.isnan(), torch.tensor([True, False, False, False, False, True]))
    expected = nll(model, [], SAMPLES[1]) - nll(model, PROMPTS[0] + ANSWERS[2], SAMPLES[1])
    assert torch.allclose(found[1], expected, atol=1e-5)


def test_a_context_that_no_sibling_fits_into_is_refused() -> None:
    with pytest.raises(ValueError, match=r"5 of 5 answers with siblings do not fit.*context of 6 tokens"):
        prepared(gpt2(6))


def test_the_engine_finds_it_once_for_each_sample(make_model, monkeypatch) -> None:
    model = make_model(vocab_size=VOCABULARY)
    rows = [{"input_ids": ids.tolist(), "labels": labels.tolist()} for ids, labels in SAMPLES]
    engine = GainEngine(model, ANCHORS, scorer=SiblingScorer(), policy=Filter(), data=rows, progress=False)
    engine.prepare()
    engine.observe({**padded(SAMPLES), "ggmi_sample": torch.arange(6)})
    engine.end_step()
    engine.log()
    monkeypatch.setattr(engine.scorer, "token_gain", lambda *_: pytest.fail("it was scored again"))
    engine.observe({**padded(SAMPLES), "ggmi_sample": torch.arange(6)})


def test_what_it_cannot_do_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="each of the 2 prompts has one answer"):
        SiblingScorer().read(data(PROMPTS[:2], ANSWERS[:2]))
    with pytest.raises(ValueError, match="SiblingScorer reads the training set"):
        SiblingScorer().prepare(Probe(Law(bigrams), TASK), ANCHORS, shadow_of({}))
    scorer = prepared(Law(bigrams))
    with pytest.raises(ValueError, match="looks samples up by id, and this batch carries none"):
        scorer(batch := padded(SAMPLES), TASK.layout(batch))
    task = SampleLoss(lambda model, batch: model(batch["x"]))
    with pytest.raises(ValueError, match="which SampleLoss does not have: use `AgreementScorer"):
        scorer.prepare(Probe(nn.Linear(1, 1), task), ANCHORS, shadow_of({}))


@pytest.mark.parametrize("settings", [{"siblings": 0}, {"dtype": torch.float64}, {"normalize": "word"}])
def test_arguments_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}` must be"):
        SiblingScorer(**settings)
