"""Run a measurement in a new process, and read the memory of processes from /proc."""

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True)
class Measurement:
    """Result of a function, its seconds, and the peak memory of its process in bytes."""

    result: Any
    seconds: float
    peak: int


def measure_in_new_process(
    prepare: Callable, work: Callable, *arguments, yields: bool = True
) -> Measurement:
    """Run `work(*prepare(*arguments))` in a new process and measure it.

    The seconds are those of `work`. The peak is that of the process and includes the mapped pages
    of the files that it read.

    Args:
        prepare: Module-level function that returns the arguments of `work` as a tuple.
        work: Module-level function whose result is small.
        arguments: Arguments of `prepare`.
        yields: Let threads that wait sleep. Threads that wait in a loop, as they do by default,
            start sooner but are about ten times slower where other processes use the CPUs.
    """
    if yields:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    return run_in_new_process(_measure, prepare, work, arguments)


def _measure(prepare: Callable, work: Callable, arguments: tuple) -> Measurement:
    prepared = prepare(*arguments)
    start = time.perf_counter()
    result = work(*prepared)
    seconds = time.perf_counter() - start
    return Measurement(result, seconds, own_memory("VmHWM"))


def run_in_new_process(function: Callable, *arguments) -> Any:
    """Return `function(*arguments)`, computed in a spawned process that may start others."""
    return run_in_new_processes(function, [arguments])[0]


def run_in_new_processes(function: Callable, calls: list[tuple]) -> list[Any]:
    """Return `function(*arguments)` for each of `calls`, each in a spawned process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(calls), context) as executor:
        futures = [executor.submit(function, *arguments) for arguments in calls]
        return [future.result() for future in futures]


def own_memory(field: str) -> int:
    """Return a field of /proc/self/status in bytes.

    Args:
        field: VmRSS (resident), VmHWM (peak of VmRSS) or RssAnon (resident, without files).
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def tree_memory() -> int:
    """Return the proportional set size of this process and its descendants in bytes."""
    total, pending = 0, [os.getpid()]
    while pending:
        process = Path(f"/proc/{pending.pop()}")
        for thread in (process / "task").iterdir():
            pending += map(int, (thread / "children").read_text().split())
        for line in (process / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total
