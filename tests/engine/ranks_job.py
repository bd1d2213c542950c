"""The best of each prompt, found by one process or by several; writes what was kept and how much each scored."""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from transformers import LlamaForCausalLM

from ggmi_callbacks import Filter
from ggmi_callbacks.distributed import rank_and_size
from tests._loop import builder
from tests.engine._answers import ROWS, Rewards, refill

if __name__ == "__main__":
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    make = builder(lambda **_: LlamaForCausalLM.from_pretrained(sys.argv[1]))
    scorer = Rewards(static=True)
    loop = make(Filter(keep=0.25, within="prompt", per_group=1), scorer=scorer, sources=None, data=ROWS, capacity=16)
    for batch in refill(loop):
        loop.step(batch)
    loop.engine.log()
    trained = {row["id"] for row in loop.engine.ledger.table.to_pylist() if row["nll"] is not None}
    rank, size = rank_and_size()
    torch.save({"trained": trained, "scored": scorer.scored}, f"{sys.argv[1]}/{size}-{rank}.pt")
    if dist.is_initialized():  # a rank that leaves while gloo's threads still run may be aborted
        dist.barrier()
        dist.destroy_process_group()
