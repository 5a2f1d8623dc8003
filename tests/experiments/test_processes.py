"""Several processes under PyTorch's own launcher share the samples of an outer step and follow one
trajectory."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ddcore.distilled import DistilledData

PARAMETERS = ["-p", "steps=2", "-p", "epochs=2", "-p", "samples=3"]
RUN = ["-m", "ddcore", "run", "fig3a", "--scale", "smoke", *PARAMETERS]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A cache folder that all runs share, so that the kernel is built once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def start(cache):
    """start(folder, launcher, iterations): a run whose record goes below the folder."""

    def begin(folder: Path, launcher: list[str], iterations: int) -> subprocess.Popen:
        places = {"DDCORE_RESULTS": str(folder), "XDG_CACHE_HOME": str(cache)}
        command = [sys.executable, *launcher, *RUN, "-p", f"iterations={iterations}"]
        return subprocess.Popen(
            command,
            env={**os.environ, **places, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


def finish(process: subprocess.Popen) -> tuple[dict, DistilledData, str]:
    """Its record, its distilled data and what it said."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    folder = Path(out.strip().splitlines()[-1])
    content = json.loads((folder / "record.json").read_text())
    return content, DistilledData.load(folder / "distilled.safetensors"), err


def assert_close(one: DistilledData, two: DistilledData) -> None:
    torch.testing.assert_close(one.images, two.images, rtol=0, atol=1e-4)
    torch.testing.assert_close(one.lrs, two.lrs, rtol=1e-4, atol=0)


def test_two_processes_follow_the_trajectory_of_one(start, tmp_path):
    one, alone, _ = finish(start(tmp_path / "one", [], 5))
    two, both, _ = finish(start(tmp_path / "two", TORCHRUN, 5))
    assert_close(alone, both)
    assert [record["environment"]["world_size"] for record in (one, two)] == [1, 2]
    assert len(list((tmp_path / "two").glob("fig3a/*"))) == 1


def test_a_process_that_dies_ends_the_run_leaves_no_orphan_and_the_run_resumes(
    start, cache, tmp_path
):
    launcher = start(tmp_path, TORCHRUN, 40)
    checkpoints = cache / "ddcore/checkpoints"
    until = time.monotonic() + 120
    while not list(checkpoints.glob("*.safetensors")) and time.monotonic() < until:
        time.sleep(0.05)
    workers = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    _, err = launcher.communicate(timeout=120)
    assert launcher.returncode != 0 and "Signal 9" in err
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert not list(tmp_path.glob("fig3a/*"))

    _, resumed, err = finish(start(tmp_path, TORCHRUN, 40))
    assert "resuming at outer step" in err
    _, whole, _ = finish(start(tmp_path / "whole", TORCHRUN, 40))
    assert_close(resumed, whole)


def test_two_runs_of_one_configuration_compute_it_once(start, tmp_path):
    runs = [start(tmp_path, [], 40) for _ in range(2)]
    ends = [finish(one) for one in runs]
    assert sum("waiting for its record" in err for _, _, err in ends) == 1
    assert ends[0][0] == ends[1][0] and len(list(tmp_path.glob("fig3a/*"))) == 1
