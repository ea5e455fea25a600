"""Two processes of one search hold the same architecture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from factory.search.distributed import World


def test_shares_of_a_batch_are_all_of_it():
    batch = (torch.arange(24.0).view(6, 1, 2, 2), torch.arange(6))
    parts = [World(rank, 2).share(batch)[1] for rank in range(2)]
    assert sorted(torch.cat(parts).tolist()) == list(range(6))
    assert World().share(batch)[0] is batch[0]


@pytest.mark.heavy
def test_two_ranks_end_with_one_architecture(tmp_path):
    program = Path(__file__).with_name("search_ranks.py")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port",
        "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(program),
        str(tmp_path),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"rank-{r}.json").read_text()) for r in range(2))
    assert first == second
    assert (tmp_path / "a/search.json").exists()
