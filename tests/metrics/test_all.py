"""What every metric does alike: before any update, and with input that it cannot take."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from ggmi_callbacks import metrics
from ggmi_callbacks.functional import Interval
from tests.metrics._cases import CASES, Case

pytestmark = pytest.mark.filterwarnings("ignore:estimator=.matrix. gives the matrix-based information")

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def values(value: Any) -> list[Tensor]:
    """The parts of a result: of an interval three, of a dictionary those of each entry."""
    if isinstance(value, dict):
        return [part for item in value.values() for part in values(item)]
    return list(value) if isinstance(value, Interval) else [value]


def snapshot(metric: Metric) -> dict[str, Any]:
    return copy.deepcopy(metric.metric_state)


def unchanged(metric: Metric, before: dict[str, Any]) -> bool:
    def same(a: Any, b: Any) -> bool:
        if isinstance(a, list):
            return len(a) == len(b) and all(map(same, a, b))
        return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)

    return all(same(value, before[name]) for name, value in metric.metric_state.items())


def test_every_metric_has_a_case() -> None:
    assert {label.split("-")[0] for label in CASES} == set(metrics.__all__)


def test_no_metric_is_an_abstract_class() -> None:
    # A type checker refuses to make one of those, whatever __new__ returns.
    assert not [name for name in metrics.__all__ if inspect.isabstract(getattr(metrics, name))]


@every_case
@pytest.mark.parametrize("confidence", [None, 0.9])
def test_the_value_before_any_update_is_nan_with_the_usual_warning(case: Case, confidence: float | None) -> None:
    metric = case.make(confidence=confidence)
    with pytest.warns(UserWarning, match="was called before the ``update`` method"):
        value = metric.compute()
    parts = value.values() if isinstance(value, dict) else [value]
    assert all(isinstance(part, Interval) == (confidence is not None) for part in parts)
    assert all(part.isnan() and part.dtype == torch.float32 for part in values(value))


@every_case
def test_input_that_is_no_tensor_is_refused_by_name_and_changes_nothing(case: Case) -> None:
    metric = case.make()
    metric.update(**case.batch)
    before = snapshot(metric)
    for name, x in case.tensors().items():
        for wrong in (x.numpy(), x.tolist()):
            message = rf"`{name}` to be a torch\.Tensor but got (ndarray|list); pass torch\.as_tensor\({name}\)"
            with pytest.raises((TypeError, ValueError), match=message):
                metric.update(**{**case.batch, name: wrong})
    assert unchanged(metric, before)


@every_case
def test_an_argument_of_another_length_is_refused_and_changes_nothing(case: Case) -> None:
    metric = case.make()
    metric.update(**case.batch)
    before = snapshot(metric)
    tensors = case.tensors()
    names = "|".join(f"`{name}`" for name in tensors)
    for name, x in tensors.items():
        if len(tensors) > 1:
            with pytest.raises(ValueError, match=names):
                metric.update(**{**case.batch, name: x[:-1]})
    assert unchanged(metric, before)


def floats(case: Case) -> list[str]:
    return [name for name, x in case.tensors().items() if x.is_floating_point()]


@every_case
def test_nan_is_refused_by_name_and_changes_nothing(case: Case) -> None:
    metric = case.make()
    if isinstance(metric, metrics.Gain):
        pytest.skip("there NaN means that a sample was not scored")
    metric.update(**case.batch)
    before = snapshot(metric)
    for name in floats(case):
        with pytest.raises(ValueError, match=f"`{name}`"):
            metric.update(**{**case.batch, name: _with_nan(case.batch[name])})
    assert unchanged(metric, before)


@every_case
def test_nan_shows_in_the_value_where_arguments_are_not_validated(case: Case) -> None:
    if isinstance(case.make(), metrics.Gain):
        pytest.skip("there NaN means that a sample was not scored")
    for name in floats(case):
        metric = case.make(validate_args=False)
        others = _other_sets(case)
        for batch in (case.batch, *others, {**case.batch, name: _with_nan(case.batch[name])}):
            metric.update(**batch)
        assert all(part.isnan() for part in values(metric.compute())), name


def _with_nan(x: Tensor) -> Tensor:
    x = x.clone()
    x[3] = torch.nan
    return x


def _other_sets(case: Case) -> list[dict[str, Any]]:
    """What else has to be seen for a value, where one update shows one of several sets."""
    if isinstance(case.make(), metrics.DivergenceBound):
        return [{**case.batch, "split": split} for split in ("generated", "synthetic")]
    if isinstance(case.make(), metrics.GGMIUpperBound):
        lengths = {name: case.batch[name] for name in ("first_nll", "final_nll")}
        third = {"split": "anchor", "prompt_nll": lengths["final_nll"]}
        if case.batch["split"] == "anchor":
            third = {"split": "synthetic", "generator_nll": lengths["final_nll"]}
        return [lengths | third]
    return []


@pytest.mark.parametrize("label", [label for label, case in CASES.items() if {"x", "embeddings"} & set(case.batch)])
def test_samples_of_another_width_are_refused_at_once(label: str) -> None:
    case = CASES[label]
    metric = case.make()
    metric.update(**case.batch)
    before = snapshot(metric)
    name = "x" if "x" in case.batch else "embeddings"
    wider = torch.cat((case.batch[name], case.batch[name]), 1)
    with pytest.raises(ValueError, match=f"`{name}` to have 2 columns like the samples before but got 4"):
        metric.update(**{**case.batch, name: wider})
    assert unchanged(metric, before)
