"""What a callback is given as text: through the real parsers, into a run, and beside its checkpoint."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from ggmi_callbacks import AgreementScorer, ColumnScorer, Filter, GGMIConfig, Monitor, Reweight

from ._jobs import callback_class, tokenised


def test_yaml_and_the_command_line_together_say_what_the_callback_is_given(tmp_path):
    trl = pytest.importorskip("trl")
    path = tmp_path / "run.yaml"
    path.write_text(
        f"output_dir: {tmp_path}\nuse_cpu: true\nbf16: false\nanchors: human.jsonl\n"
        "policy: Filter(keep=0.5, within='source')\nsource: source\n"
        "scorer: ColumnScorer('reward')\nheldout: 0.02\n"
    )
    parser = trl.TrlParser((trl.ScriptArguments, trl.SFTConfig, trl.ModelConfig, GGMIConfig))
    given = ["--config", str(path), "--dataset_name", "x", "--overhead", "0.2", "--heldout", "unseen.jsonl"]
    *_, config = parser.parse_args_and_config(given)
    found = config.arguments()
    assert isinstance(found.pop("scorer"), ColumnScorer)
    assert repr(found.pop("policy")) == "Filter(keep=0.5, within='source')"
    assert found == {
        "anchors": "human.jsonl",
        "source": "source",
        "overhead": 0.2,
        "shadow_epochs": 3,
        "heldout": "unseen.jsonl",
    }
    *_, config = parser.parse_args_and_config(["--config", str(path), "--dataset_name", "x"])
    assert config.arguments()["heldout"] == 0.02


def test_a_config_that_cannot_be_read_is_refused_when_it_is_made():
    with pytest.raises(ValueError, match=r"`policy` 'Filter\(keep=2\)' cannot be read: `keep` must be a share"):
        GGMIConfig(policy="Filter(keep=2)")
    with pytest.raises(ValueError, match=r"cannot be read: Filter .*'kep'; it takes threshold, keep, window, margin"):
        GGMIConfig(policy="Filter(kep=0.5)")
    with pytest.raises(ValueError, match=r"cannot be read: `keep` must be a number, got 'x'\.$"):
        GGMIConfig(policy="Filter(keep='x')")
    with pytest.raises(ValueError, match=r"`scorer` 'Filter\(\)' is no scorer"):
        GGMIConfig(scorer="Filter()")


def test_what_text_cannot_hold_is_remarked_upon():
    config, remarks = GGMIConfig.of(
        anchors=[{"text": "a"}] * 3, policy=Reweight(), scorer=None, heldout=0.1, ledger="run/ledger"
    )
    assert asdict(config) == {**asdict(GGMIConfig()), "policy": "Reweight()", "heldout": "0.1"}
    assert remarks == [
        "anchors: 3 rows, given as a list; name a file to run this again",
        "ledger: 'run/ledger' holds the rows of this run; name another folder to run this again",
    ]
    text = config.to_yaml(remarks)
    assert text.startswith("# anchors: 3 rows")
    assert "# versions: python 3" in text
    assert "ggmi-callbacks 0.1" in text


@pytest.mark.parametrize("kind", ["sft", "trainer"])
def test_the_record_beside_a_checkpoint_repeats_the_run(kind, make_trainer, anchors, tmp_path, tokenizer):
    yaml = pytest.importorskip("yaml")
    human = tmp_path / "human.jsonl"
    (anchors if kind == "sft" else tokenised(anchors, tokenizer)).to_json(human)
    settings = {"anchors": str(human), "source": "source", "shadow_epochs": 2}
    run = {"save_strategy": "steps", "save_steps": 4, "output": tmp_path / "run"}
    trainer, first = make_trainer(kind, Filter(keep=0.75), callback=settings, **run)
    trainer.train()
    record = tmp_path / "run" / "checkpoint-4" / "ggmi.yaml"
    config = GGMIConfig(**yaml.safe_load(record.read_text()))
    again, none = make_trainer(kind, None)
    assert none is None
    second = callback_class(kind)(again, **config.arguments())
    again.add_callback(second)
    again.train()
    assert second.ledger.table.equals(first.ledger.table)


class Own(Monitor):
    """A policy of the user's own."""


def test_a_policy_of_ones_own_is_remarked_upon_and_stops_nothing():
    config, remarks = GGMIConfig.of(policy=Own(), scorer=AgreementScorer(answer=lambda text: text))
    assert config == GGMIConfig()
    assert [remark.partition(",")[0] for remark in remarks] == ["policy: Own()", remarks[1].partition(",")[0]]
    assert all(remark.endswith("which text cannot name; give it in Python to run this again") for remark in remarks)


def test_without_anything_it_monitors():
    assert isinstance(GGMIConfig().arguments()["policy"], Monitor)
