"""Samples on their way to the engine: numbered, so that a batch knows which ones it holds; and anchors, checked.

loader = DataLoader(Numbered(data), batch_size, shuffle=True, collate_fn=CarryIds(collate))
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import Dataset, default_collate

from ggmi_callbacks.tasks import SAMPLE_KEY, Inputs, Task


class Numbered(Dataset):
    """A map-style data set of dictionaries, each with its position under ``"ggmi_sample"``.

    Example:
        >>> Numbered([{"x": 1.0}, {"x": 2.0}])[1]
        {'x': 2.0, 'ggmi_sample': 1}

    """

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.data[index], SAMPLE_KEY: index}


class CarryIds:
    """A collator that keeps sample ids away from ``collate`` and adds them, [n], to the batch that it makes.

    Example:
        >>> CarryIds()([{"x": 1.0, "ggmi_sample": 5}, {"x": 2.0, "ggmi_sample": 3}])["ggmi_sample"]
        tensor([5, 3])

    """

    def __init__(self, collate: Callable[[list[Any]], Any] = default_collate) -> None:
        self.collate = collate

    def __call__(self, features: list[dict[str, Any]]) -> Any:
        """Collate ``features``, some of which may carry ids."""
        if SAMPLE_KEY not in features[0]:
            return self.collate(features)
        ids = torch.cat([torch.as_tensor(f[SAMPLE_KEY]).reshape(-1) for f in features])  # packed rows hold several
        if ids.is_floating_point() or ids.lt(0).any():
            raise ValueError(f"{SAMPLE_KEY!r} must hold whole numbers that are not negative, got {ids.tolist()}.")
        batch = self.collate([{k: v for k, v in f.items() if k != SAMPLE_KEY} for f in features])
        batch[SAMPLE_KEY] = ids
        return batch


def check_anchors(anchors: Sequence[Inputs], task: Task) -> list[Inputs]:
    """``anchors`` as a list; raises if they are fewer than two or one of them has no targets."""
    batches = list(anchors)
    samples = sum(task.layout(batch).n for batch in batches)
    if samples < 2 or len(batches) < 2:
        raise ValueError(
            f"`anchors` must hold at least two samples, in two batches (one is held out), got {samples} in "
            f"{len(batches)}."
        )
    without = sum(int((task.layout(batch).tokens == 0).sum()) for batch in batches)
    if without:
        raise ValueError(
            f"{without} of {samples} `anchors` have no target tokens (every label is -100): their answers were "
            "masked or truncated away. Raise `max_length`, or check the completion mask."
        )
    return batches


def anchors_digest(anchors: Sequence[Inputs]) -> str:
    """SHA-256 of everything in ``anchors``, by which a resumed run knows them again."""
    digest = hashlib.sha256()
    for leaf in pytree.tree_leaves([dict(batch) for batch in anchors]):
        if isinstance(leaf, Tensor):
            digest.update(str((tuple(leaf.shape), leaf.dtype)).encode())
            digest.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def to_device(batch: Inputs, device: torch.device) -> Inputs:
    """``batch`` on ``device``, without sample ids."""
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items() if k != SAMPLE_KEY}
