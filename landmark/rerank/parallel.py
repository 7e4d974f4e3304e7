"""Work shared out: among the threads of a process, and among the processes of a launcher."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from landmark.artifact.vectors import row_blocks
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
    count: int,
    work: Callable[[slice], tuple[np.ndarray, ...]],
    block_size: int | None = None,
    in_threads: bool = False,
) -> tuple[np.ndarray, ...]:
    """Compute the rows of `count` items in blocks, each rank its contiguous share; all get all.

    Args:
        count: Number of items.
        work: Computes arrays whose first axis is some of the items.
        block_size: Items computed together, at least 1. Defaults to the share of a rank.
        in_threads: Compute several blocks in parallel.

    Returns:
        The arrays of all items.

    Example:
        >>> across_ranks(3, lambda items: (np.arange(3)[items] * 2,), block_size=2)[0].tolist()
        [0, 2, 4]
    """
    own = shard(count)
    blocks = list(row_blocks(own.stop, count if block_size is None else block_size, own.start))
    blocks = blocks or [own]
    computed: tuple[np.ndarray, ...] = ()
    results = in_parallel(work, blocks) if in_threads else map(work, blocks)
    for block, parts in zip(blocks, results, strict=True):
        if not computed:
            rows = own.stop - own.start
            computed = tuple(np.empty((rows, *part.shape[1:]), part.dtype) for part in parts)
        for array, part in zip(computed, parts, strict=True):
            array[block.start - own.start : block.stop - own.start] = part
    return computed if is_alone() else tuple(_gathered(array, count) for array in computed)


def _gathered(own: np.ndarray, count: int) -> np.ndarray:
    """The rows of all ranks, which hold as many as `shard` says of `count`."""
    shares = [shard(count, number) for number in range(world_size())]
    sizes = [share.stop - share.start for share in shares]
    padded = np.zeros((max(sizes), *own.shape[1:]), own.dtype)  # all ranks send as many rows
    padded[: len(own)] = own
    parts = zip(gather_stacked(padded), sizes, strict=True)
    return np.concatenate([part[:size] for part, size in parts])
