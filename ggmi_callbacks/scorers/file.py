"""Scores made beforehand by :func:`ggmi_callbacks.score` or ``ggmi score``.

A sample is known again by its tokens and targets. So the order of the training set may be another one than that of the
file, samples may be left out or repeated, and packing does not matter. Cost: none in the step.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ggmi_callbacks.data import SampleData
from ggmi_callbacks.model import Probe, Shadow
from ggmi_callbacks.scorers._base import Score
from ggmi_callbacks.scorers._data import DataScorer
from ggmi_callbacks.scorers._stamp import (
    Stamp,
    describe_weights,
    different_weights,
    digest_of_anchors,
    digests_of_weights,
)
from ggmi_callbacks.tasks import Inputs, Layout


class FileScorer(DataScorer):
    """gain(z) as it stands in a file of scores, for the same tokens and targets.

    The file says what it was made of. When a run starts, its model must have the weights under which was scored, its
    anchors must be the same, and at least one sample of the training set must be in the file. A sample that is not
    there has no gain, and a warning says how many these are. Of samples with the same tokens the first one's scores
    count.

    Args:
        path: a ``.parquet`` file of :func:`ggmi_callbacks.score`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no scores or is of another format; when a run starts, if it is stale, with what differs.

    Example:
        >>> FileScorer("scored.parquet")
        Traceback (most recent call last):
        ...
        FileNotFoundError: ...

    """

    needs_anchors = True  # to see that they are those that the file was made with

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = os.fspath(path)
        self.stamp, columns = Stamp.read(self.path)
        self.parts = tuple(name.removeprefix("gain/") for name in columns if name.startswith("gain/"))
        self._keys: Tensor | None = None
        self.additive = self.stamp.sums
        self._scores = torch.empty(3 + len(self.parts), 0)  # gain, noise, parts, and the number of targets
        self._by_id: Tensor | None = None

    def check_start(self, probe: Probe, anchors: Sequence[Inputs]) -> None:
        """See :meth:`Scorer.check_start`."""
        if not self.stamp.weights:
            return
        wrong = different_weights(self.stamp.weights, digests_of_weights(probe.model))
        stale = describe_weights(wrong, len(self.stamp.weights))
        stale += ["the anchors"] if self.stamp.anchors != digest_of_anchors(anchors, probe.task) else []
        if stale:
            raise ValueError(
                f"{self.path!r} is stale: {' and '.join(stale)} differ from those of this run. Score again with "
                "`ggmi score`, or train with the model and the anchors that were scored with."
            )

    def values(self, data: SampleData) -> Tensor:
        """See :meth:`DataScorer.values`."""
        prints = data.fingerprints()
        self._by_id, known = self._find(prints)
        missing = int((~known).sum())
        if missing == len(prints):
            raise ValueError(
                f"{self.path!r} holds none of the {len(prints)} samples of the training set: it was made of other "
                "data, or with another tokenizer, chat template or `max_length`."
            )
        if missing:
            warnings.warn(
                f"{missing} of {len(prints)} samples of the training set are not in {self.path!r}: their gain is not "
                "known.",
                stacklevel=2,
            )
        return self._by_id[0]

    def prepare(self, probe: Probe, anchors: Sequence[Inputs], shadow: Shadow) -> None:
        """See :meth:`Scorer.prepare`."""
        self._task = probe.task

    def known(self) -> Score:
        """See :meth:`Scorer.known`."""
        self._require()
        assert self._by_id is not None
        return Score.unstacked(self._by_id[:-1])

    def targets(self) -> Tensor | None:
        """See :meth:`Scorer.targets`."""
        self._require()
        return None if self._by_id is None or not self.additive else self._by_id[-1].nan_to_num(1.0)

    def gain(self, inputs: Inputs, layout: Layout) -> Tensor:
        """See :meth:`Scorer.gain`."""
        return self.noisy_gain(inputs, layout).gain

    def noisy_gain(self, inputs: Inputs, layout: Layout) -> Score:
        """See :meth:`Scorer.noisy_gain`; samples of a stream are found by the tokens in the batch."""
        if self._by_id is None or layout.ids is None:
            return Score.unstacked(self._find(self._task.fingerprint(inputs, layout))[0][:-1])
        self._by_id = self._by_id.to(layout.ids.device)
        return Score.unstacked(self._by_id[:-1, layout.ids])

    def _find(self, prints: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and targets of the samples with these fingerprints, [3 + parts, n], NaN where not; and which are."""
        if self._keys is None:
            self._load()
        assert self._keys is not None
        if self._keys.device != prints.device:
            self._keys, self._scores = self._keys.to(prints.device), self._scores.to(prints.device)
        place = torch.searchsorted(self._keys, prints).clamp_max(len(self._keys) - 1)
        known = self._keys[place] == prints
        return self._scores[:, place].masked_fill(~known, float("nan")), known

    def _load(self) -> None:
        names = ["gain", "noise", *(f"gain/{name}" for name in self.parts), "tokens"]
        table = pq.read_table(self.path, columns=["fingerprint", *names])
        keys = torch.from_numpy(table["fingerprint"].to_numpy().copy())
        scores = torch.from_numpy(np.stack([table[name].to_numpy() for name in names]))
        self._keys, order = keys.sort(stable=True)  # the leftmost of equal ones, the first in the file, is found
        self._scores = scores[:, order].float()
