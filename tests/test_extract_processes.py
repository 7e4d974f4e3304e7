"""Extraction by the command line: with several processes, under launchers, in sweeps."""

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
from landmark.artifact.unfinished import UnfinishedStore
from landmark.data import Folder
from landmark.data.batches import grouped_batches
from landmark.disk.lock import staging_folder
from landmark.error import UserError
from landmark.extract.group import Group
from landmark.extract.storing import store_descriptors
from landmark.image.format import ImageFormat

ROOT = Path(__file__).resolve().parents[1]
# After its second save each process says who it is and goes no further.
STOPS_HALF_WAY = """
import os, pathlib, time
from landmark.artifact.unfinished import UnfinishedStore
save, saved = UnfinishedStore.save, []
def stopping(work):
    save(work)
    saved.append(None)
    if len(saved) == 2:
        pathlib.Path("reached", str(os.getpid())).touch()
        time.sleep(3600)
UnfinishedStore.save = stopping
"""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Sizes of photos are remembered here alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANDMARK_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory, cache):
    """An embedder, photos, and `whole`: their store as one process makes it."""
    root = tmp_path_factory.mktemp("world")
    write_embedder_into(root / "embedder")
    write_photos(root / "photos")
    table = Folder(root / "photos").read().with_sizes()
    store_descriptors(plan(root, root / "whole", table=table), Group())
    return root


class Script:
    """extract.py in a fork of this process, which has everything imported already."""

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

    def ended(self, status=0):
        """What it printed, after its end."""
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


def assert_like_whole(world, output):
    one, other = DescriptorStore.open(world / "whole"), DescriptorStore.open(output)
    assert one.ids.tolist() == other.ids.tolist()
    assert (one.path / "vectors.npy").read_bytes() == (other.path / "vectors.npy").read_bytes()
    assert not staging_folder(output).exists()


def wait_until(condition):
    patience = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < patience
        time.sleep(0.02)


def is_alive(number):
    state = Path(f"/proc/{number}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_two_processes_killed_then_one_give_the_bytes_of_one(world):
    (world / "hook").mkdir()
    (world / "hook" / "sitecustomize.py").write_text(STOPS_HALF_WAY)
    reached, output = world / "reached", world / "killed"
    reached.mkdir()
    hooked = f"{world / 'hook'}{os.pathsep}{ROOT}"
    script = Script(world, "output=killed", "devices=2", PYTHONPATH=hooked)
    wait_until(lambda: len(list(reached.iterdir())) == 2)
    script.process.kill()
    script.ended(-signal.SIGKILL)
    children = [int(path.name) for path in reached.iterdir()]
    wait_until(lambda: not any(is_alive(child) for child in children))
    assert not output.exists()
    done = UnfinishedStore(staging_folder(output)).done
    assert 0 < done < PHOTOS
    printed, _ = Script(world, "output=killed").ended()
    assert f"goes on: {done} of {PHOTOS} photos" in printed
    assert printed.splitlines()[-1] == "wrote killed"
    assert_like_whole(world, output)


def test_each_job_of_a_sweep_does_its_own_alone(world):
    printed, _ = Script(world, "-m", "devices=2,1", "output=swept/${devices}").ended()
    assert [line for line in printed.splitlines() if line.startswith("wrote")] == [
        "wrote swept/2",
        "wrote swept/1",
    ]
    for devices in ("1", "2"):
        assert_like_whole(world, world / "swept" / devices)
    assert sorted(path.name for path in (world / "swept").iterdir()) == ["1", "2"]


def test_a_mistake_in_a_process_ends_all_with_its_line(world, tmp_path):
    photos = write_photos(tmp_path / "photos")
    spoilt = photos / "4" / "011.jpg"
    Folder(photos).read().with_sizes()  # which reads no more of a photo than its beginning
    spoilt.write_bytes(spoilt.read_bytes()[:-300])
    # Each in a process that describes, and there in one that decodes.
    script = Script(
        world, f"data.root={photos}", f"output={tmp_path / 's'}", "devices=2", "workers=1"
    )
    _, errors = script.ended(2)
    assert len(errors.splitlines()) == 1, errors
    assert errors.startswith(f"error: {spoilt}: ")
    assert not (tmp_path / "s").exists()


def free_port(ports=range(15000, 25000)):
    for port in np.random.default_rng().permutation(ports):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", int(port)))
            return port
    raise AssertionError("no free port")


@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_under_a_launcher_each_process_takes_its_place(world, launcher):
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
    (first, _), (second, _) = (script.ended() for script in scripts)
    assert first.splitlines()[-1] == f"wrote {launcher}"
    assert second == ""
    assert_like_whole(world, world / launcher)


def test_when_one_of_a_launchers_processes_fails_none_waits_for_ever(world, tmp_path):
    photos = write_photos(tmp_path / "photos")
    table = Folder(photos).read().with_sizes()
    # The second batch is the second process's.
    second = grouped_batches(table.groups(ImageFormat(**IMAGE)), 4)[1][0]
    spoilt = photos / table.rows["path"][second]
    spoilt.write_bytes(spoilt.read_bytes()[:-300])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    scripts = [
        Script(world, f"data.root={photos}", f"output={tmp_path / 's'}", RANK=str(rank), **common)
        for rank in range(2)
    ]
    _, errors = scripts[1].ended(2)
    assert errors.startswith(f"error: {spoilt}: ")
    _, errors = scripts[0].ended(1)
    assert "another process of this extraction ended early" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("environment", "group"),
    [
        ({}, Group()),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Group()),  # a batch script without srun
        ({"RANK": "3", "WORLD_SIZE": "4"}, Group(3, 4, 3, 4)),
        (
            {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8"},
            Group(9, 16, 1, 8),
        ),
        (
            {
                "SLURM_PROCID": "9",
                "SLURM_STEP_NUM_TASKS": "16",
                "SLURM_STEP_NUM_NODES": "2",
                "SLURM_LOCALID": "1",
                "SLURM_NODELIST": "gpu[07-08]",
                "SLURM_JOB_ID": "123456",
            },
            Group(9, 16, 1, 8, "gpu07:18456"),
        ),
    ],
)
def test_a_launchers_variables_say_the_place(environment, group):
    assert Group.from_environment(environment) == group


def test_a_launcher_that_says_half_is_a_mistake():
    for environment in ({"RANK": "one", "WORLD_SIZE": "2"}, {"SLURM_STEP_NUM_TASKS": "2"}):
        with pytest.raises(UserError, match="no place to take"):
            Group.from_environment(environment)


def test_devices_must_fit(world, tmp_path):
    with pytest.raises(UserError, match="the launcher started 2 processes"):
        store_descriptors(plan(world, tmp_path / "s", devices=3), Group(0, 2, 0, 2))
    for device, words in (("cuda", "no GPU"), ("gpu", "choose auto, cpu")):
        with pytest.raises(UserError, match=words):
            store_descriptors(plan(world, tmp_path / "s", device=device), Group())
    assert list(tmp_path.iterdir()) == []
