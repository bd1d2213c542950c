"""GGMI: the protocol in both estimates, both terms, sizes and scales."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from ggmi_callbacks import functional
from ggmi_callbacks.metrics import GGMI
from tests.metrics._tester import Batch, MetricTester, merge


def batch(n: int, seed: int, split: str, drop: float) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    final = 2 + torch.rand(n, generator=generator)
    first = final + drop + torch.randn(n, generator=generator)
    tokens = torch.randint(3, 9, (n,), generator=generator)
    return {"first_nll": first, "final_nll": final, "split": split, "tokens": tokens}


def sets(batches: list[Batch]) -> tuple[Batch, Batch]:
    anchors, synthetic = (merge([b for b in batches if b["split"] == split]) for split in ("anchor", "synthetic"))
    return anchors, synthetic


class TestMixture(MetricTester):
    batches: ClassVar = [
        batch(20, 0, "anchor", 2.0),
        batch(30, 1, "synthetic", 1.0),
        batch(1, 2, "anchor", 2.0),
        batch(7, 3, "synthetic", 1.0),
    ]
    batchwise = False  # a batch of one set alone has no GGMI
    differentiable_arguments = ("first_nll", "final_nll")

    def make(self, **kwargs: Any) -> GGMI:
        return GGMI(**kwargs)

    def reference(self, batches: list[Batch]) -> torch.Tensor:
        anchors, synthetic = sets(batches)
        term = [(part["first_nll"].double() - part["final_nll"].double()).sum() for part in (anchors, synthetic)]
        return term[0] - term[1]


class TestPerToken(TestMixture):
    def make(self, **kwargs: Any) -> GGMI:
        return GGMI(per="token", **kwargs)

    def reference(self, batches: list[Batch]) -> torch.Tensor:
        term = [
            (part["first_nll"].double() - part["final_nll"].double()).sum() / part["tokens"].sum()
            for part in sets(batches)
        ]
        return term[0] - term[1]


class TestLossDifference(MetricTester):
    batches: ClassVar = [batch(60, seed, ("anchor", "synthetic")[seed % 2], 2 - seed % 2) for seed in range(4)]
    batchwise = False
    half_rtol = 0.3  # rounding moves pairs across the edges of bins

    def make(self, **kwargs: Any) -> GGMI:
        return GGMI("loss_difference", per="sample", **kwargs)

    def reference(self, batches: list[Batch]) -> torch.Tensor:
        pairs = [(part["final_nll"], part["first_nll"]) for part in sets(batches)]
        return functional.loss_difference_information(*pairs[0]) - functional.loss_difference_information(*pairs[1])


def test_a_mask_splits_a_mixed_batch() -> None:
    one, two = TestMixture.batches[:2]
    mixed = {name: torch.cat((one[name], two[name])) for name in ("first_nll", "final_nll", "tokens")}
    mask = torch.cat((torch.zeros(20), torch.ones(30))).bool()
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    apart, together = GGMI(), GGMI()
    apart.update(**one)
    apart.update(**two)
    together.update(**{name: x[order] for name, x in mixed.items()}, split=mask[order])
    assert together.compute() == pytest.approx(float(apart.compute()), rel=1e-6)
    assert [float(x) for x in together.terms()[:9]] == pytest.approx([float(x) for x in apart.terms()[:9]], rel=1e-9)


def test_terms_equal_the_functional_twin() -> None:
    metric = TestMixture().filled(anchor_total=1000, confidence=0.9)
    anchors, synthetic = sets(TestMixture.batches)
    expected = functional.ggmi_terms(
        anchors["first_nll"],
        anchors["final_nll"],
        synthetic["first_nll"],
        synthetic["final_nll"],
        anchor_tokens=anchors["tokens"],
        synthetic_tokens=synthetic["tokens"],
        anchor_total=1000,
        confidence=0.9,
    )
    for name, value, twin in zip(expected._fields, metric.terms(), expected, strict=True):
        if name != "conditioning":
            assert torch.as_tensor(value).tolist() == pytest.approx(torch.as_tensor(twin).tolist(), rel=1e-9), name
    assert metric.terms().conditioning == expected.conditioning == metric.conditioning


def test_ggmi_is_unknown_until_both_sets_are_seen() -> None:
    metric = GGMI()
    metric.update(torch.ones(3), torch.zeros(3), split="anchor")
    assert metric.compute().isnan()
    metric.update(torch.ones(2), torch.zeros(2), split="synthetic")
    assert metric.compute() == 1.0
    assert metric.terms().per_token.isnan(), "no tokens were counted"


def test_final_lengths_may_come_long_after_the_first() -> None:
    metric = GGMI()
    for part in TestMixture.batches:
        metric.update(part["first_nll"], split=part["split"], tokens=part["tokens"])
    for part in TestMixture.batches[::-1]:
        metric.update(final_nll=part["final_nll"], split=part["split"])
    together = TestMixture().filled()
    assert metric.compute() == pytest.approx(float(together.compute()), rel=1e-6)
    assert float(metric.terms().per_token) == pytest.approx(float(together.terms().per_token), rel=1e-9)


def test_null_control_of_twins_covers_zero_and_a_mixture_has_none() -> None:
    metric = TestLossDifference().filled(confidence=0.99)
    controls = [metric.null_control(seed) for seed in range(40)]
    # a binomial with mean .4: five misses or more have probability 1e-4
    assert sum(not bool(low <= 0 <= high) for _, low, high in controls) < 5
    assert len({float(control.value) for control in controls}) > 10
    with pytest.raises(NotImplementedError, match="GGMI has no null control"):
        GGMI().null_control()


def test_errors_name_argument_and_cure() -> None:
    x = torch.ones(3)
    with pytest.raises(ValueError, match=r"`split` to be one of .* but got 'real'"):
        GGMI().update(x, x, split="real")
    with pytest.raises(ValueError, match=r"`split` to have the shape .* \[3\], but got \[2\]"):
        GGMI().update(x, x, split=torch.ones(2).bool())
    with pytest.raises(ValueError, match=r"`tokens` to have the shape"):
        GGMI().update(x, x, split="anchor", tokens=torch.ones(2))
    with pytest.raises(ValueError, match="`final_nll` to hold finite values but got 1 of 3"):
        GGMI().update(x, torch.tensor([1.0, torch.nan, 1.0]), split="anchor")
    with pytest.raises(ValueError, match="`per` to be one of"):
        GGMI(per="batch")
    with pytest.raises(ValueError, match="`anchor_total` to be positive"):
        GGMI(anchor_total=0)
