"""One data set on its way through a scorer.

Samples are sorted by length, so that batches hold little padding, and the longest come first: what does not fit into
memory is known at once. Scores wait on the device and leave it every half minute, into a file of their own each time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ggmi_callbacks.data import to_device
from ggmi_callbacks.engine import GainEngine
from ggmi_callbacks.scorers import Scorer
from ggmi_callbacks.scorers._stamp import Stamp
from ggmi_callbacks.scoring.parts import Parts, check, whole
from ggmi_callbacks.scoring.processes import meet
from ggmi_callbacks.scoring.samples import Samples

SECONDS = 30.0  # between files of scores


@dataclass
class Job:
    """Samples, the scorer, what the scores depend on, and where they go.

    Args:
        samples: to score.
        scorer: has read them.
        stamp: what the scores depend on.
        output: file for them; None for none.
        rank: of this process.
        size: number of processes.

    """

    samples: Samples
    scorer: Scorer
    stamp: Stamp
    output: Path | None
    rank: int
    size: int

    def finished(self) -> pa.Table | None:
        """The scores, if the file is there already.

        Raises:
            ValueError: if it holds scores that depend on something else.

        """
        table = None
        if self.output is not None and self.output.exists():
            check(Stamp.read(self.output)[0], self.stamp, self.output)
            table = pq.read_table(self.output)
        meet()  # before anybody writes
        return table

    def finish(self, values: np.ndarray) -> pa.Table:
        """Write ``values`` [2 + parts, N], in one process for all, and return the table."""
        samples = self.samples
        scores = {"gain": values[0], "noise": np.where(np.isnan(values[0]), np.nan, values[1])}
        scores |= {f"gain/{name}": part for name, part in zip(self.scorer.parts, values[2:], strict=True)}
        table = pa.table(
            {
                "id": pa.array(np.arange(len(samples.rows))),
                "source": pa.array(samples.sources, pa.string()),
                "tokens": pa.array(samples.targets),
                **{name: pa.array(column.astype(np.float64), from_pandas=True) for name, column in scores.items()},
                "fingerprint": pa.array(samples.prints.numpy()),
            }
        ).replace_schema_metadata(self.stamp.metadata())
        if self.output is not None and self.rank == 0:
            whole(self.output, lambda file: pq.write_table(table, file))
        meet()
        return table

    def run(self, engine: GainEngine, batch_tokens: int, progress: bool) -> pa.Table:
        """Score what is not scored yet, with a model."""
        folder = None if self.output is None else self.output.with_name(f"{self.output.name}.parts")
        parts = Parts(folder, self.stamp, 2 + len(self.scorer.parts), len(self.samples.rows), self.rank)
        _, known = parts.read()
        engine.shadow = parts.shadow(engine.device)
        meet()  # as above
        parts.keep_shadow(engine.prepare_scorer())
        lengths = self.samples.lengths
        batches = by_length(lengths, (~known).nonzero()[0], batch_tokens)[self.rank :: self.size]
        total = int(sum(lengths[ids].sum() for ids in batches))
        with tqdm(total=total, desc="GGMI scores", unit="tok", unit_scale=True, disable=not progress) as bar:
            self._batches(engine, batches, parts, bar)
        meet()
        values, _ = parts.read()
        table = self.finish(values)
        if self.rank == 0:
            parts.remove()
        meet()
        return table

    def _batches(self, engine: GainEngine, batches: Sequence[np.ndarray], parts: Parts, bar: tqdm) -> None:
        """Score ``batches`` of ids; what was found waits on the device, so that the host runs ahead of it."""
        waiting: list[tuple[np.ndarray, Tensor]] = []
        since = time.monotonic()
        for ids in batches:
            waiting.append((ids, values(engine, self.samples, ids)))
            bar.update(int(sum(len(self.samples.tokens[i]["input_ids"]) for i in ids)))
            if time.monotonic() - since > SECONDS or ids is batches[-1]:
                found = torch.cat([found for _, found in waiting], 1)
                parts.add(np.concatenate([which for which, _ in waiting]), found.double().cpu().numpy())
                waiting, since = [], time.monotonic()


@torch.no_grad()
def values(engine: GainEngine, samples: Samples, ids: np.ndarray) -> Tensor:
    """Scores of the samples ``ids``, [2 + parts, n], NaN where there is none."""
    inputs = to_device(samples.batch(ids), engine.device)
    layout = replace(engine.probe.task.layout(inputs), ids=torch.from_numpy(ids).to(engine.device))
    found = engine.scorer.score(inputs, layout).stacked()
    known = (layout.tokens > 0) & found[:2].isfinite().all(0)
    return torch.cat([found[:2].masked_fill(~known, float("nan")), found[2:]])


def by_length(lengths: np.ndarray, ids: np.ndarray, budget: int) -> list[np.ndarray]:
    """``ids`` in batches of at most ``budget`` tokens with padding, the longest first; one at least in each.

    Example:
        >>> by_length(np.array([3, 9, 4, 2]), np.arange(4), budget=8)
        [array([1]), array([2, 0]), array([3])]

    """
    order = ids[np.argsort(-lengths[ids], kind="stable")]
    batches, start = [], 0
    while start < len(order):
        end = start + max(1, budget // max(1, int(lengths[order[start]])))
        batches.append(order[start:end])
        start = end
    return batches
