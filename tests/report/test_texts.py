"""Texts are found in rows of any usual form, and nothing in them acts on the page."""

from __future__ import annotations

import json
import re

import pytest
import torch

from ggmi_callbacks import Ledger
from ggmi_callbacks.report import report
from ggmi_callbacks.report.texts import Text, harmless, text_of

from ._ledgers import known, write

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ("plain", Text("", "plain")),
        ({"text": "plain"}, Text("", "plain")),
        ({"prompt": "2 + 2?", "completion": "4", "source": "x"}, Text("2 + 2?", "4")),
        ({"instruction": "add", "output": 4}, Text("add", "4")),
        ({"messages": CHAT}, Text("user: Hi", "Hello")),
        (CHAT, Text("user: Hi", "Hello")),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, Text("user: Hi", "assistant: Hello")),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]},
            Text("human: Hi", "Yo"),
        ),
        ({"label": 1}, None),
        (7, None),
    ],
)
def test_rows_of_any_usual_form_have_a_text(row, text):
    assert text_of(row) == text


def test_joiners_that_scripts_and_emoji_need_stay():
    family, persian = "👩\u200d👩\u200d👧", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    assert harmless(family + persian, 99) == family + persian


EVIL = [
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "'\"><svg onload=document.title='owned'>",
    "abc\u202edef\u2066\u200f\x00\x1b[31m\ufeff\U000e0041",
    "{{ 7 * 7 }} {% raw %} <!-- ]]>",
    "x" * 1_000_000,
    "\ud800 lone surrogate",
    "<!--<script>",
]


@pytest.fixture
def page(tmp_path):
    ledger = Ledger([EVIL[0], EVIL[3]])
    write(ledger, 0, torch.arange(8), torch.linspace(-1.0, 1.0, 8), parts=False)
    return report(ledger, tmp_path / "x.html", texts=EVIL, title=EVIL[1]).read_text(encoding="utf-8")


def test_texts_names_and_titles_are_escaped(page):
    assert page.count("<script") == 2  # the index and the page's own
    assert page.count("</script>") == 2
    assert "<img" not in page
    assert "<svg onload" not in page
    assert "<!--" not in page
    assert "{{ 7 * 7 }}" in page


def test_what_is_hidden_or_turns_the_direction_is_written_out(page):
    assert not re.search("[\u202e\u2066\u200f\x00\x1b\ufeff\U000e0041\ud800]", page)
    assert "abc⟨U+202E⟩def⟨U+2066⟩⟨U+200F⟩⟨U+0000⟩⟨U+001B⟩[31m⟨U+FEFF⟩⟨U+E0041⟩" in page


def test_a_text_of_a_megabyte_is_cut_with_a_mark(page):
    assert "[cut: 600 of 1,000,000 characters are shown]" in page
    assert len(page) < 60_000


def test_the_index_is_json_that_cannot_leave_its_element(page):
    index = re.search(r'id="index">(.*?)</script>', page, re.S)[1]
    assert not set("<>&") & set(index)
    assert {entry[0] for entry in json.loads(index)} == set(range(8))
    assert any("</script>" in entry[4] for entry in json.loads(index))


def test_the_page_asks_nothing_of_a_network(page, tmp_path):
    plain = report(known(), tmp_path / "plain.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href|action)="(?!#|data:)[^"]*"|url\((?!#)|@import|https?://', plain)
    assert "default-src 'none'" in page
