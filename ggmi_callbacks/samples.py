"""Numbering samples, so that a batch knows which ones it holds.

loader = DataLoader(Numbered(data), batch_size, shuffle=True, collate_fn=CarryIds(collate))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import Dataset, default_collate

from ggmi_callbacks.tasks import SAMPLE_KEY


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
        batch = self.collate([{k: v for k, v in f.items() if k != SAMPLE_KEY} for f in features])
        batch[SAMPLE_KEY] = ids
        return batch
