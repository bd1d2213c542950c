"""Anchors by one door: whatever people have becomes batches as the trainer would make them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader

from ggmi_callbacks.integrations.loop import batches
from ggmi_callbacks.model import preserved_rng
from ggmi_callbacks.rows import read_rows
from ggmi_callbacks.tasks import SAMPLE_KEY, Inputs

_MOST = 10_000  # rows or batches that are read from a stream
_FORMS = "a loader, batches, rows or a data set like the training set, or the path of a .jsonl, .json or .parquet file"


def anchor_batches(anchors: Any, trainer: Any) -> list[Inputs]:
    """Batches of ``anchors``, on the device and in the precision of the training batches.

    Args:
        anchors: a loader or another iterable of batches; or rows, which the training loader's ``collate_fn`` makes
            batches of: a data set, a list or another iterable of them, or the path of a file that holds them.
        trainer: the Lightning trainer, whose training loader exists.

    Raises:
        TypeError: if they are none of these.
        ValueError: if they are fewer than two, or rows that cannot be collated.
        FileNotFoundError: if there is no such file.

    """
    with preserved_rng():  # loaders draw from the global stream, and so may a transform
        found = [_as_trained_on(batch, trainer) for batch in _batches(anchors, trainer.train_dataloader)]
    return batches(found)


def _batches(anchors: Any, train_loader: Any) -> Iterable[Any]:
    if isinstance(anchors, DataLoader):
        return anchors
    rows = _sequence(anchors)
    if isinstance(rows, (list, tuple)) and rows and _is_batch(rows[0]):
        return rows
    if len(rows) < 2:
        raise ValueError(f"`anchors` must hold at least two real examples of the task, got {len(rows)}.")
    return _collated(rows, train_loader)


def take(stream: Iterable[Any]) -> list[Any]:
    """All of a ``stream`` of rows or batches, which must end.

    Raises:
        ValueError: if it holds more than 10,000.

    """
    with preserved_rng():
        rows = list(islice(stream, _MOST + 1))
    if len(rows) > _MOST:
        raise ValueError(
            f"`anchors` is a stream of more than {_MOST} elements, or without an end: take what you mean, as in "
            "`itertools.islice(stream, 128)`."
        )
    return rows


def _sequence(anchors: Any) -> Any:
    """``anchors`` as something with a length and positions: rows or batches."""
    if isinstance(anchors, (str, os.PathLike)):
        try:
            return read_rows(anchors)
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"`anchors`: {error}") from error
    if isinstance(anchors, Mapping) or not (hasattr(anchors, "__iter__") or hasattr(anchors, "__getitem__")):
        raise TypeError(f"`anchors` must be {_FORMS}, got {type(anchors).__name__}.")
    return anchors if hasattr(anchors, "__len__") and hasattr(anchors, "__getitem__") else take(anchors)


def _is_batch(element: Any) -> bool:
    """Whether ``element`` is a batch and no row: its tokens are [B, T], or all it holds are tensors of one length."""
    tokens = element.get("input_ids") if isinstance(element, Mapping) else None
    if tokens is not None:
        return isinstance(tokens, Tensor) and tokens.dim() > 1
    leaves = pytree.tree_leaves(dict(element) if isinstance(element, Mapping) else element)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()]
    return bool(leaves) and len(tensors) == len(leaves) and len({len(leaf) for leaf in leaves}) == 1


def _collated(rows: Any, train_loader: Any) -> list[Any]:
    collate = getattr(train_loader, "collate_fn", None)
    if collate is None:
        raise ValueError(
            f"`anchors` are rows, and the training loader ({type(train_loader).__name__}) has no `collate_fn` to make "
            "batches of them: give a DataLoader of the anchors."
        )
    size = min(getattr(train_loader, "batch_size", None) or 1, max(1, len(rows) // 4))
    try:
        return list(DataLoader(rows, size, collate_fn=collate))
    except Exception as error:
        raise ValueError(
            f"`anchors` cannot be collated as the training set is ({type(error).__name__}: {error}). Their rows hold "
            f"{_shown(rows)}, those of the training set {_shown(getattr(train_loader, 'dataset', None))}: give rows as "
            "those of the training set, or a DataLoader of the anchors."
        ) from error


def _shown(rows: Any) -> str:
    """What a row holds, in words."""
    try:
        row = rows[0]
    except Exception:  # a stream, or no data set at all
        return "what cannot be shown"
    if isinstance(row, Mapping):
        return str(sorted(str(key) for key in row if key != SAMPLE_KEY))
    return type(row).__name__


def _as_trained_on(batch: Any, trainer: Any) -> Any:
    """``batch`` after what Lightning does with each training batch: precision, transfer, and the hooks around it."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)
