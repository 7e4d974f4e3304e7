"""A gallery shared out among the processes of a launcher, each searching its part."""

import copy
from pathlib import Path

import numpy as np

from landmark.artifact.vectors import row_blocks
from landmark.processes import gather, initialize, is_alone, rank, shard, world_size
from landmark.search.blocks import Vectors, rows_of
from landmark.search.index import Index, Search
from landmark.search.top_k import best_in_order, pads

_GATHERED_RESULTS = 2**22  # of all ranks together


def shard_search(search: Search) -> Search:
    """Share the gallery of a search out among the ranks; a single process keeps the search.

    Example:
        >>> from landmark.search import Flat
        >>> type(shard_search(Flat())).__name__
        'Flat'
    """
    if is_alone():
        return search
    initialize()
    return ShardedSearch(search)


class ShardedSearch:
    """A search whose indexes hold a contiguous part of the gallery on each rank.

    Where the search saves its index, each rank saves that of its part, in `PATH.RANK-of-WORLD`.

    Args:
        search: The search of a part.
    """

    def __init__(self, search: Search) -> None:
        folder = getattr(search, "index", None)
        if folder is not None:
            path = Path(folder)
            search = copy.copy(search)
            named = path.with_name(f"{path.name}.{rank()}-of-{world_size()}")
            search.index = str(named)  # type: ignore[attr-defined]
        self._search = search

    @property
    def device(self) -> str:
        """That of the search of a part."""
        return self._search.device

    def build(self, gallery: Vectors) -> "ShardedIndex":
        """Build the index of this rank's part of a gallery, (N, D) and the same on each rank."""
        return ShardedIndex(gallery, self._search.build(rows_of(gallery, shard(len(gallery)))))


class ShardedIndex(Index):
    """A gallery that all ranks search together: each searches its part, and all get the ranking.

    An exact search returns what it returns in one process. Every search is collective: all ranks
    call it with the same queries.

    Args:
        gallery: (N, D), the same on each rank.
        part: The index of this rank's rows, N·r/W to N·(r+1)/W - 1.
    """

    def __init__(self, gallery: Vectors, part: Index) -> None:
        super().__init__(gallery, ShardedSearch(part.settings))
        self._part = part

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Search together with the other ranks (see `Index.search`).

        Raises:
            ValueError: Also where the ranks search for different things.
        """
        self._check_same((*query.shape, *self.gallery.shape, k))
        rows, scores = self._part.search(query, k)
        first = shard(len(self.gallery)).start
        return merge_ranks(np.where(rows >= 0, rows + first, -1).astype(np.int32), scores)

    def _check_same(self, requested: tuple[int, ...]) -> None:
        of_ranks = gather_stacked(np.array([requested], np.int64))[:, 0]
        if (of_ranks != of_ranks[0]).any():
            raise ValueError(
                f"the ranks search for different things (Q, D, N, D, k): {of_ranks.tolist()}"
            )


def merge_ranks(rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge the rankings that the ranks made of consecutive parts of a gallery, ties by row.

    Args:
        rows: Gallery rows (Q, K) int32 of this rank's part, by descending score, -1 pads.
        scores: (Q, K) float32, -inf at the pads.

    Returns:
        Rows and scores (Q, K), the same on every rank; in a single process the arguments.

    Example:
        >>> merge_ranks(np.array([[1, 0]]), np.array([[0.9, 0.3]]))[0].tolist()
        [[1, 0]]
    """
    if is_alone():
        return rows, scores
    queries, k = rows.shape
    best_rows, best_scores = pads(queries, k)
    for part in row_blocks(queries, _GATHERED_RESULTS // max(1, k * world_size())):
        rankings = zip(gather_stacked(rows[part]), gather_stacked(scores[part]), strict=True)
        best_rows[part], best_scores[part] = best_in_order(list(rankings), k)
    return best_rows, best_scores


def gather_stacked(values: np.ndarray) -> np.ndarray:
    """Gather arrays (B, …), of one shape on all W ranks, as one (W, B, …).

    Example:
        >>> gather_stacked(np.array([3, 4])).tolist()
        [[3, 4]]
    """
    import torch

    every = gather(torch.from_numpy(np.ascontiguousarray(values))).numpy()
    return every.reshape(-1, *values.shape)
