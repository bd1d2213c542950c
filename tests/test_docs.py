"""The documentation is true: its code runs, its files are there, and no public name or log key is left out."""

from __future__ import annotations

import doctest
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import ggmi_callbacks
from ggmi_callbacks import Filter

from ._loop import SOURCES, builder, stream
from ._sums import sums

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = [*PAGES, *(ROOT / name for name in ("CHANGELOG.md", ".github/CONTRIBUTING.md"))]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
FENCE = re.compile(r"(?P<skip><!-- not run: .+ -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)


def blocks(page: Path) -> Iterator[tuple[str, str, int, int]]:
    """Language, code, line and number of the section of each block of ``page`` that is to run."""
    text = page.read_text()
    for match in FENCE.finditer(text):
        if not match["skip"]:
            before = text[: match.start("code")]
            yield match["language"], match["code"], before.count("\n"), len(re.findall(r"^## ", before, re.M))


@pytest.fixture
def world(tmp_path, monkeypatch, tokenizer):
    """What the pages call the reader's own: a tokenizer, arguments and two data sets."""
    pytest.importorskip("trl")
    from datasets import Dataset
    from trl import SFTConfig

    monkeypatch.chdir(tmp_path)
    args = SFTConfig(
        output_dir="out",
        per_device_train_batch_size=8,
        num_train_epochs=1,
        learning_rate=1e-2,
        logging_steps=2,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    human = Dataset.from_list(sums(32, seed=1, bad=False)).remove_columns("source")
    return {"tokenizer": tokenizer, "args": args, "synthetic": Dataset.from_list(sums(32)), "human": human}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_on_a_page_runs_from_top_to_bottom(page, world, make_model):
    section, runner = -1, doctest.DocTestRunner(optionflags=FLAGS)
    for language, code, line, number in blocks(page):
        if number != section:
            section, world["model"] = number, make_model()
        if language == "python":
            exec(compile("\n" * line + code, page, "exec"), world)
        elif language == "pycon":
            test = doctest.DocTestParser().get_doctest(code, {}, page.name, str(page), line)
            test.globs = world  # which the blocks of a page share
            runner.run(test, clear_globs=False)
    assert not runner.failures


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_files_that_are_named_exist(text):
    named = re.findall(r"(?<![\w/])(?:ggmi_callbacks|integrations|tests|examples|docs)/[\w./-]*\.\w+", text.read_text())
    made = ("docs/_build/", "your_")  # by the reader
    assert not [name for name in named if not (ROOT / name).exists() and not any(word in name for word in made)]


def test_every_public_name_stands_in_the_api_page():
    page = set((ROOT / "docs" / "api.md").read_text().split())
    assert set(ggmi_callbacks.__all__) - {"functional", "metrics"} <= page
    assert set(ggmi_callbacks.functional.__all__) <= page


def test_every_key_that_a_run_logs_stands_in_the_report_page(make_model):
    loop = builder(make_model)(Filter(keep=0.5))
    for batch in stream(8):
        loop.step(batch)
    rows = re.findall(r"^\|(.+?)\|", (ROOT / "docs" / "report.md").read_text(), re.M)
    page = {key for row in rows for key in re.findall(r"`(ggmi/[\w/<>]+)`", row)}
    page |= {f"{key}{end}" for key in page for end in ("_low", "_high")}
    logged = {**loop.engine.log(), **loop.engine.finish()}
    siblings = [{"input_ids": [3 + i // 3, 9 + i // 6, 9], "labels": [-100, 9 + i // 6, 9]} for i in range(12)]
    results = builder(make_model)(Filter(), sources=None, data=siblings).engine.results()
    assert "ggmi/shared_information_null" in results
    logged |= {key: value for key, value in results.items() if "/" in key}
    assert set(results) - set(logged) <= {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    for source in filter(None, SOURCES):
        logged = {key.replace(f"/{source}", "/<source>"): value for key, value in logged.items()}
    assert len(logged) > 20
    assert set(logged) <= page
