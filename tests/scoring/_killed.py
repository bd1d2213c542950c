"""A job that takes its time and is killed: ``python -m tests.scoring._killed MODEL DATA ANCHORS OUTPUT``."""

from __future__ import annotations

import sys
import time

from ggmi_callbacks import score
from ggmi_callbacks.scoring import job

values = job.values


def slowly(*arguments):
    time.sleep(0.1)
    return values(*arguments)


if __name__ == "__main__":
    job.SECONDS, job.values = 0.0, slowly
    score(*sys.argv[1:4], output=sys.argv[4], batch_tokens=64, learning_rate=1e-2)
