"""Exact search by inner product with faiss, on CPU or GPU, in blocks of the gallery."""

import logging

import numpy as np

from landmark.error import UserError
from landmark.search import gpu
from landmark.search.blocks import float32_blocks
from landmark.search.exact import Exact
from landmark.search.top_k import merge

logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it announces every import


class Flat(Exact):
    """Exact search: the k gallery rows of the largest inner product, for each query.

    A gallery in float32 is searched where it lies, memory-mapped or not. Any other, say a
    memory-mapped float16 one, is converted block by block: no second copy of it ever exists. Equal
    scores come in the order of their rows, also where the k-th place is tied.

    Args:
        device: `cpu`, `cuda` (every GPU, a part of the gallery on each), `cuda:1` (that one), or
            `auto`: the GPUs where faiss sees any. Up to 2,047 neighbours come from a GPU.
        block_rows: Gallery rows converted at once.

    Raises:
        UserError: The device is unknown, or faiss does not see it.
    """

    def __init__(self, device: str = "auto", block_rows: int = 65536) -> None:
        gpu.check_device(device)
        if block_rows < 1:
            raise UserError(f"search.block_rows={block_rows} must be 1 or more")
        self.device = device
        self.block_rows = block_rows

    def _nearest(
        self, query: np.ndarray, gallery: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        import faiss

        gpus = gpu.gpus_of(self.device)
        if k > gpu.MOST_NEIGHBOURS:
            gpus = []
        best = None
        for first, block in float32_blocks(gallery, self.block_rows, whole=True):
            wanted = min(k, len(block))
            if gpus:
                rows, scores = gpu.knn(query, block, wanted, gpus)
            else:
                scores, rows = faiss.knn(query, block, wanted, metric=faiss.METRIC_INNER_PRODUCT)
            rows += first
            best = (rows, scores) if best is None else merge(best, (rows, scores), k)
        assert best is not None, "k <= N, so there is a row"
        return best
