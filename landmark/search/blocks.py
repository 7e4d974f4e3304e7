"""Read galleries block by block as float32, without a second copy of the gallery."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from landmark.artifact.converted import ConvertedVectors, rows_between
from landmark.artifact.stacked import StackedVectors

Vectors = np.ndarray | StackedVectors | ConvertedVectors


def float32_blocks(
    gallery: Vectors, block_rows: int, in_place: bool = False
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the rows of a gallery in order, as float32 in C order.

    Args:
        gallery: (N, D), may be memory-mapped, stacked or converted.
        block_rows: Rows per block.
        in_place: Yield each part that is already float32 as a single block, without a copy.

    Yields:
        Number of the first row, and the block (n, D). The next block may overwrite it.

    Example:
        >>> gallery = np.array([[1, 0], [0, 1], [1, 1]], np.float16)
        >>> [(first, block.tolist()) for first, block in float32_blocks(gallery, 2)]
        [(0, [[1.0, 0.0], [0.0, 1.0]]), (2, [[1.0, 1.0]])]
    """
    first, buffer = 0, None
    for part in gallery.parts if isinstance(gallery, StackedVectors) else [gallery]:
        # A part may also be an object whose slices are arrays, such as `ConvertedVectors`.
        is_whole = in_place and isinstance(part, np.ndarray) and _is_float32(part)
        step = max(1, len(part)) if is_whole else block_rows
        for start in range(0, len(part), step):
            block = part[start : start + step]
            if not _is_float32(block):
                if buffer is None:
                    buffer = np.empty((min(block_rows, len(gallery)), part.shape[1]), np.float32)
                converted = buffer[: len(block)]
                to_float32(block, converted)
                block = converted
            yield first + start, block
        first += len(part)


def _is_float32(vectors: np.ndarray) -> bool:
    return vectors.dtype == np.float32 and vectors.flags.c_contiguous


def to_float32(block: np.ndarray, out: np.ndarray) -> None:
    """Convert values to float32: half precision with faiss, which is threaded and vectorised.

    Args:
        block: (n, D), any floating dtype.
        out: (n, D) float32, C order.

    Example:
        >>> out = np.empty((1, 2), np.float32)
        >>> to_float32(np.array([[0.5, 2]], np.float16), out)
        >>> out.tolist()
        [[0.5, 2.0]]
    """
    if block.dtype != np.float16 or not block.flags.c_contiguous or not block.size:
        np.copyto(out, block)
        return
    import faiss

    codes = block.view(np.uint8)
    _half_precision(block.shape[1]).decode_c(faiss.swig_ptr(codes), faiss.swig_ptr(out), len(block))


@cache
def _half_precision(dim: int) -> Any:  # noqa: ANN401 - faiss's stubs lack decode_c
    import faiss

    return faiss.ScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16)


def rows_of(gallery: Vectors, part: slice) -> Vectors:
    """Return rows part.start … part.stop - 1 of a gallery without a copy.

    Example:
        >>> rows_of(np.eye(3), slice(1, 3)).tolist()
        [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    return rows_between(gallery, part.start, part.stop)
