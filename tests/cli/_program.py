"""The program as a person runs it, in a process of its own."""

from __future__ import annotations

import subprocess
import sys


def ggmi(*arguments, folder, **settings) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ggmi_callbacks", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, **settings)
