"""Exact search by inner product with faiss, on CPU or GPU, in blocks of the gallery."""

import logging

import numpy as np
from pydantic import PositiveInt

from landmark.device import Device
from landmark.search import gpu
from landmark.search.blocks import Vectors, float32_blocks
from landmark.search.index import ExactIndex
from landmark.search.top_k import merge
from landmark.settings import checked

logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it logs every import


class Flat:
    """Exact search: return the k gallery rows with the largest inner product for each query.

    Nothing is built. A float32 gallery is searched in place, memory-mapped or not. A gallery of
    another dtype, such as float16, is converted block by block, without a second copy of it.

    Args:
        device: `cpu`; `cuda` for all GPUs, each with a shard of the gallery; `cuda:1` for that GPU;
            or `auto` for all GPUs if there are any, else the CPU. Under a launcher each process
            uses its own GPU. A GPU returns up to 2,047 neighbours; more are searched on the CPU.
        block_rows: Gallery rows converted together.

    Example:
        >>> index = Flat().build(np.eye(3, dtype=np.float32))
        >>> rows, scores = index.search(np.array([[0.0, 0.6, 0.8]]), k=2)
        >>> rows.tolist(), scores.round(1).astype(str).tolist()
        ([[2, 1]], [['0.8', '0.6']])
    """

    widened_by = ""

    @checked
    def __init__(self, device: Device = "auto", block_rows: PositiveInt = 65536) -> None:
        self.device = device
        self.block_rows = block_rows

    def build(self, gallery: Vectors) -> "FlatIndex":
        """Return the gallery (N, D) as an index.

        Raises:
            UserError: The device is not available to faiss.
        """
        return FlatIndex(gallery, self)


class FlatIndex(ExactIndex):
    """A gallery searched by `Flat`.

    Example:
        >>> index = FlatIndex(np.eye(2, dtype=np.float16), Flat("cpu"))
        >>> index.search(np.array([[0.6, 0.8]]), k=1)[0].tolist()
        [[1]]
    """

    def __init__(self, gallery: Vectors, settings: Flat) -> None:
        super().__init__(gallery, settings)
        self._block_rows = settings.block_rows
        self._gpus = gpu.gpus_of(settings.device)

    def _any_nearest(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        import faiss

        gpus = self._gpus if k <= gpu.MOST_NEIGHBOURS else []
        best = None
        for first, block in float32_blocks(self.gallery, self._block_rows, in_place=True):
            block_k = min(k, len(block))
            if gpus:
                rows, scores = gpu.knn(query, block, block_k, gpus)
            else:
                scores, rows = faiss.knn(query, block, block_k, metric=faiss.METRIC_INNER_PRODUCT)
            rows += first
            best = (rows, scores) if best is None else merge(best, (rows, scores), k)
        assert best is not None, "1 <= k <= N, so the gallery is not empty"
        return best
