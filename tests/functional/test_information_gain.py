"""Information gain: Gaussian channels, finite tables, enumerable language models, embeddings."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from ggmi_callbacks.functional import (
    cross_entropy_upper_bound,
    information_gain,
    pointwise_prompt_information,
    prompt_information_upper_bound,
    sampling_log_probs,
    table_information_gain,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum()


def random_table(seed: int, rows: int = 5, columns: int = 4) -> Tensor:
    joint = torch.rand(rows, columns, generator=seeded(seed), dtype=torch.float64)
    return joint / joint.sum()


class MarkovModel:
    """Outputs of T tokens over V symbols; the prompt is the first state."""

    def __init__(self, symbols: int, length: int, seed: int) -> None:
        logits = 2 * torch.randn(symbols, symbols, generator=seeded(seed), dtype=torch.float64)
        self.step = logits.softmax(-1)
        self.length = length

    def log_probs(self, prompt: Tensor, output: Tensor) -> Tensor:
        """[n] prompts and [n, T] outputs to [n, T]."""
        before = torch.cat((prompt[:, None], output[:, :-1]), 1)
        return self.step[before, output].log()

    def sample(self, prompt: Tensor, seed: int) -> Tensor:
        state, output, generator = prompt, [], seeded(seed)
        for _ in range(self.length):
            state = self.step[state].multinomial(1, generator=generator)[:, 0]
            output.append(state)
        return torch.stack(output, 1)

    def law(self, prompt: int) -> Tensor:
        """Probabilities of all V^T outputs."""
        outputs = torch.tensor(list(itertools.product(range(len(self.step)), repeat=self.length)))
        prompts = torch.full((len(outputs),), prompt)
        return self.log_probs(prompts, outputs).sum(1).exp()


def test_exact_log_probabilities_weighted_by_their_law_give_the_entropy() -> None:
    """Outputs listed as often as their law says: the estimate is the truth, no sampling error."""
    joint = torch.tensor([[3, 1, 0], [2, 2, 4]], dtype=torch.float64)
    conditional = joint / joint.sum(1, keepdim=True)
    pairs = [(p, y) for p in range(2) for y in range(3) for _ in range(int(joint[p, y]))]
    log_probs = torch.stack([conditional[p, y].log() for p, y in pairs])
    assert information_gain(log_probs) == pytest.approx(float(table_information_gain(joint)), rel=1e-12)


def test_gain_of_an_enumerable_language_model() -> None:
    model = MarkovModel(symbols=3, length=4, seed=3)
    prompt = torch.arange(3).repeat(4000)
    exact = sum(float(entropy(model.law(p))) for p in range(3)) / 3
    output = model.sample(prompt, seed=4)
    value, low, high = information_gain(model.log_probs(prompt, output), confidence=0.95)
    assert abs(float(value) - exact) < 4 * float(high - low) / 3.92 < 0.1


def test_interval_covers_the_gain_as_often_as_it_says() -> None:
    model = MarkovModel(symbols=3, length=3, seed=5)
    prompt = torch.zeros(300 * 50, dtype=torch.long)
    log_probs = model.log_probs(prompt, model.sample(prompt, seed=6)).view(300, 50, 3)
    exact = float(entropy(model.law(0)))
    intervals = [information_gain(run, confidence=0.9) for run in log_probs]
    covered = sum(bool(low < exact < high) for _, low, high in intervals) / 300
    assert abs(covered - 0.9) < 4 * math.sqrt(0.09 / 300)


def test_a_reference_model_gives_the_gain_plus_its_divergence() -> None:
    model, reference = MarkovModel(3, 3, seed=7), MarkovModel(3, 3, seed=8)
    law = model.law(0)
    divergence = float((law * (law / reference.law(0)).log()).sum())
    prompt = torch.zeros(20_000, dtype=torch.long)
    output = model.sample(prompt, seed=9)
    gain = information_gain(model.log_probs(prompt, output))
    bound = cross_entropy_upper_bound(reference.log_probs(prompt, output), confidence=0.95)
    assert bound.value > gain  # type: ignore[attr-defined]
    error = float(bound.high - bound.low) / 3.92  # type: ignore[attr-defined]
    assert abs(float(bound.value) - float(entropy(law)) - divergence) < 4 * error  # type: ignore[attr-defined]


def test_gradients_of_the_gain_are_exact() -> None:
    log_probs = -torch.rand(3, 4, generator=seeded(23), dtype=torch.float64)
    assert torch.autograd.gradcheck(information_gain, (log_probs.requires_grad_(),))


def test_masked_tokens_do_not_count() -> None:
    log_probs = torch.tensor([[-1.0, -2.0, -torch.inf], [-1.0, torch.nan, -5.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert information_gain(log_probs, mask) == 2.0


@pytest.mark.parametrize("settings", [{"temperature": 0.7}, {"top_k": 3}, {"top_p": 0.6}, {"top_p": 0.9, "top_k": 4}])
def test_sampling_law_is_normalised_and_matches_a_literal_version(settings: dict[str, float]) -> None:
    logits = 2 * torch.randn(7, generator=seeded(10), dtype=torch.float64)
    value = sampling_log_probs(logits.expand(7, 7), torch.arange(7), **settings).exp()
    p = (logits / settings.get("temperature", 1.0)).softmax(-1)
    order = p.argsort(descending=True)
    keep, mass = [], 0.0
    kept = order[: settings.get("top_k", 7)]
    p = torch.where(torch.isin(torch.arange(7), kept), p, 0.0)
    p = p / p.sum()
    for token in kept:
        if mass >= settings.get("top_p", 1.0):
            break
        keep.append(int(token))
        mass += float(p[token])
    expected = torch.where(torch.isin(torch.arange(7), torch.tensor(keep)), p, 0.0)
    assert torch.allclose(value, expected / expected.sum(), rtol=1e-10)
    assert value.sum() == pytest.approx(1.0)


def test_the_untruncated_law_would_overstate_the_gain_of_greedy_sampling() -> None:
    logits = torch.randn(50, 9, generator=seeded(11))
    tokens = logits.argmax(-1)
    assert information_gain(sampling_log_probs(logits, tokens, top_k=1)) == pytest.approx(0.0, abs=1e-6)
    assert information_gain(sampling_log_probs(logits, tokens)) > 0.5


def test_prompt_information_with_the_true_marginal_is_the_mutual_information() -> None:
    joint = random_table(12)
    conditional, marginal = joint / joint.sum(1, keepdim=True), joint.sum(0)
    pointwise = pointwise_prompt_information(conditional.log().flatten(), marginal.log().expand_as(joint).flatten())
    exact = entropy(joint.sum(0)) + entropy(joint.sum(1)) - entropy(joint)
    assert (joint.flatten() * pointwise).sum() == pytest.approx(float(exact), rel=1e-10)


def test_prompt_information_with_another_marginal_is_more_by_its_divergence() -> None:
    joint = random_table(13, 2, 3).mul(1000).round().long()
    pairs = [(p, y) for p in range(2) for y in range(3) for _ in range(int(joint[p, y]))]
    table = joint.double() / joint.sum()
    conditional, marginal = table / table.sum(1, keepdim=True), table.sum(0)
    q = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    p, y = torch.tensor(pairs).T
    value = prompt_information_upper_bound(conditional[p, y].log(), q[y].log())
    exact = entropy(marginal) + entropy(table.sum(1)) - entropy(table)
    divergence = (marginal * (marginal / q).log()).sum()
    assert divergence > 0.01
    assert value == pytest.approx(float(exact + divergence), rel=1e-10)


def test_an_answer_to_another_question_scores_low() -> None:
    model = MarkovModel(4, 5, seed=14)
    prompt = torch.arange(4).repeat(100)
    output = model.sample(prompt, seed=15)
    marginal = torch.stack([model.log_probs(torch.full_like(prompt, p), output).sum(1) for p in range(4)])
    unconditional = marginal.logsumexp(0) - math.log(4)
    right = pointwise_prompt_information(model.log_probs(prompt, output).sum(1), unconditional).mean()
    wrong = pointwise_prompt_information(model.log_probs(prompt.roll(1), output).sum(1), unconditional).mean()
    assert right > 0.2 > 0 > wrong


def test_errors_name_argument_and_cure() -> None:
    with pytest.raises(ValueError, match=r"`log_probs` to have shape \[n\] .* but got \[1, 2, 3\]"):
        information_gain(torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match=r"`conditional_log_probs` and `unconditional_log_probs` .* \[2\] and \[3\]"):
        pointwise_prompt_information(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="`temperature` to be positive"):
        sampling_log_probs(torch.zeros(1, 3), torch.zeros(1).long(), temperature=0.0)
    with pytest.raises(ValueError, match="`top_p` in"):
        sampling_log_probs(torch.zeros(1, 3), torch.zeros(1).long(), top_p=0.0)
    with pytest.raises(ValueError, match="`code` to have one entry for each of 5 prompts"):
        table_information_gain(random_table(0), torch.tensor([0, 1]))
