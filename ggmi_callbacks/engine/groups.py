"""Groups of samples that a policy tells apart, by sample id."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from ggmi_callbacks.data import SampleData
from ggmi_callbacks.policies import Policy


def read_groups(
    policy: Policy, data: SampleData | None, sources: Sequence[str | None] | None, num_samples: int | None
) -> dict[str, Tensor]:
    """Group of each sample by id, whole numbers from 0, [N], for each name in :attr:`Policy.needs`.

    Args:
        policy: asks for ``"prompt"`` (:attr:`SampleData.groups`), ``"source"``, ``"length"`` (octaves of
            the number of targets) or the name of a column, whose equal values are a group.
        data: the training set by id.
        sources: source of each sample by id; those without one are a group of their own.
        num_samples: size of the training set, if it is known.

    Raises:
        ValueError: if what a group is read from is not there, or is of another number of samples.

    Example:
        >>> rows = [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [5, 8], "labels": [-100, 8]}]
        >>> from ggmi_callbacks import Filter
        >>> read_groups(Filter(keep=0.5, within="prompt"), SampleData(rows), None, 2)
        {'prompt': tensor([0, 0])}

    """
    found = {}
    for name in policy.needs:
        values = _of_sources(policy, sources) if name == "source" else _of_data(policy, name, data)
        if num_samples is not None and len(values) < num_samples:
            raise ValueError(f"{policy!r} knows {name!r} of {len(values)} samples, and `num_samples` is {num_samples}.")
        found[name] = _numbers(name, values[:num_samples])
    return found


def _of_sources(policy: Policy, sources: Sequence[str | None] | None) -> Sequence[Hashable]:
    if sources is None:
        raise ValueError(
            f"{policy!r} tells sources apart, and none are named: give the callback the column that holds them, "
            "`source=`, or GainEngine `sources=`."
        )
    return sources


def _of_data(policy: Policy, name: str, data: SampleData | None) -> Sequence[Hashable]:
    if data is None:
        raise ValueError(
            f"{policy!r} reads {name!r} of each sample off the training set, and the engine was given none: "
            "GainEngine(..., data=rows), with sample ids in the batches; of packed rows, the callback's "
            "`train_dataset=`. A stream cannot be read beforehand, and Lightning's callback knows sources alone."
        )
    if name == "prompt":
        return data.groups
    if name == "length":
        return [len(answer).bit_length() for answer in data.answers]  # 1, 2 to 3, 4 to 7, ...
    return data.column(name, "within")


def _numbers(name: str, values: Sequence[Hashable]) -> Tensor:
    """Number of each value, in the order in which they first come."""
    try:
        number = {value: i for i, value in enumerate(dict.fromkeys(values))}
    except TypeError as error:
        raise ValueError(f"column {name!r} must hold values that can be told apart by equality: {error}.") from error
    return torch.tensor([number[value] for value in values])
