"""Search a gallery that is sharded across the ranks of a launcher."""

import copy
from pathlib import Path

import numpy as np

from landmark.artifact.vectors import row_blocks
from landmark.processes import gather, gather_objects, initialize, is_alone, rank, shard, world_size
from landmark.search.blocks import Vectors, rows_of
from landmark.search.index import Index, Search
from landmark.search.leading import LeadingIndex, leading
from landmark.search.top_k import best_in_order, pads

_GATHERED_RESULTS = 2**22  # of all ranks, per block


def shard_search(search: Search) -> Search:
    """Shard the gallery of a search across the ranks; a no-op in a single process.

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
    """A search that indexes a contiguous shard of the gallery on each rank.

    If the search saves its index, each rank saves the index of its shard in `PATH.RANK-of-WORLD`.

    Args:
        search: Search of a shard.

    Example:
        >>> from landmark.search import Flat
        >>> index = ShardedSearch(Flat()).build(np.eye(2, dtype=np.float32))
        >>> index.search(np.array([[0.6, 0.8]]), k=2)[0].tolist()
        [[1, 0]]
    """

    def __init__(self, search: Search) -> None:
        folder = getattr(search, "index", None)
        if folder is not None:
            path = Path(folder)
            search = copy.copy(search)
            own_path = path.with_name(f"{path.name}.{rank()}-of-{world_size()}")
            search.index = str(own_path)  # type: ignore[attr-defined]
        self._search = search

    @property
    def device(self) -> str:
        """Device of the search of a shard."""
        return self._search.device

    @property
    def widened_by(self) -> str:
        """Settings that raise the recall of the search of a shard."""
        return self._search.widened_by

    def build(self, gallery: Vectors) -> Index:
        """Build the index of this rank's shard of a gallery (N, D), the same on every rank."""
        dims = getattr(self._search, "dims", None)
        if dims is None:
            return ShardedIndex(gallery, self._search.build(rows_of(gallery, shard(len(gallery)))))
        # The candidates of all ranks are merged before they are rescored, as in a single process.
        of_leading, unsaved = copy.copy(self), copy.copy(self)
        of_leading._search = self._search.of_leading()  # type: ignore[attr-defined]
        inner = of_leading.build(leading(gallery, dims))
        unsaved._search = copy.copy(self._search)
        if hasattr(unsaved._search, "index"):
            unsaved._search.index = None
        refine = self._search.refine  # type: ignore[attr-defined]
        return ShardedLeadingIndex(gallery, unsaved, inner, refine)


class ShardedIndex(Index):
    """A gallery that all ranks search together: each searches its shard, all get the ranking.

    The results of an exact search do not depend on the number of ranks. Every search is collective:
    all ranks must call it with the same queries.

    Args:
        gallery: (N, D), the same on every rank.
        part: Index of this rank's rows, N·r/W to N·(r+1)/W - 1.

    Example:
        >>> from landmark.search import Flat
        >>> gallery = np.eye(2, dtype=np.float32)
        >>> ShardedIndex(gallery, Flat().build(gallery)).search(gallery[:1], k=2)[0].tolist()
        [[0, 1]]
    """

    def __init__(self, gallery: Vectors, part: Index) -> None:
        super().__init__(gallery, ShardedSearch(part.settings))
        self._part = part

    @property
    def is_exact(self) -> bool:
        """Whether the indexes of all ranks are exact; all ranks must call it."""
        return all(gather_objects(self._part.is_exact))

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Search together with the other ranks (see `Index.search`).

        Raises:
            ValueError: The shapes or k are invalid, or differ between ranks.
        """
        rows, scores = self.search_wide(query, k)
        return rows, scores.astype(np.float32, copy=False)

    def search_wide(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Search together with the other ranks (see `Index.search_wide`)."""
        self._check_same((*query.shape, *self.gallery.shape, k))
        rows, scores = self._part.search_wide(query, k)
        first = shard(len(self.gallery)).start
        return merge_ranks(np.where(rows >= 0, rows + first, -1).astype(np.int32), scores)

    def _check_same(self, shapes: tuple[int, ...]) -> None:
        of_ranks = gather_stacked(np.array([shapes], np.int64))[:, 0]
        if (of_ranks != of_ranks[0]).any():
            raise ValueError(f"(Q, D, N, D, k) differ between ranks: {of_ranks.tolist()}")


class ShardedLeadingIndex(LeadingIndex):
    """A `LeadingIndex` of all ranks: each rescores the candidates of its shard of the gallery.

    Example:
        >>> from landmark.search import Flat
        >>> gallery = np.eye(2, dtype=np.float32)
        >>> index = ShardedSearch(Flat(dims=1)).build(gallery)
        >>> type(index).__name__, index.search(gallery[:1], k=2)[0].tolist()
        ('ShardedLeadingIndex', [[0, 1]])
    """

    def _rescored(
        self, query: np.ndarray, candidates: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        own = shard(len(self.gallery))
        is_own = (candidates >= own.start) & (candidates < own.stop)
        own_rows = np.where(is_own, candidates, -1).astype(np.int32)
        return merge_ranks(*super()._rescored(query, own_rows, k))


def merge_ranks(rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge the rankings of all ranks over consecutive shards of a gallery, ties by row.

    Args:
        rows: Gallery rows (Q, K) int32 of this rank's shard, by descending score, -1 pads.
        scores: (Q, K) float32 or float64, -inf at the pads.

    Returns:
        Rows and scores (Q, K), the same on every rank; unchanged in a single process.

    Example:
        >>> merge_ranks(np.array([[1, 0]]), np.array([[0.9, 0.3]]))[0].tolist()
        [[1, 0]]
    """
    if is_alone():
        return rows, scores
    queries, k = rows.shape
    best_rows, best_scores = pads(queries, k, scores.dtype)
    for part in row_blocks(queries, _GATHERED_RESULTS // max(1, k * world_size())):
        rankings = zip(gather_stacked(rows[part]), gather_stacked(scores[part]), strict=True)
        best_rows[part], best_scores[part] = best_in_order(list(rankings), k)
    return best_rows, best_scores


def gather_stacked(values: np.ndarray) -> np.ndarray:
    """Gather arrays (B, …), of the same shape on all W ranks, into (W, B, …).

    Example:
        >>> gather_stacked(np.array([3, 4])).tolist()
        [[3, 4]]
    """
    import torch

    gathered = gather(torch.from_numpy(np.ascontiguousarray(values))).numpy()
    return gathered.reshape(-1, *values.shape)
