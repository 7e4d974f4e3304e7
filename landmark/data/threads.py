"""Concurrent file operations: threads hide the latency of the disk."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_THREADS = 16
_BLOCK_SIZE = 4096  # limits the number of futures: a table may have millions of rows


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield `function(item)` for each item, in order, computed by several threads.

    Example:
        >>> list(map_in_threads(str.upper, ["a", "b"]))
        ['A', 'B']
    """
    remaining = iter(items)
    with ThreadPoolExecutor(_THREADS) as pool:
        while block := list(islice(remaining, _BLOCK_SIZE)):
            yield from pool.map(function, block)
