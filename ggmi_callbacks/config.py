"""What a callback is given, in a form that a YAML file, a command line and a record beside a checkpoint can hold.

parser = TrlParser((ScriptArguments, SFTConfig, GGMIConfig))        # or transformers.HfArgumentParser
script, args, ggmi = parser.parse_args_and_config()
trainer.add_callback(GGMICallback(trainer, **ggmi.arguments()))
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from dataclasses import asdict, dataclass, field
from typing import Any

from ggmi_callbacks.expressions import evaluated, written
from ggmi_callbacks.policies import Policy
from ggmi_callbacks.scorers import Scorer

_PACKAGES = ("ggmi-callbacks", "torch", "transformers", "trl", "accelerate", "datasets", "peft")


def _told(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class GGMIConfig:
    """Arguments of the ``GGMICallback`` of ``SFTTrainer`` and ``Trainer``, as text.

    Policies and scorers are written as in Python, ``Filter(keep=0.5, within="source")``; nothing else in the text is
    run, see :func:`ggmi_callbacks.expressions.evaluated`.

    Args:
        anchors: a ``.jsonl``, ``.json`` or ``.parquet`` file, or a name on the hub.
        policy: an expression, ``Monitor()`` by default.
        scorer: an expression; None for the callback's default.
        source: column of the training set that says where a sample came from.
        overhead: share of step time that scoring may take.
        shadow_learning_rate: of the shadow run on the anchors; the trainer's own by default.
        shadow_epochs: at most so many passes of the shadow over the anchors.
        heldout: samples that are never trained on: a file or a name, or the share of the training set to hold out.
        ledger: folder into which the ledger is written as the run goes.

    Raises:
        ValueError: naming the field, if ``policy`` or ``scorer`` cannot be read.

    Example:
        >>> config = GGMIConfig(anchors="human.jsonl", policy="Filter(keep=0.5)", source="model")
        >>> config.arguments()["policy"]
        Filter(keep=0.5)
        >>> sorted(config.arguments())
        ['anchors', 'policy', 'shadow_epochs', 'source']

    """

    anchors: str | None = _told(None, "Real examples of the task: a .jsonl, .json or .parquet file, or a hub name.")
    policy: str = _told(
        "Monitor()", 'What to do with gain: Monitor(), Filter(), Filter(keep=0.5, within="source"), ...'
    )
    scorer: str | None = _told(None, "How gain is estimated: AgreementScorer(), ColumnScorer('reward'), ...")
    source: str | None = _told(None, "Column of the training set that says where a sample came from.")
    overhead: float | None = _told(None, "Share of step time that scoring may take.")
    shadow_learning_rate: float | None = _told(None, "Of the shadow run on the anchors; the trainer's own by default.")
    shadow_epochs: int = _told(3, "At most so many passes of the shadow over the anchors.")
    heldout: str | None = _told(None, "Samples never trained on: a file, a hub name, or a share of the training set.")
    ledger: str | None = _told(None, "Folder into which the ledger is written as the run goes.")

    def __post_init__(self) -> None:
        self.arguments()

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for ``GGMICallback(trainer, ...)``; what is None is left to the callback."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        given["policy"] = evaluated(self.policy, Policy, "policy")
        if self.scorer is not None:
            given["scorer"] = evaluated(self.scorer, Scorer, "scorer")
        if self.heldout is not None:
            given["heldout"] = _share(self.heldout)
        return given

    @classmethod
    def of(cls, **arguments: Any) -> tuple[GGMIConfig, list[str]]:
        """The config that says what ``arguments`` of a callback say, and remarks on what text cannot hold."""
        remarks = []
        for name in ("anchors", "heldout"):
            value = arguments.get(name)
            if value is None or isinstance(value, str | int | float):
                continue
            size = f"{len(value)} rows" if hasattr(value, "__len__") else "a stream"
            remarks.append(f"{name}: {size}, given as a {type(value).__name__}; name a file to run this again")
            arguments[name] = None
        texts: dict[str, str | None] = {}
        for name, kind in (("policy", Policy), ("scorer", Scorer)):
            if (value := arguments.get(name)) is None:
                continue
            try:
                texts[name] = text = written(value)
                evaluated(text, kind, name)
            except ValueError:  # it is, or holds, something of the user's own that has no name
                texts[name] = None
                remarks.append(f"{name}: {value!r}, which text cannot name; give it in Python to run this again")
        if (folder := arguments.get("ledger")) is not None:
            remarks.append(f"ledger: {str(folder)!r} holds the rows of this run; name another folder to run this again")
            texts["ledger"] = None
        if isinstance(share := arguments.get("heldout"), int | float):
            texts["heldout"] = repr(share)
        return cls(**{k: v for k, v in {**arguments, **texts}.items() if v is not None}), remarks

    def to_yaml(self, remarks: list[str] | None = None) -> str:
        """The config as YAML that :class:`trl.TrlParser` takes, with ``remarks`` and versions as comments.

        Example:
            >>> print(GGMIConfig(policy="Filter()", overhead=0.1).to_yaml().split("versions")[1].partition(chr(10))[2])
            policy: "Filter()"
            overhead: 0.1
            shadow_epochs: 3
            <BLANKLINE>

        """
        told = [f"# {line}" for line in [*(remarks or []), f"versions: {versions()}"]]
        # A JSON value is a YAML value.
        values = [f"{k}: {json.dumps(v)}" for k, v in asdict(self).items() if v is not None]
        return "\n".join([*told, *values]) + "\n"


def versions() -> str:
    """Of Python and of the packages that a run depends on, those that are installed."""
    found = [f"python {platform.python_version()}"]
    for name in _PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _share(text: str | float) -> str | float:
    """A share, if ``text`` is a number; a file or a name otherwise."""
    try:
        return float(text)
    except ValueError:
        return text
