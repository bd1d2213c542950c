"""The way in to the command line, as ``ggmi`` and as ``python -m ggmi_callbacks``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or say in one line which extra it needs and exit with code 1."""
    try:
        from ggmi_callbacks.cli import app
    except ImportError as error:
        sys.exit(f"Error: {error}")
    app(prog_name="ggmi")


if __name__ == "__main__":
    main()
