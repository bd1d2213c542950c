"""Scores on their way: parts on disk, so that a run that was killed goes on where it was."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO

import numpy as np
import torch

from ggmi_callbacks.model import Shadow
from ggmi_callbacks.scorers._stamp import Stamp


class Parts:
    """Scores of some samples at a time, in files of ``folder``; in memory without one.

    Args:
        folder: of the files; it is made. None to keep all in memory.
        stamp: what the scores depend on.
        width: numbers of a sample.
        size: number of samples.
        rank: of this process, whose files carry it.

    Raises:
        ValueError: if the folder holds scores that depend on something else.

    """

    def __init__(self, folder: Path | None, stamp: Stamp, width: int, size: int, rank: int = 0) -> None:
        self.folder, self.width, self.size, self.rank = folder, width, size, rank
        self._memory: list[tuple[np.ndarray, np.ndarray]] = []
        self._next = 0
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._next = len(list(folder.glob("*.npz")))
        label = folder / "stamp.json"
        if label.exists():
            check(Stamp(**json.loads(label.read_text())), stamp, folder)
        elif rank == 0:
            whole(label, lambda file: file.write(json.dumps(asdict(stamp)).encode()))

    def add(self, ids: np.ndarray, values: np.ndarray) -> None:
        """Keep ``values`` [width, n] of the samples ``ids`` [n]."""
        if self.folder is None:
            self._memory.append((ids, values))
            return
        whole(self.folder / f"{self._next:06d}-{self.rank}.npz", lambda file: np.savez(file, ids=ids, values=values))
        self._next += 1

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """All that is known, [width, size], NaN elsewhere; and of which samples, bool, [size]."""
        values, known = np.full((self.width, self.size), np.nan), np.zeros(self.size, dtype=bool)
        for ids, found in [*self._memory, *map(_load, sorted(self.folder.glob("*.npz")) if self.folder else ())]:
            values[:, ids], known[ids] = found, True
        return values, known

    def shadow(self, device: torch.device) -> Shadow | None:
        """The shadow of the run that was killed, if it got that far."""
        path = None if self.folder is None else self.folder / "shadow.pt"
        if path is None or not path.exists():
            return None
        return Shadow(**torch.load(path, map_location=device, weights_only=True))

    def keep_shadow(self, shadow: Shadow) -> None:
        """Keep ``shadow`` for a run that goes on."""
        if self.folder is not None and self.rank == 0:
            whole(self.folder / "shadow.pt", lambda file: torch.save(shadow.state_dict(), file))

    def remove(self) -> None:
        """Remove the files."""
        if self.folder is not None:
            shutil.rmtree(self.folder)


def check(there: Stamp, here: Stamp, path: Path) -> None:
    """Raise if the scores in ``path`` depend on something else than ``here``."""
    if different := there.differences(here):
        raise ValueError(
            f"`output`: {str(path)!r} holds scores of another job; not the same are {'; '.join(different)}. Remove it, "
            "or name another output."
        )


def whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` write ``path``, which is there as a whole or not at all."""
    unfinished = path.with_name(f"{path.name}.tmp")
    with open(unfinished, "wb") as file:
        write(file)
    os.replace(unfinished, path)


def _load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as part:
        return part["ids"], part["values"]
