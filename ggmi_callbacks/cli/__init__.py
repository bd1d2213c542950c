"""The command line, ``ggmi``: one command for each thing that a person would run by hand, one file a command.

Each command imports what it needs when it runs, so that ``ggmi --help`` answers at once. What cannot work is refused in
one line that names the argument, its value and the way out, and exit code 2.
"""

from ggmi_callbacks.cli._app import app
from ggmi_callbacks.cli.demo import demo
from ggmi_callbacks.cli.report import report
from ggmi_callbacks.cli.score import score
from ggmi_callbacks.cli.select import select
from ggmi_callbacks.cli.verify import verify, verify_language

__all__ = ["app"]

app.command()(score)
app.command()(select)
app.command()(report)
app.command()(demo)
app.command()(verify)
app.command()(verify_language)
