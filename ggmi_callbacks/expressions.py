"""Policies and scorers as text, written as one writes them in Python, and read back.

Text is what a YAML file, a command line and the record beside a checkpoint can hold.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from typing import Any

from ggmi_callbacks import policies, scorers
from ggmi_callbacks.policies import Policy
from ggmi_callbacks.scorers import Scorer

_KINDS: dict[str, type[Policy] | type[Scorer]] = {
    name: found
    for room in (policies, scorers)
    for name, found in vars(room).items()
    if inspect.isclass(found) and issubclass(found, Policy | Scorer) and not inspect.isabstract(found)
}


def written(value: Any) -> str:
    """``value`` as one would write it, without arguments that have their defaults; the same in each process.

    Functions and other things that have a home are written with it, ``module.name``.

    Example:
        >>> from ggmi_callbacks import DistinctScorer, Filter, JointScorer
        >>> written(JointScorer([DistinctScorer(n=3)], zero="anchors"))
        'JointScorer(scorers=[DistinctScorer(n=3)])'
        >>> written(Filter(keep=0.5))
        'Filter(keep=0.5)'

    """
    if isinstance(value, Policy | Scorer):
        defaults = _defaults(type(value))
        changed = {k: v for k, v in vars(value).items() if k in defaults and v != defaults[k]}
        return f"{type(value).__name__}({', '.join(f'{k}={written(v)}' for k, v in changed.items())})"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(written, value))}]"
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else repr(value)


def _defaults(kind: type) -> dict[str, Any]:
    """Arguments of ``kind``, those that it passes on to its bases too, with their defaults."""
    makers = [vars(c)["__init__"] for c in reversed(kind.__mro__[:-1]) if "__init__" in vars(c)]
    signatures = [inspect.signature(make).parameters for make in makers]
    named = [p for parameters in signatures for p in parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD]
    return {p.name: p.default for p in named if p.name != "self"}


def evaluated(text: str, kind: type, argument: str) -> Any:
    """The policy or scorer that ``text`` says; nothing else in it is run.

    What may stand in it: our policies and scorers, called; numbers, strings, True, False, None, lists and tuples of
    them; and the full name of something in a module, ``torch.bfloat16`` or ``rules.final_answer``, which is imported.

    Args:
        text: an expression.
        kind: class that it must be of, :class:`~ggmi_callbacks.Policy` or :class:`~ggmi_callbacks.Scorer`.
        argument: whose value it is, for errors.

    Raises:
        ValueError: naming ``argument`` and ``text``, if it cannot be read or makes something else.

    Example:
        >>> evaluated("Filter(keep=0.5, within='source')", Policy, "policy")
        Filter(keep=0.5, within='source')

    """
    names = ", ".join(sorted(name for name, found in _KINDS.items() if issubclass(found, kind)))
    try:
        found = _value(ast.parse(text.strip(), mode="eval").body)
    except TypeError as error:
        raise ValueError(f"`{argument}` {text!r} cannot be read: {str(error).rstrip('.')}.") from error
    except (SyntaxError, ValueError, ImportError, AttributeError) as error:
        why = str(error).rstrip(".")
        raise ValueError(f"`{argument}` {text!r} cannot be read: {why}. There are {names}.") from error
    if not isinstance(found, kind):
        hint = f": write {text.strip()}()" if inspect.isclass(found) and issubclass(found, kind) else ""
        raise ValueError(f"`{argument}` {text!r} is no {kind.__name__.lower()}{hint}. There are {names}.")
    return found


def _value(node: ast.expr) -> Any:
    """What a part of an expression means."""
    match node:
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in _KINDS:
            given, named = [*map(_value, args)], {str(k.arg): _value(k.value) for k in keywords}
            signature = inspect.signature(_KINDS[name])
            try:
                signature.bind(*given, **named)
            except TypeError as error:
                takes = ", ".join(signature.parameters) or "no arguments"
                raise TypeError(f"{name} {error}; it takes {takes}") from error
            return _KINDS[name](*given, **named)
        case ast.Name(id=name) if name in _KINDS:
            return _KINDS[name]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item) for item in items]
        case ast.Attribute():
            module, _, name = ast.unparse(node).rpartition(".")
            return getattr(importlib.import_module(module), name)
        case ast.Call(func=func):
            raise ValueError(f"there is no policy or scorer {ast.unparse(func)!r}")
        case ast.Name(id=name):
            raise ValueError(f"{name!r} is not known; a string is written in quotes")
    return ast.literal_eval(node)
