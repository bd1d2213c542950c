"""A ledger in a folder: what a ledger in memory has, whole after a kill, each row once, in constant memory."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from ggmi_callbacks import ColumnScorer, Filter, Ledger, Monitor, SampleEngine
from ggmi_callbacks.engine import ledger_store
from tests._loop import SOURCES, builder, stream


def fill(ledger: Ledger, flushes: int, rows: int = 10, start: int = 0) -> Ledger:
    """``flushes`` flushes of as many rows each, all different."""
    for i in range(start, start + flushes):
        ids = torch.arange(i * rows, (i + 1) * rows)
        ledger.write(i, ids, ids % 3, ids / 7, (ids % 4 > 0).double())
        ledger.flush()
    return ledger


@pytest.fixture
def small(monkeypatch):
    """Files of some rows, so that many of them become one several times."""
    monkeypatch.setattr(ledger_store, "ROW_GROUP", 100)
    monkeypatch.setattr(ledger_store, "_LOOSE", 4)


def test_it_is_the_ledger_in_memory_in_few_files(small, tmp_path):
    held, written = fill(Ledger(["a", "b"]), 57), fill(Ledger(["a", "b"], path=tmp_path / "ledger"), 57)
    assert written.table == held.table
    assert written.to_pandas().equals(held.to_pandas())
    assert (len(written), repr(written)) == (570, repr(held))
    assert written._repr_html_() == held._repr_html_()
    rows = [{"text": str(i)} for i in range(570)]
    assert written.join(rows) == held.join(rows)
    files = sorted((tmp_path / "ledger").iterdir())
    assert len(files) <= 5 + 4
    assert pq.read_table(tmp_path / "ledger").sort_by("id") == held.table  # for whoever reads the folder with a tool
    written.to_parquet(tmp_path / "one.parquet")
    assert pq.read_table(tmp_path / "one.parquet") == held.table
    for path in ("ledger", "one.parquet"):
        assert Ledger.read(tmp_path / path).table == held.table


KILLED = """
import os, signal, sys
import torch
from ggmi_callbacks import Ledger
ledger = Ledger(["a", "b"], path=sys.argv[1])
for i in range(1000):
    ids = torch.arange(i * 10, (i + 1) * 10)
    ledger.write(i, ids, ids % 3, ids / 7, (ids % 4 > 0).double())
    ledger.flush()
    if i == 149:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_leaves_every_row_that_was_flushed(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "ledger")], timeout=120)
    assert done.returncode == -9
    assert Ledger.read(tmp_path / "ledger").table == fill(Ledger(["a", "b"]), 150).table


@pytest.mark.parametrize("at", [0, 3, 25, 40])
def test_a_resumed_run_has_every_row_once(small, at, tmp_path):
    """What came after the checkpoint, and what a kill left half done, is not there twice."""
    ledger = fill(Ledger(["a", "b"], path=tmp_path), at)
    state = ledger.state_dict()
    fill(ledger, 9, start=at)  # steps that are lost
    (tmp_path / "rows-000000000000-000000000004.part").write_bytes(b"half")
    again = Ledger(["a", "b"], path=tmp_path)
    again.load_state_dict(state)
    again.begin()
    fill(again, 50 - at, start=at)
    assert again.table == fill(Ledger(["a", "b"]), 50).table
    assert not list(tmp_path.glob("*.part"))


def test_files_that_became_one_and_are_still_there_are_read_once(tmp_path):
    ledger = fill(Ledger(["a", "b"], path=tmp_path), 3)
    whole = ledger.table
    pq.write_table(whole, tmp_path / "rows-000000000000-000000000030.parquet")  # and no chance to remove the others
    assert len(list(tmp_path.iterdir())) == 4
    assert Ledger.read(tmp_path).table == whole
    assert len(Ledger.read(tmp_path)) == 30


def test_what_cannot_go_on_is_refused_and_nothing_is_lost(tmp_path):
    ledger = fill(Ledger(["a", "b"], path=tmp_path / "one"), 3)
    state = ledger.state_dict()
    assert set(state) == {"sources", "parts", "rows", "folder"}  # a position, and no rows
    with pytest.raises(ValueError, match=r"holds 30 rows of another run: give another folder"):
        Ledger(path=tmp_path / "one").begin()
    with pytest.raises(ValueError, match=r"holds 0 rows, and the checkpoint was written after 30: .*one"):
        Ledger(path=tmp_path / "two").load_state_dict(state)
    with pytest.raises(ValueError, match=r"the checkpoint's ledger is in .*one"):
        Ledger().load_state_dict(state)
    with pytest.raises(ValueError, match=r"`ledger` .* is a file"):
        Ledger(path=next((tmp_path / "one").iterdir()))
    with pytest.raises(FileNotFoundError, match=r"there is no ledger .*nowhere"):
        Ledger.read(tmp_path / "nowhere")
    pq.write_table(ledger.table.select(["id"]), tmp_path / "ids.parquet")
    with pytest.raises(ValueError, match=r"is no ledger: it has the columns \['id'\]"):
        Ledger.read(tmp_path / "ids.parquet")
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"none' is no ledger: no rows are there"):
        Ledger.read(tmp_path / "none")
    (tmp_path / "rows.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl' is no ledger: it is no Parquet file"):
        Ledger.read(tmp_path / "rows.jsonl")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds config\.json, which are no rows of a ledger"):
        Ledger(path=tmp_path / "model").begin()
    assert len(Ledger.read(tmp_path / "one")) == 30
    moved = Ledger(path=tmp_path / "two")  # a run that went on in memory may go on in a folder
    moved.load_state_dict(fill(Ledger(["a", "b"]), 3).state_dict())
    assert moved.table == ledger.table


PEAK = """
import os, sys
import torch
from ggmi_callbacks import Ledger
ledger = Ledger(["a", "b"], path=sys.argv[1] or None)
sizes = []
for i in range(100):
    ids = torch.arange(i * 20000, (i + 1) * 20000)
    ledger.write(i, ids, ids % 3, ids / 7, (ids % 4 > 0).double())
    ledger.flush()
    if i in (19, 99):
        pages = int(open("/proc/self/statm").read().split()[1])
        sizes.append(pages * os.sysconf("SC_PAGESIZE") / 2**20)
assert len(ledger) == 2_000_000
print(sizes[1] - sizes[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of a process from /proc")
def test_two_million_rows_take_no_more_memory_than_four_hundred_thousand(tmp_path):
    grown = []
    for path in (str(tmp_path / "ledger"), ""):
        done = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        grown.append(float(done.stdout))
    in_folder, in_memory = grown
    assert in_folder < 50 < 100 < in_memory  # MiB for 1.6 million rows more; the allocator keeps some 30


@pytest.mark.filterwarnings("ignore:the anchors' code is")
def test_an_engine_goes_on_in_the_folder_of_its_run(make_model, tmp_path):
    build, batches = builder(make_model), stream(8)
    whole, cut = build(Monitor(), overhead=0.9), build(Monitor(), overhead=0.9, ledger=tmp_path)
    for loop, steps in ((whole, 8), (cut, 4)):
        for batch in batches[:steps]:
            loop.step(batch)
            loop.engine.log()
    state = cut.engine.state_dict()
    assert "columns" not in state["ledger"]
    cut.step(batches[4])
    cut.engine.log()  # and is killed
    again = build(Monitor(), overhead=0.9, ledger=tmp_path, prepare=False)
    again.engine.load_state_dict(state)
    for batch in batches[4:]:
        again.engine.observe(batch)
        again.engine.end_step()
    again.engine.log()
    assert again.engine.ledger.table["id"].to_pylist() == whole.engine.ledger.table["id"].to_pylist() == [*range(32)]
    other = build(Monitor(), ledger=tmp_path, prepare=False)
    with pytest.raises(ValueError, match="rows of another run"):
        other.engine.prepare()
    assert other.engine.shadow is None  # nothing was paid for


def test_the_table_carries_the_unit_of_its_gains(make_model, tmp_path):
    rows = [{"reward": float(i)} for i in range(len(SOURCES))]
    model = make_model(vocab_size=40)
    engine = SampleEngine(model, policy=Filter(), scorer=ColumnScorer("reward"), data=rows, ledger=tmp_path / "ledger")
    engine.prepare()
    engine.observe(stream(1)[0])
    engine.log()
    engine.ledger.to_parquet(tmp_path / "one.parquet")
    for path in ("ledger", "one.parquet"):
        assert Ledger.read(tmp_path / path).unit == "reward, in its own unit"
    page = pytest.importorskip("ggmi_callbacks.report").report(tmp_path / "one.parquet", tmp_path / "page.html")
    assert "reward, in its own unit" in Path(page).read_text()
    folder = pytest.importorskip("ggmi_callbacks.report").report(tmp_path / "ledger", tmp_path / "folder.html")
    assert "reward, in its own unit" in Path(folder).read_text()


@pytest.fixture
def full_disk():
    """While it is entered no file may grow, as on a full disk."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    @contextmanager
    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return full


def test_a_full_disk_ends_no_run_and_no_row_is_lost(tmp_path, full_disk, caplog) -> None:
    ledger, whole = Ledger(["a", "b"], path=tmp_path / "ledger"), Ledger(["a", "b"])
    for step in range(6):
        fill(whole, 1, start=step)
        with full_disk() if step in (2, 3) else nullcontext():
            fill(ledger, 1, start=step)
        assert ledger.state_dict()["rows"] == (20 if step in (2, 3) else 10 * (step + 1))
        assert ledger.table.equals(whole.table)
    assert Ledger.read(tmp_path / "ledger").table.select(["id", "step"]).equals(whole.table.select(["id", "step"]))
    assert [r.getMessage().partition(" into ")[0] for r in caplog.records] == ["GGMI: the ledger cannot be written"]
