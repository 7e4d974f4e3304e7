"""Pieces of work on all processors at once, their results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from landmark.device import usable_cpus

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def in_parallel(work: Callable[[Piece], Result], pieces: Iterable[Piece]) -> Iterator[Result]:
    """`map` on threads, for work that numpy and scipy do outside the interpreter's lock.

    No more results wait than twice the processors, so that a slow reader costs no memory.
    """
    threads = usable_cpus()
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for piece in pieces:
            waiting.append(pool.submit(work, piece))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # also where a piece failed, or nobody reads on
        pool.shutdown(cancel_futures=True)
