"""A callback's own report: its run, and what its samples say."""

from __future__ import annotations

import pytest

from ggmi_callbacks import Filter

from ._jobs import BOTH

pytestmark = pytest.mark.slow


@BOTH
def test_a_callback_writes_its_page_with_the_texts_that_the_model_read(kind, make_trainer, tokenizer, tmp_path):
    given = {"processing_class": tokenizer} if kind == "trainer" else {}
    policy = Filter(keep=0.5, refill=False)
    trainer, callback = make_trainer(kind, policy, callback={"source": "source"}, trainer_kwargs=given)
    assert "no results before training" in callback._repr_html_()
    assert callback.texts[1]["completion"] == "zebra qux zebra 7"
    assert callback.texts[1]["prompt"].startswith("Tom has")
    trainer.train()
    page = callback.report(tmp_path / "gain.html").read_text(encoding="utf-8")
    for words in ("zebra qux zebra 7", "balls now .", 'id="ggmi"', "Shadow run", ">right</th>", ">wrong</th>"):
        assert words in page
    glance = callback._repr_html_()
    assert "<code>ggmi/kept</code>" in glance
    assert "anchors could" in glance  # the verdict


@pytest.mark.parametrize("packed", [True, False])
def test_packed_rows_have_texts_if_the_data_set_before_packing_is_known(packed, make_trainer, synthetic):
    raw = {"callback": {"train_dataset": synthetic}} if packed else {}
    _, callback = make_trainer("sft", Filter(), packing=True, max_length=64, **raw)
    assert (callback.texts[1]["completion"] == "zebra qux zebra 7") if packed else (callback.texts is None)


def test_a_trainer_without_a_tokenizer_has_no_texts(make_trainer):
    _, callback = make_trainer("trainer", Filter())
    assert callback.texts is None


def test_a_lightning_callback_writes_its_page(tmp_path):
    pytest.importorskip("lightning")
    from torch.utils.data import DataLoader

    from ._lightning import Classifier, fit, point_callback, points

    callback = point_callback()
    assert "no results before training" in callback._repr_html_()
    fit(Classifier(), callback, DataLoader(points(32), 8), tmp_path)
    page = callback.report(tmp_path / "gain.html", texts=[f"point {i}" for i in range(32)], title="Points")
    assert "<h1>Points</h1>" in page.read_text(encoding="utf-8")
    assert "point 3" in page.read_text(encoding="utf-8")
    assert "<code>ggmi/coverage</code>" in callback._repr_html_()
