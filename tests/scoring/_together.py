"""One of several processes: ``torchrun --nproc-per-node 2 -m tests.scoring._together MODEL DATA ANCHORS OUTPUT``."""

from __future__ import annotations

import sys

from ggmi_callbacks import score
from ggmi_callbacks.scoring import job

batches = job.Job._batches


def counted(self, engine, todo, parts, bar):
    print(f"rank {self.rank} of {self.size} scores {sum(map(len, todo)):02d}", flush=True)
    batches(self, engine, todo, parts, bar)


if __name__ == "__main__":
    job.Job._batches = counted
    table = score(*sys.argv[1:4], output=sys.argv[4], batch_tokens=64, learning_rate=1e-2, progress=False)
    print(f"{len(table)} rows", flush=True)
