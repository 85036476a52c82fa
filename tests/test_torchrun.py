"""Ranks that torchrun starts: together every sample once, and all of them stop together."""

import json
import os
import subprocess
import sys
from pathlib import Path

import corpus
import pytest

SCRIPT = f"""
import faulthandler, json, sys
import torch.distributed as dist
from loader import make_pipeline

faulthandler.dump_traceback_later(60, exit=True)  # a hang tells where

dist.init_process_group("gloo")
with make_pipeline(
    sys.argv[1], sample_rate={corpus.SAMPLE_RATE}, clip_seconds=1.0, batch_size=4,
    drop_last=sys.argv[2] == "drop", cache_dir=sys.argv[3], num_workers=1, cache_mount=True,
) as pipe:
    epochs = []
    for _ in range(2):
        keys = []
        for batch in pipe:
            dist.barrier()  # a rank with more batches than another would wait for ever
            keys += [key for key in batch["__key__"] if key]
        epochs.append(keys)
    everything = [None] * dist.get_world_size()
    dist.all_gather_object(everything, [epochs, len(pipe), pipe.state_dict()])
if dist.get_rank() == 0:
    print("RESULT" + json.dumps(everything))
dist.destroy_process_group()
"""


def run(dataset: Path, tmp_path: Path, *, processes: int, mode: str) -> list:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *launch, str(script), str(dataset), mode, str(tmp_path / "cache")]
    loopback = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=loopback
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    return json.loads(line.removeprefix("RESULT"))


@pytest.mark.parametrize(("processes", "mode"), [(2, "drop"), (3, "pad")])
def test_ranks_share_an_epoch_and_end_together(dataset, tmp_path, processes, mode):
    """50 samples divide neither by 2 * 4 nor by 3 * 4."""
    ranks = run(dataset, tmp_path, processes=processes, mode=mode)
    for epoch in range(2):
        keys = [key for epochs, _, _ in ranks for key in epochs[epoch]]
        assert len(keys) == len(set(keys)) == (48 if mode == "drop" else 50)
    assert {length for _, length, _ in ranks} == {6 if mode == "drop" else 5}
    states = [state for _, _, state in ranks]
    assert all(state == states[0] for state in states)
    assert (states[0]["streams"], states[0]["epoch"]) == (1, 2)
