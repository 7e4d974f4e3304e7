"""Validation by retrieval: held-out queries in a held-out gallery."""

import numpy as np
import torch
from torch import Tensor

from landmark.metric import gldv2
from landmark.metric.relevance import hits_by_label
from landmark.processes import gather


class EmbeddingCollector:
    """Collect the unit-length embeddings of one split over batches and ranks.

    Args:
        rows: N, number of photos of the split.
        dim: D, embedding dimension.
        device: Device of the embeddings.
    """

    def __init__(self, rows: int, dim: int, device: torch.device | None = None) -> None:
        self._size = rows
        # A rank without photos of a small split still takes part in the gather.
        self._rows = [torch.empty(0, dtype=torch.int64, device=device)]
        self._embeddings = [torch.empty(0, dim, device=device)]

    def add(self, rows: Tensor, embeddings: Tensor) -> None:
        """Add embeddings (B, D) of the table's `rows` (B,), negative for skipped photos."""
        self._rows.append(rows.to(embeddings.device))
        self._embeddings.append(torch.nn.functional.normalize(embeddings.float(), dim=1))

    def gather(self) -> tuple[Tensor, Tensor]:
        """Gather what all ranks collected, in the order of the table, on every rank.

        Returns:
            The rows (M,) of photos that were not skipped, ascending, and their embeddings (M, D).

        Raises:
            RuntimeError: A row is missing or repeated.
        """
        rows = gather(torch.cat(self._rows), uneven=True)
        embeddings = gather(torch.cat(self._embeddings), uneven=True)
        table_rows = torch.where(rows < 0, -rows - 1, rows)
        counts = torch.bincount(table_rows, minlength=self._size)
        if len(counts) != self._size or not bool((counts == 1).all()):
            raise RuntimeError("validation must see every row exactly once")
        usable = rows >= 0
        order = rows[usable].argsort()
        return rows[usable][order], embeddings[usable][order]


def nearest(
    query: Tensor, gallery: Tensor, k: int, query_block: int = 1024, gallery_block: int = 65536
) -> Tensor:
    """Return the rows of the `k` gallery embeddings with the largest inner product, best first.

    Args:
        query: (Q, D).
        gallery: (N, D).
        k: Results per query; fewer if the gallery is smaller.
        query_block: Queries in one matrix product.
        gallery_block: Gallery rows in one matrix product. Memory is query_block × gallery_block.

    Returns:
        (Q, min(k, N)) int64.
    """
    nearest_rows = []
    for queries in query.split(query_block):
        scores = queries.new_empty((len(queries), 0))
        rows = torch.empty((len(queries), 0), dtype=torch.int64, device=query.device)
        for start in range(0, len(gallery), gallery_block):
            block = queries @ gallery[start : start + gallery_block].T
            block_rows = torch.arange(start, start + block.shape[1], device=query.device)
            scores = torch.cat([scores, block], dim=1)
            rows = torch.cat([rows, block_rows.expand(len(queries), -1)], dim=1)
            scores, order = scores.topk(min(k, scores.shape[1]), dim=1)
            rows = rows.gather(1, order)
        nearest_rows.append(rows)
    return torch.cat(nearest_rows)


def retrieval_metrics(
    rows: np.ndarray, query_labels: np.ndarray, gallery_labels: np.ndarray, k: int
) -> dict[str, float]:
    """Compute mAP@k and top-1 accuracy of a ranking.

    Args:
        rows: Gallery rows of each query's results, best first, (Q, K).
        query_labels: (Q,) int.
        gallery_labels: (N,) int.
        k: Results that count in the mAP.

    Returns:
        `map_at_<k>` and `top_1`, both in [0, 1].
    """
    hits, relevant = hits_by_label(rows, query_labels, gallery_labels)
    answerable = relevant > 0
    return {
        f"map_at_{k}": gldv2.map_at_k(hits, relevant, k),
        "top_1": float(hits[answerable, 0].mean()) if answerable.any() else 0.0,
    }
