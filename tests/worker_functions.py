"""Functions for worker processes of tests, with few imports because every worker imports them."""

import os
import time
from pathlib import Path


def is_alive(process_id: int) -> bool:
    state = Path(f"/proc/{process_id}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def count_up(index, counts):
    for _ in range(3 + index):
        counts[index] += 1
        time.sleep(0.15)


def fail(index, error, folder):
    """Fail in worker 1; worker 0 would run for an hour."""
    (folder / str(index)).write_text(str(os.getpid()))
    if index == 1:
        wait_until((folder / "0").exists)
        raise error
    time.sleep(3600)


def kill_itself(index, status):
    if index == 1 and status < 0:
        os.kill(os.getpid(), -status)
    if index == 1:
        os._exit(status)
    time.sleep(3600)


def work_for_an_hour(index, folder):
    (folder / f"{index}.part").write_text(str(os.getpid()))
    (folder / f"{index}.part").rename(folder / str(index))
    time.sleep(3600)


def write_variable(path: str, name: str) -> None:
    """Write an environment variable of this worker to a file."""
    Path(path).write_text(os.environ[name])
