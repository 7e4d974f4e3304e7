"""Run work on the threads of a process, and shard it across the ranks of a launcher."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from landmark.artifact.vectors import row_blocks
from landmark.device import usable_cpus
from landmark.processes import is_alone, shard, world_size
from landmark.search.sharded import gather_stacked

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Map on threads, in order, for work that releases the GIL.

    At most twice as many results as CPUs are buffered, which bounds the memory if the consumer is
    slow.

    Example:
        >>> list(in_parallel(len, ["a", "bcd"]))
        [1, 3]
    """
    threads = usable_cpus()
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # also if an item failed or the consumer stopped
        pool.shutdown(cancel_futures=True)


def across_ranks(
    count: int,
    work: Callable[[slice], tuple[np.ndarray, ...]],
    block_size: int | None = None,
    in_threads: bool = False,
) -> tuple[np.ndarray, ...]:
    """Compute arrays of `count` items in blocks, each rank its shard, and gather them on all ranks.

    Args:
        count: Number of items.
        work: Maps a slice of the items to arrays whose first axis is those items.
        block_size: Items per block, at least 1. Defaults to the shard of a rank.
        in_threads: Compute several blocks in parallel.

    Returns:
        The arrays of all items, on every rank.

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
    """Gather the shards of an array of `count` rows."""
    shards = [shard(count, rank) for rank in range(world_size())]
    sizes = [part.stop - part.start for part in shards]
    padded = np.zeros((max(sizes), *own.shape[1:]), own.dtype)  # gather needs equal shapes
    padded[: len(own)] = own
    parts = zip(gather_stacked(padded), sizes, strict=True)
    return np.concatenate([part[:size] for part, size in parts])
