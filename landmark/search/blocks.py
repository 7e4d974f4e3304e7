"""Galleries read part by part as float32: no second copy of a whole one ever exists."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from landmark.artifact.stacked import StackedVectors


def float32_blocks(
    gallery: np.ndarray | StackedVectors, block_rows: int, whole: bool = False
) -> Iterator[tuple[int, np.ndarray]]:
    """Gives the rows of a gallery in order, as float32 in C order.

    Args:
        gallery: (N, D), memory-mapped or not, or several such stacked.
        block_rows: Rows given at once.
        whole: Give parts that are float32 already in one piece, where they lie.

    Yields:
        The number of the first row, and the block (n, D). The next block may overwrite it.
    """
    first, buffer = 0, None
    for part in gallery.parts if isinstance(gallery, StackedVectors) else [gallery]:
        as_it_lies = part.dtype == np.float32 and part.flags.c_contiguous
        step = max(1, len(part)) if as_it_lies and whole else block_rows
        for start in range(0, len(part), step):
            block = part[start : start + step]
            if not as_it_lies:
                if buffer is None:
                    buffer = np.empty((min(block_rows, len(gallery)), part.shape[1]), np.float32)
                converted = buffer[: len(block)]
                convert(block, converted)
                block = converted
            yield first + start, block
        first += len(part)


def convert(block: np.ndarray, into: np.ndarray) -> None:
    """Writes values as float32: half precision with faiss, which is threaded and vectorised.

    Args:
        block: (n, D), of any floating type.
        into: (n, D) float32, C order.
    """
    if block.dtype != np.float16 or not block.flags.c_contiguous or not block.size:
        np.copyto(into, block)
        return
    import faiss

    codes = block.view(np.uint8)
    _half_precision(block.shape[1]).decode_c(
        faiss.swig_ptr(codes), faiss.swig_ptr(into), len(block)
    )


@cache
def _half_precision(dim: int) -> Any:  # noqa: ANN401 - faiss's stubs lack decode_c
    import faiss

    return faiss.ScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16)


def rows_between(
    gallery: np.ndarray | StackedVectors, start: int, stop: int
) -> np.ndarray | StackedVectors:
    """Rows start … stop - 1 of a gallery, not copied."""
    if isinstance(gallery, StackedVectors):
        return gallery.between(start, stop)
    return gallery[start:stop]
