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
from conftest import new_cache

from ddcore.distilled import DistilledData

PARAMETERS = ["-p", "steps=2", "-p", "epochs=2", "-p", "samples=3"]
RUN = ["-m", "ddcore", "run", "fig3a", "--scale", "smoke", *PARAMETERS]
ITERATIONS = 12  # after some more, rounding has grown beyond 1e-4
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A cache folder that all runs share."""
    return new_cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory):
    """What two runs of one configuration, started together, came to: [(record, distilled data,
    what it said)] and the folder of their results."""
    folder = tmp_path_factory.mktemp("alone")
    runs = [start(folder, [], ITERATIONS) for _ in range(2)]
    return [finish(one) for one in runs], folder


def test_two_runs_of_one_configuration_compute_it_once(alone):
    ends, folder = alone
    assert sum("waiting for its record" in said for _, _, said in ends) == 1
    assert ends[0][0] == ends[1][0] and len(list(folder.glob("fig3a/*"))) == 1


def test_two_processes_follow_the_trajectory_of_one_even_if_one_of_them_dies(
    start, cache, alone, tmp_path
):
    """Its death ends the run and leaves no orphan and no record; the same command resumes it."""
    launcher = start(tmp_path, TORCHRUN, ITERATIONS)
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

    record, both, err = finish(start(tmp_path, TORCHRUN, ITERATIONS))
    assert "resuming at outer step" in err
    assert len(list(tmp_path.glob("fig3a/*"))) == 1
    one, distilled, _ = alone[0][0]
    assert [made["environment"]["world_size"] for made in (one, record)] == [1, 2]
    torch.testing.assert_close(both.images, distilled.images, rtol=0, atol=1e-4)
    torch.testing.assert_close(both.lrs, distilled.lrs, rtol=1e-4, atol=0)
