"""The language model inside a module that somebody else wrote around it."""

from __future__ import annotations

from torch import nn

from ggmi_callbacks.weighting.loss import causal_lm


def find_language_model(module: nn.Module, name: str | None = None) -> nn.Module | None:
    """The outermost Hugging Face language model in ``module``, adapters and compile wrapper included.

    Args:
        module: what holds it, however deep.
        name: where it is, with dots (``"net.lm"``), if there are several.

    Returns:
        The module that is called; None if there is none and no ``name``.

    Raises:
        ValueError: if ``name`` is no module, or there are several language models and no ``name``.

    """
    if name is not None:
        try:
            return module.get_submodule(name)
        except AttributeError:
            held = ", ".join(_language_models(module)) or "none"
            raise ValueError(
                f"`model_attribute` {name!r} is no module of {type(module).__name__}; language models in it: {held}."
            ) from None
    found = _language_models(module)
    if len(found) > 1:
        raise ValueError(
            f"{type(module).__name__} holds several language models ({', '.join(found)}): say which one is trained "
            f"with `model_attribute=`, as in `model_attribute={next(iter(found))!r}`."
        )
    return next(iter(found.values()), None)


def _language_models(module: nn.Module) -> dict[str, nn.Module]:
    """Language models in ``module`` by name, those inside others left out."""
    found: dict[str, nn.Module] = {}
    for name, child in module.named_modules():
        if name and not any(name.startswith(f"{outer}.") for outer in found) and _has_head(child):
            found[name] = child
    return found


def _has_head(module: nn.Module) -> bool:
    """Whether ``module`` is a model of Hugging Face that predicts tokens; its encoders and trunks have no head."""
    head = getattr(module, "get_output_embeddings", None)
    return callable(head) and head() is not None and hasattr(causal_lm(module), "loss_function")
