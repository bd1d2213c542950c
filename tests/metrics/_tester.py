"""The one protocol that every metric class passes.

Usage: subclass :class:`MetricTester` in ``tests/metrics/test_<metric>.py``; pytest collects the inherited
tests.

    class TestWeightInformation(MetricTester):
        batches = [dict(first_nll=..., final_nll=...), ...]      # arguments of update, at least four batches

        def make(self, **kwargs):                                # a fresh metric; kwargs must reach its
                                                                 constructor
            return WeightInformation(**kwargs)

        def reference(self, batches):                            # the truth for any list of batches, by other
                                                                 means
            merged = merge(batches)
            return functional.weight_information(**merged)

Class attributes to override where a metric differs: ``rtol``, ``half_rtol`` (error allowed with bfloat16
input), ``batchwise`` and ``stepwise`` (False if one batch, or two, have no value), ``differentiable_arguments``
(update arguments that carry a gradient), ``confidence`` (a level, or None if the metric has no interval).
torch.jit.script reads class annotations, so a metric that annotates its states (``total: Tensor``) must not
import ``annotations`` from ``__future__``. The value of a metric may be a tensor, an Interval or a dict of
either.
"""

from __future__ import annotations

import pickle
import warnings
from datetime import timedelta
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from ggmi_callbacks.functional import Interval

Batch = dict[str, Any]
WORLD = 2


def merge(batches: list[Batch]) -> Batch:
    """Concatenate the tensors of all batches; anything else is taken from the first."""
    return {
        name: torch.cat([batch[name] for batch in batches]) if isinstance(x, Tensor) and x.ndim else x
        for name, x in batches[0].items()
    }


def flat(value: Any) -> list[float]:
    """All numbers of a value, an interval or a dict of them."""
    if isinstance(value, dict):
        return [number for part in value.values() for number in flat(part)]
    if isinstance(value, tuple | Interval):
        return [number for part in value for number in flat(part)]
    assert isinstance(value, Tensor), f"expected tensors but got {type(value)}"
    return [float(number) for number in value.detach().double().reshape(-1)]


def cast(batch: Batch, dtype: torch.dtype) -> Batch:
    """The batch with its floating point tensors in another dtype."""
    return {name: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for name, x in batch.items()}


def join(rank: int, address: str) -> None:
    """Make this process a gloo rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=WORLD, timeout=timedelta(seconds=60))


def value_on_rank(metric: Metric, batches: list[Batch]) -> list[float]:
    """The synchronised value on this rank, which sees every other batch."""
    for batch in batches[dist.get_rank() :: WORLD]:
        metric.update(**batch)
    return flat(metric.compute())


def forward_on_rank(metric: Metric, batches: list[Batch]) -> list[list[float]]:
    """What ``forward`` returns on this rank when it synchronises at every step."""
    return [flat(metric(**batch)) for batch in batches[dist.get_rank() :: WORLD]]


class MetricTester:
    """See the top of this file."""

    batches: ClassVar[list[Batch]]
    rtol: ClassVar[float] = 1e-5
    half_rtol: ClassVar[float] = 0.05
    batchwise: ClassVar[bool] = True
    stepwise: ClassVar[bool] = True
    differentiable_arguments: ClassVar[tuple[str, ...]] = ()
    confidence: ClassVar[float | None] = 0.9

    def make(self, **kwargs: Any) -> Metric:
        raise NotImplementedError

    def reference(self, batches: list[Batch]) -> Any:
        raise NotImplementedError

    def same(self, value: Any, expected: Any, rtol: float | None = None) -> None:
        # atol: results are float32 sums of numbers of order one
        rtol = self.rtol if rtol is None else rtol
        assert flat(value) == pytest.approx(flat(expected), rel=rtol, abs=max(1e-6, rtol / 10), nan_ok=True)

    def filled(self, batches: list[Batch] | None = None, **kwargs: Any) -> Metric:
        metric = self.make(**kwargs)
        for batch in self.batches if batches is None else batches:
            metric.update(**batch)
        return metric

    def test_value_over_batches_equals_the_reference(self) -> None:
        value = self.filled().compute()
        self.same(value, self.reference(self.batches))
        assert all(number == number for number in flat(value)), "the reference case should have a value"

    def test_value_does_not_depend_on_the_order_of_batches(self) -> None:
        self.same(self.filled(self.batches[::-1]).compute(), self.reference(self.batches))

    def test_forward_returns_the_value_of_its_batch_and_accumulates(self) -> None:
        metric = self.make()
        for batch in self.batches:
            value = metric(**batch)
            if self.batchwise:
                self.same(value, self.reference([batch]))
        self.same(metric.compute(), self.reference(self.batches))

    def test_reset_forgets_everything(self) -> None:
        metric = self.filled(self.batches[:2])
        metric.reset()
        for batch in self.batches:
            metric.update(**batch)
        self.same(metric.compute(), self.reference(self.batches))

    def test_merge_state_equals_seeing_both_streams(self) -> None:
        metric, other = self.filled(self.batches[:2]), self.filled(self.batches[2:])
        metric.merge_state(other)
        self.same(metric.compute(), self.reference(self.batches))

    def test_pickle_and_clone_keep_the_state(self) -> None:
        metric = self.filled(self.batches[:2])
        for copy in (pickle.loads(pickle.dumps(metric)), metric.clone()):
            assert type(copy) is type(metric)
            assert copy is not metric
            for batch in self.batches[2:]:
                copy.update(**batch)
            self.same(copy.compute(), self.reference(self.batches))

    def test_metrics_are_hashable_scriptable_and_have_an_empty_state_dict(self) -> None:
        metric = self.filled()
        assert hash(metric) != hash(self.make())
        assert metric.state_dict() == {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit, and of torchmetrics under it
            torch.jit.script(self.make())

    @pytest.mark.parametrize("name", ["is_differentiable", "higher_is_better", "full_state_update", "plot_lower_bound"])
    def test_constants_cannot_be_written(self, name: str) -> None:
        metric = self.make()
        with pytest.raises(RuntimeError, match="Can't change const"):
            setattr(metric, name, not getattr(metric, name))

    def test_a_collection_returns_the_same_value(self) -> None:
        collection = MetricCollection({"one": self.make(), "two": self.make()})
        for batch in self.batches:
            collection.update(**batch)
        expected = flat(self.reference(self.batches))
        # A collection flattens dictionaries, one name after the other.
        assert flat(collection.compute()) == pytest.approx(2 * expected, rel=self.rtol, abs=1e-6)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_input_is_accumulated_in_full_precision(self, dtype: torch.dtype) -> None:
        halves = [cast(batch, dtype) for batch in self.batches]
        value = self.filled(halves).compute()
        self.same(value, self.reference([cast(batch, torch.float64) for batch in halves]), rtol=1e-3)
        self.same(value, self.reference(self.batches), rtol=self.half_rtol)

    def test_set_dtype_decides_the_dtype_of_the_value(self) -> None:
        for dtype, expected in ((torch.float64, torch.float64), (torch.half, torch.float32)):
            metric = self.make().set_dtype(dtype)
            value = metric(**cast(self.batches[0], dtype))
            assert {part.dtype for part in _tensors(value)} == {expected}

    def test_gradients_flow_exactly_if_it_says_so(self) -> None:
        def wanted(name: str, x: Any) -> bool:
            real = isinstance(x, Tensor) and x.is_floating_point()
            return name in self.differentiable_arguments or (real and not self.differentiable_arguments)

        batch = {name: x.clone().requires_grad_() if wanted(name, x) else x for name, x in self.batches[0].items()}
        metric = self.make()
        value = metric(**batch)
        assert metric.is_differentiable is bool(self.differentiable_arguments)
        assert all(part.requires_grad is metric.is_differentiable for part in _tensors(value))

    def test_confidence_adds_an_interval_around_the_same_value(self) -> None:
        if self.confidence is None:
            pytest.skip("no interval is defined for this metric")
        plain = self.filled().compute()
        pairs = [(plain, self.filled(confidence=self.confidence).compute())]
        if isinstance(plain, dict):
            pairs = [(pairs[0][0][key], pairs[0][1][key]) for key in plain]
        for value, interval in pairs:
            assert isinstance(interval, Interval)
            self.same(interval.value, value)
            assert interval.low < interval.value < interval.high
        with pytest.raises(ValueError, match="`confidence`"):
            self.make(confidence=95)

    def test_plot_draws_a_value_a_run_and_what_is_not_known_yet(self) -> None:
        metric = self.filled(**({} if self.confidence is None else {"confidence": self.confidence}))
        value = metric.compute()
        for val in (None, [value, value], _unknown(value)):
            figure, axes = metric.plot(val)
            assert axes.get_ylabel()
            plt.close(figure)

    def test_two_ranks_agree_with_one(self, ranks: Any) -> None:
        for value in ranks(value_on_rank, self.make(), self.batches):
            assert value == pytest.approx(flat(self.reference(self.batches)), rel=self.rtol, abs=1e-6)

    def test_forward_may_synchronise_at_every_step(self, ranks: Any) -> None:
        if not self.stepwise:
            pytest.skip("the batches of one step have no value")
        steps = [self.batches[i : i + WORLD] for i in range(0, len(self.batches), WORLD)]
        expected = [pytest.approx(flat(self.reference(step)), rel=self.rtol, abs=1e-6) for step in steps]
        for values in ranks(forward_on_rank, self.make(dist_sync_on_step=True), self.batches):
            assert values == expected


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, dict):
        return [part for item in value.values() for part in _tensors(item)]
    return list(value) if isinstance(value, Interval) else [value]


def _unknown(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _unknown(part) for name, part in value.items()}
    return Interval(*map(_unknown, value)) if isinstance(value, Interval) else value * torch.nan
