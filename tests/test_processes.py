"""Several processes under PyTorch's own launcher share the samples of an outer step and follow one trajectory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ddcore.distilled import DistilledData

RUN = ["run", "fig3a", "--scale", "smoke", "-p", "iterations=5", "-p", "steps=2", "-p", "epochs=2", "-p", "samples=3"]


def launch(folder: Path, *launcher: str, timeout: float = 300) -> subprocess.CompletedProcess:
    env = {**os.environ, "DDCORE_RESULTS": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = (
        [sys.executable, "-m", *launcher, "-m", "ddcore", *RUN] if launcher else [sys.executable, "-m", "ddcore", *RUN]
    )
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)


@pytest.mark.slow
def test_two_processes_follow_the_trajectory_of_one(tmp_path):
    alone = launch(tmp_path / "one")
    both = launch(tmp_path / "two", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert alone.returncode == both.returncode == 0, both.stderr
    found = [Path(done.stdout.strip().splitlines()[-1]) for done in (alone, both)]
    one, two = (DistilledData.load(folder / "distilled.safetensors") for folder in found)
    torch.testing.assert_close(one.images, two.images, rtol=0, atol=1e-4)
    torch.testing.assert_close(one.lrs, two.lrs, rtol=1e-4, atol=0)
    worlds = [json.loads((folder / "record.json").read_text())["environment"]["world_size"] for folder in found]
    assert worlds == [1, 2] and len(list((tmp_path / "two").glob("fig3a/*"))) == 1
