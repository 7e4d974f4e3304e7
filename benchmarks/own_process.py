"""Work measured in a process of its own, so that the peak of its memory is its own."""

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIB = 2**30


@dataclass(frozen=True)
class Measured:
    """What some work gave, the seconds it took, and the peak of the whole process in bytes."""

    result: Any
    seconds: float
    peak: int


def alone(prepare: Callable, work: Callable, *given) -> Measured:
    """Runs `work(*prepare(*given))` in a new process; only `work` is timed.

    Mapped pages of files that were read count as memory of the process.

    Args:
        prepare: A function of a module; gives the arguments of `work` as a tuple.
        work: A function of a module; its result must be small.
        given: What `prepare` takes.
    """
    # Idle threads sleep: where others use the machine too, waiting in a loop costs tenfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_run, (prepare, work, given))


def _run(prepare: Callable, work: Callable, given: tuple) -> Measured:
    prepared = prepare(*given)
    began = time.perf_counter()
    result = work(*prepared)
    seconds = time.perf_counter() - began
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in status if line.startswith("VmHWM:"))
    return Measured(result, seconds, 1024 * int(peak.split()[1]))
