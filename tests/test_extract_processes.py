"""Extraction by the command line: with several processes, under launchers, in sweeps."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from extraction_world import PHOTOS, plan, write_embedder_into, write_photos

from landmark.artifact.claim import hidden_folder
from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.unfinished import UnfinishedStore
from landmark.data import Folder
from landmark.extract.group import Group
from landmark.extract.storing import store_descriptors
from landmark.mistake import UserMistake

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


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """An embedder, photos, and `whole`: their store as one process makes it."""
    root = tmp_path_factory.mktemp("world")
    write_embedder_into(root / "embedder")
    write_photos(root / "photos")
    table = Folder(root / "photos").read().with_sizes()
    store_descriptors(plan(root, root / "whole", table=table), Group())
    return root


def started(world, *overrides, script=(str(ROOT / "extract.py"),), **environment):
    command = [
        *(sys.executable, *script),
        *[override for override in overrides if override.startswith("-")],
        "embedder=embedder",
        "data=folder",
        "data.root=photos",
        "extract.scales=[1,1.5]",
        "batch_size=4",
        "workers=0",
        "device=cpu",
        "save_every=0",
        *[override for override in overrides if not override.startswith("-")],
    ]
    return subprocess.Popen(
        command,
        cwd=world,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
    )


def ended(process, status=0):
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == status, errors
    return printed, errors


def assert_like_whole(world, output):
    one, other = DescriptorStore.open(world / "whole"), DescriptorStore.open(output)
    assert one.ids.tolist() == other.ids.tolist()
    assert (one.path / "vectors.npy").read_bytes() == (other.path / "vectors.npy").read_bytes()
    assert not hidden_folder(output).exists()


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
    process = started(
        world, "output=killed", "devices=2", PYTHONPATH=f"{world / 'hook'}{os.pathsep}{ROOT}"
    )
    wait_until(lambda: len(list(reached.iterdir())) == 2)
    process.send_signal(signal.SIGKILL)
    ended(process, -signal.SIGKILL)
    children = [int(path.name) for path in reached.iterdir()]
    wait_until(lambda: not any(is_alive(child) for child in children))
    assert not output.exists()
    done = UnfinishedStore(hidden_folder(output)).done
    assert 0 < done < PHOTOS
    printed, _ = ended(started(world, "output=killed"))
    assert f"goes on: {done} of {PHOTOS} photos" in printed
    assert printed.splitlines()[-1] == "wrote killed"
    assert_like_whole(world, output)


def test_each_job_of_a_sweep_does_its_own_alone(world):
    printed, _ = ended(started(world, "-m", "devices=2,1", "output=swept/${devices}"))
    assert [line for line in printed.splitlines() if line.startswith("wrote")] == [
        "wrote swept/2",
        "wrote swept/1",
    ]
    for devices in ("1", "2"):
        assert_like_whole(world, world / "swept" / devices)
    assert sorted(path.name for path in (world / "swept").iterdir()) == ["1", "2"]


def test_a_mistake_in_a_process_ends_all_with_its_line(world, tmp_path):
    photos = write_photos(tmp_path / "photos")
    table = Folder(photos).read().with_sizes()
    spoilt = photos / "2" / "023.jpg"
    spoilt.write_bytes(spoilt.read_bytes()[:700])
    with pytest.raises(UserMistake, match=r"023\.jpg") as caught:
        # In another process than this one, and there in one that decodes.
        store_descriptors(plan(world, tmp_path / "s", table=table, devices=2, workers=1), Group())
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(spoilt))
    assert not (tmp_path / "s").exists()


def free_port(ports=range(15000, 25000)):
    for port in np.random.default_rng().permutation(ports):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", int(port)))
            return int(port)
    raise AssertionError("no free port")


def test_under_a_launcher_each_process_takes_its_place(world):
    port = str(free_port())
    processes = [
        started(
            world,
            "output=launched",
            RANK=str(rank),
            WORLD_SIZE="2",
            LOCAL_RANK=str(rank),
            LOCAL_WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for rank in range(2)
    ]
    first, second = (ended(process)[0] for process in processes)
    assert first.splitlines()[-1] == "wrote launched"
    assert second == ""
    assert_like_whole(world, world / "launched")


MEETING = """
from landmark.extract.group import Group
group = Group.from_environment()
print(group.rank, group.told("said" if group.is_first else None), group.local_rank)
group.wait()
"""


def test_slurms_processes_meet_without_a_master_address(world):
    slurm = {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_JOB_ID": str(free_port() - 15000),
    }
    processes = [
        started(world, script=("-c", MEETING), SLURM_PROCID=rank, SLURM_LOCALID=rank, **slurm)
        for rank in "01"
    ]
    assert [ended(process)[0] for process in processes] == ["0 said 0\n", "1 said 1\n"]


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
        with pytest.raises(UserMistake, match="no place to take"):
            Group.from_environment(environment)


def test_devices_must_fit(world, tmp_path):
    with pytest.raises(UserMistake, match="the launcher started 2 processes"):
        store_descriptors(plan(world, tmp_path / "s", devices=3), Group(0, 2, 0, 2))
    for device, words in (("cuda", "no GPU"), ("gpu", "choose auto, cpu")):
        with pytest.raises(UserMistake, match=words):
            store_descriptors(plan(world, tmp_path / "s", device=device), Group())
    assert list(tmp_path.iterdir()) == []
