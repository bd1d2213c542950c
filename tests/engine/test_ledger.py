"""The ledger: one row for each sample that a step met, null where nothing was measured."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from ggmi_callbacks import Ledger
from ggmi_callbacks.engine.ledger import SCHEMA

NAN = float("nan")


def filled(flush: bool = True) -> Ledger:
    """Two steps: one scored and trained on in part, one neither."""
    ledger = Ledger(["human", "model"])
    rows = ledger.write(
        3,
        torch.tensor([10, 11, 2**40]),
        torch.tensor([1, 0, 2]),
        torch.tensor([0.5, NAN, -2.0]),
        torch.tensor([1.0, 1.0, 0.0]),
    )
    rows.complete(torch.tensor([7.5, 8.25]), torch.tensor([0, 1]))
    ledger.write(4, torch.tensor([5]), torch.tensor([0]), torch.tensor([NAN]), torch.tensor([0.25]))
    if flush:
        ledger.flush()
    return ledger


ROWS = [
    {"step": 3, "id": 10, "source": "model", "gain": 0.5, "weight": 1.0, "kept": True, "nll": 7.5},
    {"step": 3, "id": 11, "source": "human", "gain": None, "weight": 1.0, "kept": True, "nll": 8.25},
    {"step": 3, "id": 2**40, "source": None, "gain": -2.0, "weight": 0.0, "kept": False, "nll": None},
    {"step": 4, "id": 5, "source": "human", "gain": None, "weight": 0.25, "kept": True, "nll": None},
]


def test_rows_are_what_was_written_and_null_where_nothing_was_measured() -> None:
    ledger = filled()
    assert ledger.table.to_pylist() == ROWS
    assert len(ledger) == 4


def test_rows_wait_for_the_flush() -> None:
    ledger = filled(flush=False)
    assert len(ledger) == 0
    assert ledger.table.schema == SCHEMA
    ledger.flush()
    ledger.flush()
    assert ledger.table.to_pylist() == ROWS


def test_an_empty_ledger_has_all_columns() -> None:
    ledger = Ledger()
    assert ledger.flush() == []
    assert ledger.table.column_names == ["step", "id", "source", "gain", "weight", "kept", "nll"]
    assert ledger.to_dataset().column_names == ledger.table.column_names


def test_a_rank_without_rows_gathers_where_its_rows_were(monkeypatch: pytest.MonkeyPatch) -> None:
    # The last log of a run may follow another one at once; NCCL refuses tensors that are not on its device.
    ledger, gathered = Ledger(), []

    def gather(local: torch.Tensor) -> list[torch.Tensor]:
        gathered.append((local.device.type, local.shape))
        return [torch.empty(0, 6)]

    monkeypatch.setattr("ggmi_callbacks.engine.ledger.gather_all_tensors", gather)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    zero = torch.zeros(2, dtype=torch.long, device="meta")
    ledger.write(0, zero, zero, zero.float(), zero.float())
    ledger.flush()
    ledger.flush()
    assert gathered == [("meta", (2, 6)), ("meta", (0, 6))]


def test_a_flush_names_the_samples_whose_code_length_is_infinite() -> None:
    ledger = Ledger()
    ids = torch.tensor([4, 8, 15])
    rows = ledger.write(0, ids, torch.zeros(3, dtype=torch.long), torch.zeros(3), torch.ones(3))
    rows.complete(torch.tensor([float("nan"), 3.0]), torch.tensor([0, 1]))  # the third was not measured
    assert ledger.flush() == [4]
    assert ledger.flush() == []


def test_parquet_holds_the_table(tmp_path: Path) -> None:
    ledger = filled()
    ledger.to_parquet(tmp_path / "ledger.parquet")
    assert pq.read_table(tmp_path / "ledger.parquet").equals(ledger.table)


def test_a_data_set_holds_the_rows(tmp_path: Path) -> None:
    from datasets import Dataset

    data = filled().to_dataset()
    assert isinstance(data, Dataset)
    assert data.to_list() == ROWS
    data.save_to_disk(tmp_path / "ledger")
    assert Dataset.load_from_disk(str(tmp_path / "ledger")).to_list() == ROWS


def test_a_restart_has_every_row_once() -> None:
    saved = io.BytesIO()
    torch.save(filled().state_dict(), saved)
    saved.seek(0)
    resumed = Ledger()
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    resumed.write(5, torch.tensor([6]), torch.tensor([1]), torch.tensor([0.0]), torch.tensor([1.0]))
    resumed.flush()
    assert resumed.table.to_pylist() == [
        *ROWS,
        {"step": 5, "id": 6, "source": "model", "gain": 0.0, "weight": 1.0, "kept": True, "nll": None},
    ]


def test_saving_does_not_flush() -> None:
    ledger = filled(flush=False)
    ledger.state_dict()
    assert len(ledger) == 0
    ledger.flush()
    assert ledger.table.to_pylist() == ROWS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_gains_of_any_precision_are_written_as_they_are(dtype: torch.dtype) -> None:
    ledger, gain = Ledger(), torch.tensor([0.1, -3.7]).to(dtype)
    ledger.write(0, torch.tensor([0, 1]), torch.zeros(2, dtype=torch.long), gain, torch.ones(2, dtype=dtype))
    ledger.flush()
    assert ledger.table["gain"].to_pylist() == gain.double().tolist()


def test_scores_that_a_gain_is_made_of_have_columns_of_their_own() -> None:
    ledger = Ledger(parts=["likelihood", "agreement"])
    none = torch.zeros(2, dtype=torch.long)
    ledger.write(0, torch.arange(2), none, torch.ones(2), torch.ones(2), torch.tensor([[1.0, 2.0], [0.5, NAN]]))
    ledger.write(1, torch.arange(2), none, torch.ones(2), torch.ones(2))
    ledger.flush()
    assert ledger.table["gain/likelihood"].to_pylist() == [1.0, 2.0, None, None]
    assert ledger.table["gain/agreement"].to_pylist() == [0.5, None, None, None]
    resumed = Ledger(parts=["likelihood", "agreement"])
    resumed.load_state_dict(ledger.state_dict())
    assert resumed.table.equals(ledger.table)
    with pytest.raises(ValueError, match="resume with the same scorer"):
        Ledger().load_state_dict(ledger.state_dict())


def test_a_data_frame_holds_the_rows() -> None:
    frame = filled().to_pandas()
    assert frame["id"].tolist() == [10, 11, 2**40, 5]
    assert frame["gain"].isna().tolist() == [False, True, False, True]
    pytest.importorskip("polars")
    assert filled().to_polars().to_dicts() == ROWS


def test_its_repr_says_how_much_was_kept() -> None:
    assert repr(filled()).startswith("Ledger(4 rows, kept 75.0%; columns step, id, source, gain,")
    assert repr(Ledger(parts=["a"])) == "Ledger(0 rows; columns step, id, source, gain, weight, kept, nll, gain/a)"


@pytest.mark.parametrize("form", ["list", "dataset"])
def test_joined_rows_carry_the_last_visit_of_their_sample(form: str) -> None:
    rows = [{"text": text} for text in "abc"]
    data = pytest.importorskip("datasets").Dataset.from_list(rows) if form == "dataset" else rows
    ledger = Ledger(parts=["likelihood"])
    for step, gain in ((0, 0.5), (7, -1.0)):
        ids, code, weight = torch.tensor([2, 0]), torch.zeros(2, dtype=torch.long), torch.tensor([1.0, 0.0])
        ledger.write(step, ids, code, torch.tensor([gain, NAN]), weight, torch.tensor([[gain, NAN]]))
    joined = ledger.join(data)
    assert joined[2] == {
        "text": "c",
        "ggmi/step": 7,
        "ggmi/gain": -1.0,
        "ggmi/weight": 1.0,
        "ggmi/kept": True,
        "ggmi/nll": None,
        "ggmi/gain/likelihood": -1.0,
    }
    assert (joined[0]["ggmi/step"], joined[0]["ggmi/gain"], joined[0]["ggmi/kept"]) == (7, None, False)
    assert set(joined[1].values()) == {"b", None}  # never met
    with pytest.raises(ValueError, match=r"`data` has 2 rows, and the ledger holds id 2"):
        ledger.join(rows[:2])
