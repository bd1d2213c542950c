"""The ledger: one row for each sample that a training step met, in memory or in a folder as the run goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from ggmi_callbacks._extras import extra
from ggmi_callbacks.distributed import is_distributed
from ggmi_callbacks.engine.ledger_rows import NLL, SCHEMA, Rows
from ggmi_callbacks.engine.ledger_store import Folder, Memory, Store
from ggmi_callbacks.engine.ledger_view import UNIT, draw, joined, to_html, unit_of

if TYPE_CHECKING:
    import datasets
    import pandas
    import polars
    from matplotlib.axes import Axes


class Ledger:
    """Table of step, sample id, source, gain, weight, kept and nll (nats; null where not measured).

    Rows wait on the device as they are written and leave it at logging steps (:meth:`flush`): into memory, or into a
    folder of Parquet files, which a run of any length fills without taking memory, and which is whole whenever the run
    is killed. What returns a table reads all of the folder.

    Args:
        sources: names of the sources, in the order of their codes; empty if there are none.
        parts: names of the scores that a gain is made of, each a column ``gain/<name>``; empty if it is one.
        path: of the folder; None for memory.
        unit: of the gains, in words, which the table carries along.

    Raises:
        ValueError: if ``path`` is a file; in :meth:`begin`, if it holds rows of another run.

    Example:
        >>> import torch
        >>> ledger = Ledger(["human", "model"])
        >>> rows = ledger.write(0, torch.tensor([7]), torch.tensor([1]), torch.tensor([0.5]), torch.tensor([1.0]))
        >>> ledger.flush()
        []
        >>> ledger.table.to_pylist()
        [{'step': 0, 'id': 7, 'source': 'model', 'gain': 0.5, 'weight': 1.0, 'kept': True, 'nll': None}]

    """

    def __init__(
        self,
        sources: Sequence[str] = (),
        parts: Sequence[str] = (),
        path: str | PathLike[str] | None = None,
        unit: str | None = None,
    ) -> None:
        self.sources, self.parts = list(sources), list(parts)
        columns = [*SCHEMA, *((f"gain/{name}", pa.float64()) for name in self.parts)]
        self.schema = pa.schema(columns, metadata=None if unit is None else {UNIT: json.dumps(unit)})
        self._pending: list[Tensor] = []
        # No rows, where the last ones were: NCCL gathers no other.
        self._none = torch.empty(len(self.schema), 0, dtype=torch.float64)
        self._store: Store = Memory() if path is None else Folder(path)
        self._nonfinite: list[int] = []  # ids that the next flush reports

    @classmethod
    def read(cls, path: str | PathLike[str]) -> Ledger:
        """The ledger that a run has written, or is writing: its folder, or a file of :meth:`to_parquet`.

        Raises:
            FileNotFoundError: if nothing is there.
            ValueError: if it is no ledger.

        """
        if not Path(path).exists():
            raise FileNotFoundError(f"there is no ledger {str(path)!r} (looked from {str(Path.cwd())!r}).")
        store: Store = Folder(path) if Path(path).is_dir() else Memory()
        if isinstance(store, Memory):
            try:
                store.append(pq.ParquetFile(path).read())
            except pa.ArrowInvalid as error:
                raise ValueError(f"{str(path)!r} is no ledger: it is no Parquet file ({error}).") from error
        first = next(store.tables(), None)
        if first is None or not set(SCHEMA.names) <= set(first.column_names):
            found = "no rows are there" if first is None else f"it has the columns {first.column_names}"
            raise ValueError(f"{str(path)!r} is no ledger: {found}.")
        parts = [name.removeprefix("gain/") for name in first.column_names if name.startswith("gain/")]
        ledger = cls(parts=parts, unit=unit_of(first))
        ledger._store = store
        return ledger

    def begin(self) -> None:
        """Say that a run begins to write.

        Raises:
            ValueError: if the folder holds rows of another run.

        """
        self._store.begin()

    def write(
        self, step: int, ids: Tensor, source: Tensor, gain: Tensor, weight: Tensor, parts: Tensor | None = None
    ) -> Rows:
        """Add a batch of samples; returns their rows, to be completed with code lengths.

        Args:
            step: optimiser steps before it.
            ids: of the samples; like ``source``, ``gain`` and ``weight`` [n].
            source: codes.
            gain: nats, NaN where not scored.
            weight: in the loss; zero means dropped.
            parts: the scores that gains are made of, [parts, n]; NaN if None.

        """
        nll = torch.full_like(gain, float("nan"), dtype=torch.float64)
        shares = nll.expand(len(self.parts), -1) if parts is None else parts.double()
        columns = [torch.full_like(nll, step), ids.double(), source.double(), gain.double(), weight.double(), nll]
        rows = torch.cat([torch.stack(columns), shares])
        self._pending.append(rows)
        self._none = rows[:, :0]
        return Rows(rows)

    def flush(self) -> list[int]:
        """Bring the waiting rows of all ranks to the host; every rank must call it.

        Returns:
            Ids of the samples among them whose code length was measured and is not finite.

        """
        rows = torch.cat([self._none, *self._pending], dim=1)
        self._pending = []
        if is_distributed():
            rows = torch.cat(gather_all_tensors(rows.T.contiguous())).T
            rows = rows[:, rows[0].argsort(stable=True)]
        if rows.shape[1]:
            rows = rows.cpu()
            self._store.append(self._to_table(rows))
            self._nonfinite += rows[1, rows[NLL].isinf()].long().tolist()
        found, self._nonfinite = self._nonfinite, []
        return found

    @property
    def table(self) -> pa.Table:
        """All rows; of several ranks, those that were flushed."""
        if not is_distributed():
            self._nonfinite += self.flush()
        return self._flushed()

    def _flushed(self) -> pa.Table:
        return pa.concat_tables([self.schema.empty_table(), *self._store.tables()]).combine_chunks()

    @property
    def unit(self) -> str | None:
        """Of the gains, in words; None if nobody has said."""
        return unit_of(self.schema.empty_table())

    def __len__(self) -> int:
        return len(self._store)

    def __repr__(self) -> str:
        kept = sum(pc.sum(rows["kept"]).as_py() or 0 for rows in self._store.tables(["kept"]))
        share = f", kept {kept / len(self):.1%}" if len(self) else ""
        return f"Ledger({len(self)} rows{share}; columns {', '.join(self.schema.names)})"

    def to_dataset(self) -> datasets.Dataset:
        """Return the table as a ``datasets.Dataset``."""
        with extra("transformers", "`Ledger.to_dataset`"):
            import datasets

        return datasets.Dataset(self.table)

    def to_pandas(self) -> pandas.DataFrame:
        """Return the table as a ``pandas.DataFrame``."""
        with extra("pandas", "`Ledger.to_pandas`"):
            import pandas  # noqa: F401

        return self.table.to_pandas()

    def to_polars(self) -> polars.DataFrame:
        """Return the table as a ``polars.DataFrame``."""
        with extra("polars", "`Ledger.to_polars`"):
            import polars

        return polars.DataFrame(self.table)

    def join(self, data: Any) -> Any:
        """``data`` with the last row of each of its samples, in columns ``ggmi/<name>``; null for one never met.

        Args:
            data: the training set, of which ids are positions: a ``datasets.Dataset``, or a sequence of dictionaries.

        Returns:
            A ``datasets.Dataset``, or a list of dictionaries.

        Raises:
            ValueError: if the ledger holds ids beyond the end of ``data``.

        Example:
            >>> import torch
            >>> ledger = Ledger()
            >>> _ = ledger.write(3, torch.tensor([1]), torch.tensor([0]), torch.tensor([0.5]), torch.tensor([1.0]))
            >>> [row["ggmi/gain"] for row in ledger.join([{"text": "one"}, {"text": "two"}])]
            [None, 0.5]

        """
        return joined(self.table, data)

    def to_parquet(self, path: str | PathLike[str]) -> None:
        """Write all rows into one file, some at a time."""
        if not is_distributed():
            self._nonfinite += self.flush()
        with pq.ParquetWriter(path, self.schema) as writer:
            for rows in self._store.tables():
                writer.write_table(rows)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the distribution of gain over samples, kept and dropped.

        Args:
            ax: axes to draw on; new ones by default.

        Returns:
            The axes.

        Raises:
            ImportError: without matplotlib, which extra ``plot`` brings along.

        """
        with extra("plot", "`plot`"):
            from matplotlib import pyplot
        ax = pyplot.subplots(layout="constrained")[1] if ax is None else ax
        draw(ax, self.table)
        return ax

    def _repr_html_(self) -> str:
        """Rows, sources, mean gain and share kept, for notebooks."""
        return to_html(self.table)

    def state_dict(self) -> dict[str, Any]:
        """The flushed rows; of a ledger in a folder, their number."""
        return {"sources": self.sources, "parts": self.parts, **self._store.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`; rows in the folder that came later are removed.

        Raises:
            ValueError: if gains are made of other scores, or the folder is not that of the run.

        """
        self.sources, self._pending = state["sources"], []
        if state["parts"] != self.parts:
            raise ValueError(
                f"the checkpoint's gains are made of {state['parts']}, this run's of {self.parts}: resume with the "
                "same scorer, or start anew."
            )
        self._store.load_state_dict(state, self.schema)

    def _to_table(self, rows: Tensor) -> pa.Table:
        step, ids, source, gain, weight, nll, *parts = rows.numpy()
        names = pa.array([*self.sources, None], pa.string())
        columns = [
            pa.array(step.astype("int64")),
            pa.array(ids.astype("int64")),
            names.take(pa.array(source.astype("int64"))),
            pa.array(gain, from_pandas=True),
            pa.array(weight),
            pa.array(weight > 0),
            pa.array(nll, from_pandas=True),
            *(pa.array(part, from_pandas=True) for part in parts),
        ]
        return pa.Table.from_arrays(columns, schema=self.schema)
