"""What a file of scores was made of, so that a stale one is known: a line of JSON in the metadata of its schema."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from ggmi_callbacks.tasks import Inputs, Task

FORMAT = 2
_KEY = b"ggmi_scored"
_SAMPLED = 4096  # values of a tensor that its digest looks at
_WRAPPED = (".base_layer", ".original_module")  # where an adapter keeps the weights that it stands around
_INSIDE = "base_model.model."


@dataclass(frozen=True)
class Stamp:
    """What scores depend on.

    Args:
        package: version of this package.
        scorer: the scorer, as one would write it.
        shadow: settings of the shadow run; empty if there was none.
        anchors: digest of the anchors, see :func:`digest_of_anchors`; empty if there was none.
        weights: digest of each tensor of the model, see :func:`digests_of_weights`; empty if none was run.
        tokens: digest of the tokens and targets of all samples.
        content: digest of the rows as they were read.
        sums: whether a gain is a sum over a sample's targets, so that gains compare per token.
        format: of the file.

    """

    package: str
    scorer: str
    shadow: str
    anchors: str
    weights: dict[str, str]
    tokens: str
    content: str
    sums: bool = False
    format: int = FORMAT

    def metadata(self) -> dict[bytes, bytes]:
        """For the schema of a table."""
        return {_KEY: json.dumps(asdict(self)).encode()}

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> tuple[Stamp, list[str]]:
        """The stamp in the file of scores ``path``, and the names of its columns.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it has no stamp, or one of another format.

        """
        try:
            schema = pq.read_schema(path)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{str(path)!r} is no file of scores: {error}") from error
        found = json.loads((schema.metadata or {}).get(_KEY, b"null"))
        if found is None:
            raise ValueError(f"{str(path)!r} holds no scores of `ggmi score`: its columns are {schema.names}.")
        if found.get("format") != FORMAT:
            raise ValueError(
                f"{str(path)!r} has format {found.get('format')} (ggmi-callbacks {found.get('package')}), and this "
                f"version reads format {FORMAT}: score again."
            )
        return cls(**found), schema.names

    @staticmethod
    def sums_in(table: pa.Table) -> bool:
        """Whether the gains of ``table`` are sums over targets, by its stamp; not, if it has none."""
        return bool(json.loads((table.schema.metadata or {}).get(_KEY, b"{}")).get("sums"))

    def differences(self, other: Stamp) -> list[str]:
        """What is not the same in ``other``, in words."""
        words = {"tokens": "the tokens of the data", "content": "the rows of the data", "anchors": "the anchors"}
        out = []
        for name in (field.name for field in fields(self) if field.name not in ("format", "package")):
            mine, theirs = getattr(self, name), getattr(other, name)
            if name == "weights":
                out += describe_weights(different_weights(mine, theirs), len(mine))
            elif mine != theirs:
                out.append(words.get(name, f"the {name} ({mine or 'none'} there, {theirs or 'none'} here)"))
        return out


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal digits, its first 64 bits."""
    return hashlib.sha256(data).hexdigest()[:16]


def digest_of_anchors(anchors: Sequence[Inputs], task: Task) -> str:
    """Digest of what ``anchors`` are, whatever their order and batches."""
    found = torch.cat([task.fingerprint(batch, task.layout(batch)) for batch in anchors])
    return digest_of_tensor(found.sort().values)


def digest_of_tensor(values: Tensor) -> str:
    """Digest of shape and values."""
    content = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return digest(str(tuple(values.shape)).encode() + content)


def digests_of_weights(model: nn.Module) -> dict[str, str]:
    """Digest of each parameter by name: of its shape and of at most 8,191 of its values, evenly spaced, in bfloat16.

    So the same checkpoint loaded in float32 and in bfloat16 has the same digests, and adapters around it only add
    names. All values of a tensor of up to 4,096 are looked at.
    """
    out = {}
    for name, p in model.named_parameters():
        for wrapped in _WRAPPED:
            name = name.replace(wrapped, "")
        values = p.detach().flatten()[:: max(1, p.numel() // _SAMPLED)].to(torch.bfloat16)
        out[name.removeprefix(_INSIDE)] = digest(str(tuple(p.shape)).encode() + digest_of_tensor(values).encode())
    return out


def different_weights(scored: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    """Names of tensors under which was scored that are not, or not so, among those that are present."""
    return [name for name, value in scored.items() if present.get(name) != value]


def describe_weights(different: Sequence[str], of: int) -> list[str]:
    """That tensors differ, in words; none if none do."""
    return [f"the model's weights ({len(different)} of {of} tensors, {different[0]} first)"] if different else []
