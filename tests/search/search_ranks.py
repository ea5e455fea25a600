"""A tiny search for torchrun: every rank writes the architecture that it holds in the end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import search_tiny as tiny
import torch
import torch.distributed as dist

from factory.search.architectures import TierBudget, search_architectures
from factory.spaces.cell_space import CellSpace

if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    cfg = tiny.tiny_config(epochs=2, steps_per_epoch=2, batch_size=8, checkpoint_steps=1)
    result = search_architectures(
        CellSpace(tiny.SPEC), tiny.tiny_data(), [TierBudget("a", [tiny.latency_term(0.9)])],
        cfg, out, seed=3,
    )["a"]  # fmt: skip
    found = {"genotype": result.genotype.to_dict(), "alphas": result.alphas}
    (out / f"rank-{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
