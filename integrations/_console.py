"""What of the numbers a console and a progress bar show: two, not all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ggmi_callbacks.integrations._install import Installation

_FIRST = ("ggmi/gain", "ggmi/kept", "ggmi/coverage")
_MOST = 2
_ON_BAR = {"ggmi/gain": ("gain", "{:.3g}"), "ggmi/kept": ("kept", "{:.0%}")}


def short(logs: Mapping[str, Any]) -> dict[str, Any]:
    """``logs`` with two of GGMI's numbers: gain and the share kept, or else those that come first.

    Example:
        >>> short({"loss": 2.0, "ggmi/nll/exam": 1.5, "ggmi/gain": 0.1, "ggmi/gain_low": 0.0, "ggmi/kept": 0.5})
        {'loss': 2.0, 'ggmi/gain': 0.1, 'ggmi/kept': 0.5}

    """
    ours = [key for key in logs if key.startswith("ggmi/") or "_ggmi/" in key]
    order = dict.fromkeys([*(key for key in _FIRST if key in logs), *ours])
    left_out = list(order)[_MOST:]
    return {key: value for key, value in logs.items() if key not in left_out}


def shorten(installation: Installation, callbacks: Iterable[Any], consoles: tuple[type, ...]) -> None:
    """Until ``installation`` is undone, have those of ``callbacks`` that are ``consoles`` print the short log."""
    for callback in callbacks:
        if isinstance(callback, consoles):
            installation.replace(callback, "on_log", _Short(callback))


class _Short:
    """Stands in for a console's ``on_log``; its progress bar, if it has one, shows gain and the share kept."""

    def __init__(self, console: Any) -> None:
        self._console, self._original = console, console.on_log

    def __call__(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> Any:
        shown = None if logs is None else short(logs)
        result = self._original(args, state, control, logs=shown, **kwargs)
        set_postfix = getattr(getattr(self._console, "training_bar", None), "set_postfix", None)
        found = {name: form.format(logs[key]) for key, (name, form) in _ON_BAR.items() if logs and key in logs}
        if found and set_postfix is not None:
            set_postfix(found)
        return result
