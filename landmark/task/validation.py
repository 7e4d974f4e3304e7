"""Validation as what the network is for: held-out queries searched in a held-out gallery."""

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from landmark.metric import gldv2
from landmark.metric.relevance import hits_by_label


class EmbeddingCollector:
    """Gathers the unit-length embeddings of one split, over batches and over processes.

    Args:
        rows: N, photos of the split.
        dim: D, dimension of the embeddings.
        device: where the embeddings are.
    """

    def __init__(self, rows: int, dim: int, device: torch.device | None = None) -> None:
        self._size = rows
        # A process may get no photo of a small split: it still takes part in gathering.
        self._rows = [torch.empty(0, dtype=torch.int64, device=device)]
        self._embeddings = [torch.empty(0, dim, device=device)]

    def add(self, rows: Tensor, embeddings: Tensor) -> None:
        """Takes the embeddings (B, D) of the table's `rows` (B,), negative for skipped photos."""
        self._rows.append(rows.to(embeddings.device))
        self._embeddings.append(torch.nn.functional.normalize(embeddings.float(), dim=1))

    def gather(self) -> tuple[Tensor, Tensor]:
        """What every process collected, in the table's order, the same on each of them.

        Returns:
            The rows (M,) whose photos were not skipped, ascending, and their embeddings (M, D).

        Raises:
            RuntimeError: a row is missing or came twice.
        """
        rows, embeddings = torch.cat(self._rows), torch.cat(self._embeddings)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rows, embeddings = _gather_processes(rows, embeddings)
        seen = torch.where(rows < 0, -rows - 1, rows)
        counts = torch.bincount(seen, minlength=self._size)
        if len(counts) != self._size or not bool((counts == 1).all()):
            raise RuntimeError("validation must see every row exactly once")
        good = rows >= 0
        order = rows[good].argsort()
        return rows[good][order], embeddings[good][order]


def _gather_processes(rows: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Concatenates every process's share; shares may differ in size, so they travel padded."""
    world = torch.distributed.get_world_size()
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world)]
    torch.distributed.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    longest = int(torch.stack(counts).max())
    padding = longest - len(rows)
    padded_rows = torch.nn.functional.pad(rows, (0, padding))
    padded = torch.nn.functional.pad(embeddings, (0, 0, 0, padding)).contiguous()
    all_rows = [torch.empty_like(padded_rows) for _ in range(world)]
    all_embeddings = [torch.empty_like(padded) for _ in range(world)]
    torch.distributed.all_gather(all_rows, padded_rows)
    torch.distributed.all_gather(all_embeddings, padded)
    sizes = [int(count) for count in counts]
    return (
        torch.cat([share[:size] for share, size in zip(all_rows, sizes, strict=True)]),
        torch.cat([share[:size] for share, size in zip(all_embeddings, sizes, strict=True)]),
    )


def nearest(
    query: Tensor, gallery: Tensor, k: int, query_block: int = 1024, gallery_block: int = 65536
) -> Tensor:
    """Rows of the `k` gallery embeddings with the largest inner product, best first.

    Args:
        query: (Q, D).
        gallery: (N, D).
        k: results a query; fewer where the gallery is smaller.
        query_block: queries compared at once.
        gallery_block: gallery rows compared at once; memory is `query_block × gallery_block`.

    Returns:
        (Q, min(k, N)) int64.
    """
    found = []
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
        found.append(rows)
    return torch.cat(found)


def retrieval_metrics(
    rows: np.ndarray, query_labels: np.ndarray, gallery_labels: np.ndarray, k: int
) -> dict[str, float]:
    """mAP@k and top-1 accuracy of what was found.

    Args:
        rows: gallery rows found for each query, best first, (Q, K).
        query_labels: (Q,) int.
        gallery_labels: (N,) int.
        k: results that count in the mAP.

    Returns:
        `map_at_<k>` and `top_1`, both in [0, 1].
    """
    hits, relevant = hits_by_label(rows, query_labels, gallery_labels)
    answerable = relevant > 0
    return {
        f"map_at_{k}": gldv2.map_at_k(hits, relevant, k),
        "top_1": float(hits[answerable, 0].mean()) if answerable.any() else 0.0,
    }
