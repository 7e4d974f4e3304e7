"""How quickly this machine multiplies, in blocks and one by one."""

import time

import numpy as np

from landmark.artifact.stacked import StackedVectors
from landmark.search.flat import Flat

_QUERIES, _ROWS = 256, 32768
_RUNS = 3


def speeds(
    flat: Flat, query: np.ndarray, gallery: np.ndarray | StackedVectors
) -> tuple[float, float]:
    """Multiply-adds a second of exact search, measured on some of the gallery in about a second.

    Args:
        flat: The exact search on the device.
        query: (Q, D), Q above 0.
        gallery: (N, D), N above 0.

    Returns:
        With many queries, which share what is read; and with one query a thread or device, which
        wait for the memory, as inverted lists do.
    """
    import faiss

    vectors = np.ascontiguousarray(gallery[:_ROWS], np.float32)
    asked = np.resize(np.asarray(query[:_QUERIES], np.float32), (_QUERIES, query.shape[1]))
    return tuple(  # type: ignore[return-value]
        len(some) * vectors.size / min(_seconds(flat, some, vectors) for _ in range(_RUNS))
        for some in (asked, asked[: faiss.omp_get_max_threads()])
    )


def _seconds(flat: Flat, query: np.ndarray, gallery: np.ndarray) -> float:
    began = time.perf_counter()
    flat(query, gallery, 1)
    return time.perf_counter() - began
