"""Ranks of a launcher and their collectives; worker processes and how they end."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from worker_functions import (
    count_up,
    fail,
    is_alive,
    kill_itself,
    wait_until,
    work_for_an_hour,
    write_variable,
)

from landmark import processes
from landmark.disk.space import DiskFullError
from landmark.error import UserError
from landmark.processes import Launch, launch, shard, start

FORK = multiprocessing.get_context("fork")

# --- the launcher's variables ---


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Launch()),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Launch()),  # a batch script without srun
        ({"RANK": "3", "WORLD_SIZE": "4"}, Launch(3, 4, 3, 4, "tcp://127.0.0.1:12910")),
        (
            {
                "RANK": "9",
                "WORLD_SIZE": "16",
                "LOCAL_RANK": "1",
                "LOCAL_WORLD_SIZE": "8",
                "MASTER_ADDR": "node0",
            },
            Launch(9, 16, 1, 8, "env://"),
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
            Launch(9, 16, 1, 8, "tcp://gpu07:18456"),
        ),
        (
            {
                "SLURM_PROCID": "0",
                "SLURM_STEP_NUM_TASKS": "3",
                "SLURM_STEP_NUM_NODES": "2",
                "SLURM_LOCALID": "0",
                "SLURM_STEP_NODELIST": "cpu1,gpu[07-08]",
                "SLURM_NODELIST": "another",
            },
            Launch(0, 3, 0, 2, "tcp://cpu1:15000"),
        ),
        (
            {
                "SLURM_PROCID": "1",
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_LOCALID": "1",
                "MASTER_ADDR": "node0",
            },
            Launch(1, 2, 1, 2, "env://"),
        ),
    ],
)
def test_the_variables_of_torchrun_and_srun(environment, expected):
    assert launch(environment) == expected


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "one", "WORLD_SIZE": "2"},
        {"SLURM_STEP_NUM_TASKS": "2"},
        {"SLURM_STEP_NUM_TASKS": "many"},
    ],
)
def test_incomplete_variables_are_one_line(environment):
    with pytest.raises(UserError, match="the launcher's variables are incomplete"):
        launch(environment)


def test_ranks_are_those_of_the_launcher_before_anything_is_initialised(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert (processes.rank(), processes.world_size(), processes.is_alone()) == (0, 1, True)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert (processes.rank(), processes.world_size(), processes.is_alone()) == (1, 3, False)


# --- collectives ---


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def in_ranks(work, world_size=2):
    """Return the results of `work(rank)` in processes started as by torchrun, in rank order."""
    port, results = str(free_port()), FORK.SimpleQueue()

    def child(rank):
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
        results.put((rank, work(rank)))

    children = [FORK.Process(target=child, args=(rank,)) for rank in range(world_size)]
    for one in children:
        one.start()
    for one in children:
        one.join(60)
        assert one.exitcode == 0
    return [value for _, value in sorted(results.get() for _ in children)]


def rows_of(rank: int, count: int) -> torch.Tensor:
    return torch.arange(count * 2).reshape(count, 2) + 100 * rank


@pytest.mark.parametrize(("counts", "uneven"), [((2, 2), False), ((3, 1), True), ((0, 2), True)])
def test_gather_concatenates_in_rank_order(counts, uneven):
    def work(rank):
        processes.initialize()
        rows = rows_of(rank, counts[rank]).float().requires_grad_()
        gathered = processes.gather(rows, uneven=uneven)
        return gathered.tolist(), gathered.requires_grad

    expected = torch.cat([rows_of(rank, count) for rank, count in enumerate(counts)]).tolist()
    assert in_ranks(work) == [(expected, False)] * 2


def test_objects_and_sums_are_exchanged():
    def work(rank):
        value = processes.broadcast({"of": rank})
        objects = processes.gather_objects([rank])
        total = processes.total(torch.tensor([1.0, rank]))
        return value, objects, total.tolist(), processes.shard(5)

    assert in_ranks(work) == [
        ({"of": 0}, [[0], [1]], [2.0, 1.0], slice(0, 2)),
        ({"of": 0}, [[0], [1]], [2.0, 1.0], slice(2, 5)),
    ]


def test_rank_zero_runs_first(tmp_path):
    def work(rank):
        with processes.rank_zero_first():
            before = sorted(path.name for path in tmp_path.iterdir())
            time.sleep(0.3 * (rank == 0))
            (tmp_path / str(rank)).touch()
        return before

    first, second, third = in_ranks(work, world_size=3)
    assert first == []
    assert "0" in second
    assert "0" in third


def test_a_barrier_waits_for_all_ranks(tmp_path):
    def work(rank):
        time.sleep(0.3 * rank)
        (tmp_path / str(rank)).touch()
        processes.barrier()
        return len(list(tmp_path.iterdir()))

    assert in_ranks(work) == [2, 2]


def test_a_rank_that_exits_early_causes_no_traceback():
    def work(rank):
        processes.initialize()
        if rank == 1:
            return "ended"
        try:
            for _ in range(10):
                processes.barrier()
        except SystemExit as ended:
            return str(ended).partition(" (")[0]

    assert in_ranks(work) == ["another process exited early", "ended"]


def test_the_process_group_is_destroyed_before_the_interpreter_exits(tmp_path):
    # Threads of a group that outlive it abort the process now and then.
    script = tmp_path / "rank.py"
    script.write_text(
        """
import atexit
from torch import distributed
from landmark import processes

atexit.register(lambda: print(distributed.is_initialized()))
processes.barrier()
print(distributed.is_initialized())
"""
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = [
        subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
        )
        for rank in (0, 1)
    ]
    for process in started:
        assert process.communicate(timeout=120)[0].split() == ["True", "False"]
        assert process.returncode == 0


def test_collectives_of_a_single_process_are_the_identity(monkeypatch, capsys):
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    rows = torch.ones(2, 3)
    processes.initialize()
    assert not torch.distributed.is_initialized()
    assert processes.gather(rows) is rows
    assert processes.total(rows) is rows
    assert processes.broadcast(rows) is rows
    assert processes.gather_objects(3) == [3]
    processes.barrier()
    with processes.rank_zero_first(), processes.silence_other_ranks():
        print("heard")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with processes.silence_other_ranks():
        print("silent")
    assert capsys.readouterr().out == "heard\n"


@given(count=st.integers(0, 200), ranks=st.integers(1, 20))
def test_shards_cover_everything_once(count, ranks):
    shards = [range(count)[shard(count, rank, ranks)] for rank in range(ranks)]
    assert [row for rows in shards for row in rows] == list(range(count))
    sizes = [len(rows) for rows in shards]
    assert max(sizes) - min(sizes) <= 1


# --- worker processes ---


def test_progress_is_polled_while_workers_run():
    counts = multiprocessing.get_context("spawn").RawArray("q", 2)
    seen = []
    start(count_up, [(0, counts), (1, counts)], poll=lambda: seen.append(sum(counts)))
    assert seen[-1] == 7
    assert seen == sorted(seen)
    assert len(set(seen)) > 2


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (UserError("a.jpg is broken. Remove it."), UserError, r"^a\.jpg is broken\. Remove it\.$"),
        (DiskFullError("s does not fit."), UserError, r"^s does not fit\.$"),
        (ValueError("odd"), RuntimeError, r"(?s)a worker process failed:.*raise error.*ValueError"),
    ],
)
def test_the_first_failure_stops_all_workers(tmp_path, capfd, error, raised, words):
    with pytest.raises(raised, match=words):
        start(fail, [(index, error, tmp_path) for index in range(2)], poll=lambda: None)
    workers = [int(path.read_text()) for path in tmp_path.iterdir()]
    assert len(workers) == 2
    assert not any(map(is_alive, workers))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (-9, r"status -9 \(killed, possibly out of memory\)\. Run the same command"),
        (3, "status 3."),
    ],
)
def test_a_killed_worker_is_reported(status, words):
    with pytest.raises(RuntimeError, match=f"worker exited with {words}"):
        start(kill_itself, [(index, status) for index in range(2)], poll=lambda: None)


def test_an_interrupt_stops_the_workers(tmp_path):
    def interrupt():
        if len(list(tmp_path.glob("[01]"))) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(work_for_an_hour, [(index, tmp_path) for index in range(2)], poll=interrupt)
    assert not any(is_alive(int(path.read_text())) for path in tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_exit_when_their_parent_is_killed(tmp_path):
    def parent():
        start(work_for_an_hour, [(index, tmp_path) for index in range(2)], poll=lambda: None)

    process = FORK.Process(target=parent)
    process.start()
    wait_until(lambda: len(list(tmp_path.glob("[01]"))) == 2)
    workers = [int(path.read_text()) for path in tmp_path.glob("[01]")]
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    wait_until(lambda: not any(map(is_alive, workers)))


def test_workers_get_variables_that_this_process_does_not_keep(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    file = tmp_path / "variable"
    arguments = [(str(file), "OMP_NUM_THREADS")]
    start(write_variable, arguments, poll=lambda: None, environment={"OMP_NUM_THREADS": "1"})
    assert file.read_text() == "1"
    assert os.environ["OMP_NUM_THREADS"] == "2"
