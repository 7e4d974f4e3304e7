"""Work shared out: among the threads of a process, and among the processes of a launcher."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from landmark.device import usable_cpus
from landmark.processes import is_alone, shard, world_size
from landmark.search.sharded import gather_stacked

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def in_parallel(work: Callable[[Piece], Result], pieces: Iterable[Piece]) -> Iterator[Result]:
    """`map` on threads, for work that numpy and scipy do without the interpreter's lock.

    No more results wait than twice the processors, so that a slow reader costs no memory.

    Example:
        >>> list(in_parallel(len, ["a", "bcd"]))
        [1, 3]
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


def across_ranks(
    count: int, work: Callable[[slice], tuple[np.ndarray, ...]]
) -> tuple[np.ndarray, ...]:
    """Compute the rows of `count` items, each rank its contiguous share; every rank gets all.

    Args:
        count: Number of items.
        work: Computes arrays whose first axis is some of the items.

    Returns:
        The arrays of all items.

    Example:
        >>> across_ranks(3, lambda items: (np.arange(3)[items] * 2,))[0].tolist()
        [0, 2, 4]
    """
    if is_alone():
        return work(slice(0, count))
    sizes = [
        shard(count, number).stop - shard(count, number).start for number in range(world_size())
    ]

    def gathered(own: np.ndarray) -> np.ndarray:
        padded = np.zeros((max(sizes), *own.shape[1:]), own.dtype)  # all ranks send as many rows
        padded[: len(own)] = own
        parts = zip(gather_stacked(padded), sizes, strict=True)
        return np.concatenate([part[:size] for part, size in parts])

    return tuple(map(gathered, work(shard(count))))
