"""Extraction from the command line: several processes, launchers, sweeps."""

import contextlib
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from extraction_world import IMAGE, PHOTOS, plan, write_embedder_into, write_photos

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.partial_store import PartialStore
from landmark.data import Folder
from landmark.data.batches import grouped_batches
from landmark.disk.lock import staging_folder
from landmark.error import UserError
from landmark.extract.store import write_store
from landmark.image.format import ImageFormat

ROOT = Path(__file__).resolve().parents[1]
# After its second save, each process writes its id and stops.
STOPS_HALF_WAY = """
import os, pathlib, time
from landmark.artifact.partial_store import PartialStore
save, saved = PartialStore.save, []
def stopping(work):
    save(work)
    saved.append(None)
    if len(saved) == 2:
        pathlib.Path("reached", str(os.getpid())).touch()
        time.sleep(3600)
PartialStore.save = stopping
"""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Use a separate cache of photo sizes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANDMARK_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory, cache):
    """Write an embedder, photos, and `complete`, their store extracted by one process."""
    root = tmp_path_factory.mktemp("world")
    write_embedder_into(root / "embedder")
    write_photos(root / "photos")
    table = Folder(root / "photos").read().with_sizes()
    write_store(plan(root, root / "complete", table=table))
    return root


class Script:
    """Run extract.py in a fork of this process, in which all modules are already imported."""

    def __init__(self, world, *overrides, **environment):
        flags = [override for override in overrides if override.startswith("-")]
        settings = [override for override in overrides if not override.startswith("-")]
        self._arguments = [*flags, *COMMON, *settings]
        self._environment = {"PYTHONPATH": str(ROOT), **environment}
        self._world = world
        self._folder = Path(tempfile.mkdtemp())
        self.process = multiprocessing.get_context("fork").Process(target=self._run)
        self.process.start()

    def _run(self):
        os.chdir(self._world)
        os.environ.update(self._environment)
        torch.set_num_threads(1)
        for number, name in ((1, "printed"), (2, "errors")):
            os.dup2(os.open(self._folder / name, os.O_CREAT | os.O_WRONLY), number)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115
        sys.argv = [str(ROOT / "extract.py"), *self._arguments]
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        finally:
            sys.stdout.flush()

    def communicate(self, status=0):
        """Wait for the process and return its standard output and standard error."""
        self.process.join(300)
        errors = (self._folder / "errors").read_text()
        assert self.process.exitcode == status, errors
        return (self._folder / "printed").read_text(), errors


COMMON = [
    "embedder=embedder",
    "data=folder",
    "data.root=photos",
    "extract.scales=[1,1.5]",
    "batch_size=4",
    "workers=0",
    "device=cpu",
    "save_every=0",
]


def assert_same_as_one_process(world, output):
    one, other = DescriptorStore.open(world / "complete"), DescriptorStore.open(output)
    assert one.ids.tolist() == other.ids.tolist()
    assert (one.path / "vectors.npy").read_bytes() == (other.path / "vectors.npy").read_bytes()
    assert not staging_folder(output).exists()


def wait_until(condition):
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(number):
    state = Path(f"/proc/{number}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
def test_two_killed_ranks_resumed_by_one_write_the_same_bytes(world):
    (world / "hook").mkdir()
    (world / "hook" / "sitecustomize.py").write_text(STOPS_HALF_WAY)
    reached, output = world / "reached", world / "killed"
    reached.mkdir()
    hooked = f"{world / 'hook'}{os.pathsep}{ROOT}"
    script = Script(world, "output=killed", "devices=2", PYTHONPATH=hooked)
    wait_until(lambda: len(list(reached.iterdir())) == 2)
    script.process.kill()
    script.communicate(-signal.SIGKILL)
    children = [int(path.name) for path in reached.iterdir()]
    wait_until(lambda: not any(is_alive(child) for child in children))
    assert not output.exists()
    done = PartialStore(staging_folder(output)).done
    assert 0 < done < PHOTOS
    printed, _ = Script(world, "output=killed").communicate()
    assert f"Resuming: {done} of {PHOTOS} photos" in printed
    assert printed.splitlines()[-1] == "wrote killed"
    assert_same_as_one_process(world, output)


@pytest.mark.slow
def test_each_job_of_a_sweep_writes_a_separate_store(world):
    printed, _ = Script(world, "-m", "devices=2,1", "output=swept/${devices}").communicate()
    assert [line for line in printed.splitlines() if line.startswith("wrote")] == [
        "wrote swept/2",
        "wrote swept/1",
    ]
    for devices in ("1", "2"):
        assert_same_as_one_process(world, world / "swept" / devices)
    assert sorted(path.name for path in (world / "swept").iterdir()) == ["1", "2"]


def test_an_error_in_a_worker_stops_all_with_its_message(world, tmp_path):
    photos = write_photos(tmp_path / "photos")
    broken = photos / "4" / "011.jpg"
    Folder(photos).read().with_sizes()  # reads only the headers
    broken.write_bytes(broken.read_bytes()[:-300])
    # In a data loading process of a worker process.
    script = Script(
        world, f"data.root={photos}", f"output={tmp_path / 's'}", "devices=2", "workers=1"
    )
    _, errors = script.communicate(2)
    note, line = errors.splitlines()
    assert note.startswith("Minimum counts")
    assert line.startswith(f"error: {broken} cannot be decoded")
    assert not (tmp_path / "s").exists()


def free_port(ports=range(15000, 25000)):
    for port in np.random.default_rng().permutation(ports):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", int(port)))
            return port
    raise AssertionError("no free port")


@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_the_ranks_of_a_launcher_share_the_photos(world, launcher):
    port = free_port()
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    if launcher == "srun":
        common = {
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_STEP_NUM_NODES": "1",
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_JOB_ID": str(port - 15000),
        }
    names = ("RANK", "LOCAL_RANK") if launcher == "torchrun" else ("SLURM_PROCID", "SLURM_LOCALID")
    scripts = [
        Script(world, f"output={launcher}", **common, **dict.fromkeys(names, str(rank)))
        for rank in range(2)
    ]
    (first, _), (second, _) = (script.communicate() for script in scripts)
    assert first.splitlines()[-1] == f"wrote {launcher}"
    assert second == ""
    assert_same_as_one_process(world, world / launcher)


def test_no_rank_hangs_when_another_one_fails(world, tmp_path):
    photos = write_photos(tmp_path / "photos")
    table = Folder(photos).read().with_sizes()
    # The second batch belongs to rank 1.
    second = grouped_batches(table.groups(ImageFormat(**IMAGE)), 4)[1][0]
    broken = photos / table.rows["path"][second]
    broken.write_bytes(broken.read_bytes()[:-300])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    scripts = [
        Script(world, f"data.root={photos}", f"output={tmp_path / 's'}", RANK=str(rank), **common)
        for rank in range(2)
    ]
    _, errors = scripts[1].communicate(2)
    assert errors.startswith(f"error: {broken} cannot be decoded")
    _, errors = scripts[0].communicate(1)
    assert "another process exited early" in errors
    assert "Traceback" not in errors


def test_devices_are_validated(world, tmp_path, monkeypatch):
    for device, words in (("cuda", "this machine has no GPU"), ("gpu", "Pass auto, cpu")):
        with pytest.raises(UserError, match=words):
            write_store(plan(world, tmp_path / "s", device=device))
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"devices=3, but the launcher started 2 processes\."):
        write_store(plan(world, tmp_path / "s", devices=3))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ranks_share_local_features(world):
    output, port = world / "local", free_port()
    Script(world, "output=local-one", "local=rootsift").communicate()
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    # The second command adds the local features to the store that the first one writes.
    for settings in ([], ["local=rootsift"]):
        scripts = [
            Script(world, "output=local", *settings, **common, RANK=str(rank)) for rank in range(2)
        ]
        (first, _), (second, _) = (script.communicate() for script in scripts)
        assert second == ""
    assert first.splitlines()[-1] == "wrote local/local/rootsift"
    assert_same_as_one_process(world, output)
    for file in (world / "local-one" / "local" / "rootsift").iterdir():
        assert (output / "local" / "rootsift" / file.name).read_bytes() == file.read_bytes()
