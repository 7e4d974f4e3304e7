"""Measure and print the seconds and the memory of a function."""

import time
from collections.abc import Callable

from landmark.rerank.memory import PeakMemory


def measure(name: str, work: Callable, unit: str = "", count: int = 0):
    """Call `work`, print its seconds, memory and rate, and return its result and its seconds.

    Args:
        name: Label of the printed line.
        work: Function without arguments.
        unit: What `count` counts, such as "photos".
        count: Number of units that `work` processes. 0 prints no rate.
    """
    with PeakMemory() as memory:
        start = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - start
    rate = f"   {count / seconds:10,.0f} {unit}/s" if count else ""
    print(
        f"{name:<42} {seconds:9.2f} s   +{memory.bytes / 2**30:5.2f} GiB{rate}",
        flush=True,
    )
    return result, seconds
