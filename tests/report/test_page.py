"""The page says what the ledger and the run's results hold."""

from __future__ import annotations

import html
import json
import math
import re

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from ggmi_callbacks import Filter, Ledger
from ggmi_callbacks.functional import mean_interval
from ggmi_callbacks.report import report
from ggmi_callbacks.report.words import MEANINGS, alarms, meaning, verdict

from .._loop import builder, stream
from ._ledgers import known, large


def written(source, tmp_path, **options) -> str:
    return report(source, tmp_path / "gain.html", **options).read_text(encoding="utf-8")


def plain(page: str) -> str:
    """Text of the page, without its script, its style and its index."""
    page = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def row(page: str, head: str) -> list[str]:
    """Cells of the first table row with this head, without their pictures."""
    found = re.search(rf'<tr><th scope="row">{re.escape(head)}</th>(.*?)</tr>', page, re.S)
    assert found, head
    return [plain(cell) for cell in re.findall(r"<td.*?</td>", found[1], re.S)]


def index(page: str) -> list[list]:
    return json.loads(re.search(r'<script type="application/json" id="index">(.*?)</script>', page, re.S)[1])


def test_sources_have_their_samples_mean_gain_interval_and_share(tmp_path):
    page = written(known(), tmp_path)
    _, low, high = mean_interval(torch.tensor([2.0, 2.0, 3.0, 4.0]), confidence=0.95)  # sample 0: mean of 1 and 3
    assert row(page, "human") == ["4", f"+2.8 [+{low:.1f}, +{high:.1f}]", "", "100 %"]
    assert row(page, "model")[0] == "4"
    assert row(page, "model")[1].startswith("\N{MINUS SIGN}2.0 [")
    assert row(page, "model")[3] == "25 %"  # the one that was not scored is kept


def test_the_verdict_stands_first_and_follows_from_gain_and_share(tmp_path):
    text = plain(written(known(), tmp_path))
    assert text.index("cannot be told from data that teaches nothing") < text.index("Mean gain")
    assert "62 % of 8 samples were kept." in text


def test_the_most_and_the_least_useful_samples_are_shown_with_their_text(tmp_path):
    texts = [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(8)]
    page = written(known(), tmp_path, texts=texts)
    most, least = page.split("The least useful")
    assert re.findall(r"<h4>Sample (\d+)</h4>", most.split("The most useful")[1]) == ["3", "2", "0", "1"]
    assert re.findall(r"<h4>Sample (\d+)</h4>", least) == ["5", "6", "4"]
    assert "question 3" in most
    assert "answer 5" in least
    assert "answer 7" not in plain(page)  # was not scored
    assert "answer 7" in json.dumps(index(page))


def test_without_texts_the_page_says_how_to_give_them(tmp_path):
    assert "No texts were given" in plain(written(known(), tmp_path))


def test_the_scores_that_decided_are_told_by_rank(tmp_path):
    page = written(known(), tmp_path)
    samples, kept, dropped, tells, follows, lowest = row(page, "likelihood")
    assert (samples, kept, dropped, tells, follows, lowest) == ("7", "+2.75", "\N{MINUS SIGN}2", "100 %", "+1", "100 %")
    assert row(page, "agreement")[3] == "29 %"  # 3.5 of 12 pairs of a kept and a dropped sample, ties half
    assert "Which score decided" not in written(known(parts=False), tmp_path)


def test_gain_over_steps_and_its_distribution_have_tables(tmp_path):
    page = written(known(), tmp_path)
    steps = page[page.index('id="steps"') :]
    assert row(steps, "1")[1:] == ["2", "50 %"]
    distribution = page[page.index('id="distribution"') :]
    counts = re.findall(r'<td class="number">(\d+)</td><td class="number">(\d+)</td></tr>', distribution)
    assert [sum(map(int, column)) for column in zip(*counts, strict=True)][:2] == [4, 3]


@pytest.fixture
def engine(make_model):
    loop = builder(make_model)(Filter(keep=0.5))
    for batch in stream(8):
        loop.step(batch)
    loop.engine.log()
    loop.engine.finish()
    return loop.engine


def test_a_run_shows_ggmi_its_terms_and_its_cost(engine, tmp_path):
    page = written(engine, tmp_path)
    results, text = engine.results(), plain(page)
    terms = row(page, "Training on the anchors stores"), row(page, "Training on this data stores")
    for (value, _), side in zip(terms, ("anchor", "synthetic"), strict=True):
        count = results["ggmi/anchor_samples_mixture" if side == "anchor" else "ggmi/synthetic_samples"]
        each = results[f"ggmi/{side}_information_mixture"] / count
        assert float(value.split()[0].replace("\N{MINUS SIGN}", "-")) == pytest.approx(each, rel=0.1, abs=0.1)
    assert "Estimator: mixture" in text
    assert "what is memorised of the sample count together" in text
    assert "LikelihoodScorer" in text
    assert "Filter(keep=0.5" in text
    assert "Shadow run" in text
    keys = {f"ggmi/{name}" for name in ("overhead", "coverage", "anchor_nll", "synthetic_nll", "ggmi_per_token")}
    for key in keys & set(results):
        assert f"<code>{key}</code>" in page
    assert "nats per sample" in text


def test_gap_and_shared_information_stand_by_source_where_they_were_measured(engine, tmp_path, monkeypatch):
    assert "Shared information</th>" not in written(engine, tmp_path)
    results = engine.results()
    ends = {"shared_information": 0.25, "shared_information_low": 0.2, "shared_information_high": 0.3}
    results["sources"] = {"good": ends, "bad": {}}
    monkeypatch.setattr(engine, "results", lambda: results)
    page = written(engine, tmp_path)
    table = page[page.index("By source, nats per token") :]
    assert row(table, "good") == ["+0.25 [+0.20, +0.30]"]
    assert "Generalisation gap</th>" not in table


def test_every_number_of_a_run_has_a_meaning(engine):
    numbers = [key for key, value in engine.results().items() if isinstance(value, float)]
    ends = ("_low", "_high", "_samples", "_tokens")
    assert [key for key in numbers if not key.endswith(ends) and not meaning(key)] == []


def test_what_was_not_measured_has_no_section(tmp_path):
    page = written(known(), tmp_path)
    assert 'id="ggmi"' not in page
    assert 'id="alarms"' not in page
    text = plain(page)
    assert "Overhead" not in text
    assert "nan" not in text.lower().split()
    assert "None" not in text


def test_a_verdict_and_alarms_of_the_run_go_before_those_of_the_page():
    assert verdict({"verdict": "It taught."}, None, [], True, "nats") == "It taught."
    shadow = {"improved": False}
    found = alarms({"alarms": ["Collapse."], "ggmi/nonfinite": 3.0, "shadow": shadow}, coverage=0.01)
    assert found[0] == "Collapse."
    assert [words in text for words, text in zip(("taught the shadow nothing", "3 visits", "1\xa0%"), found[1:],
                                                 strict=True)] == [True] * 3  # fmt: skip
    assert alarms({}, coverage=1.0) == []


def test_both_forms_of_ggmi_stand_side_by_side(tmp_path, engine):
    class Both:
        ledger = engine.ledger

        @staticmethod
        def results():
            own = engine.results()
            named = {f"ggmi/ggmi{end}": own[f"ggmi/ggmi_mixture{end}"] for end in ("", "_low", "_high")}
            return {**own, **named, "ggmi/generalization_gap": 0.25}

    text = plain(written(Both, tmp_path))
    assert "GGMI from code lengths in total and per token" in text
    assert MEANINGS["generalization_gap"] in text


def test_a_file_of_scores_needs_no_more_than_gains_and_may_bring_texts(tmp_path):
    file = tmp_path / "scored.parquet"
    parquet.write_table(pa.table({"gain": [0.5, -1.0], "question": ["Why?", "How?"], "answer": ["So.", "Thus."]}), file)
    page = written(file, tmp_path)
    assert "Why?" in page
    assert "Thus." in page
    assert "Gain over steps" not in page
    assert row(page, "no source")[0] == "2"


def test_a_file_of_scores_says_which_scorer_and_so_which_unit(tmp_path):
    stamp = {"ggmi_scored": json.dumps({"scorer": "LikelihoodScorer(normalize='token')"})}
    parquet.write_table(pa.table({"gain": [0.5, -1.0]}).replace_schema_metadata(stamp), tmp_path / "scored.parquet")
    text = plain(written(tmp_path / "scored.parquet", tmp_path))
    assert "scorer LikelihoodScorer(normalize='token')" in text
    assert "nats per token" in text
    assert "the scorer's own unit" not in text


def test_a_page_of_a_hundred_thousand_rows_is_small_and_names_what_it_searches(tmp_path):
    file = tmp_path / "ledger.parquet"
    parquet.write_table(large(100_000), file)
    texts = [f"sample {i} " + "word " * 40 for i in range(100_000)]
    page = written(file, tmp_path, texts=texts)
    assert len(page) < 1_500_000
    assert "Searches 2,000 of 100,000 samples" in plain(page)
    assert len(index(page)) == 2000


@pytest.mark.parametrize("rows", [0, 1])
def test_an_empty_ledger_and_one_sample_have_a_page(rows, tmp_path):
    ledger = Ledger()
    if rows:
        zero = torch.zeros(1, dtype=torch.long)
        ledger.write(0, zero, zero, torch.ones(1), torch.ones(1))
    text = plain(written(ledger, tmp_path))
    assert ("No sample was scored" in text) == (rows == 0)
    assert "∞" not in text


def test_infinite_gains_enter_no_mean(tmp_path):
    file = tmp_path / "scored.parquet"
    parquet.write_table(pa.table({"gain": [1.0, 2.0, 3.0, math.inf]}), file)
    assert row(written(file, tmp_path), "no source")[1].startswith("+2.0 [")


def test_what_cannot_be_reported_is_refused_by_name(tmp_path):
    with pytest.raises(TypeError, match="`source` must be a callback"):
        report(3, tmp_path / "x.html")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none.parquet"):
        report(tmp_path / "none.parquet", tmp_path / "x.html")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        report(tmp_path / "text.parquet", tmp_path / "x.html")
    parquet.write_table(pa.table({"reward": [1.0]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"has no column 'gain' but \['reward'\]"):
        report(tmp_path / "other.parquet", tmp_path / "x.html")
    with pytest.raises(ValueError, match="`texts` has no row for sample 3"):
        report(known(), tmp_path / "x.html", texts=["a", "b"])
    with pytest.raises(ValueError, match=r"holds no text of sample \d: its row has the columns \['label'\]"):
        report(known(), tmp_path / "x.html", texts=[{"label": 1}] * 8)
    assert not (tmp_path / "x.html").exists()
