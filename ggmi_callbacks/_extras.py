"""What to install where a package of an extra is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str, user: str) -> Iterator[None]:
    """Import inside this block what extra ``name`` brings along and ``user`` needs.

    Raises:
        ImportError: If it is missing, with the command that installs it.

    Example:
        >>> with extra("verify", "This example"):
        ...     import no_such_package
        Traceback (most recent call last):
        ...
        ImportError: This example needs no_such_package: pip install 'ggmi-callbacks[verify]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "a package").split(".")[0]
        raise ImportError(f"{user} needs {package}: pip install 'ggmi-callbacks[{name}]'") from error
