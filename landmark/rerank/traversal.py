"""Explore-exploit graph traversal from many queries together."""

from collections.abc import Callable, Iterator

import numpy as np

from landmark.artifact.vectors import row_blocks

Neighbours = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
_UNSEEN, _RANKED = -1, -2
_TABLE_ENTRIES = 2**26  # of the table of candidates: 256 MB
_MOST_QUERIES = 1024
_BLOCK_EDGES = 2**16  # fit the CPU cache
_MANY_CANDIDATES = 32


def traverse(
    near: np.ndarray,
    cosines: np.ndarray,
    neighbours: Neighbours,
    photos: int,
    length: int,
    threshold: float,
    own_rows: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Traverse the graph from all queries.

    Args:
        near: Nearest gallery photos of each query, (Q, k); -1 pads.
        cosines: Cosines of `near`, (Q, k).
        neighbours: Maps photos (P,) to their neighbours (P, k) and cosines (P, k).
        photos: Number of gallery photos, N.
        length: Photos to rank per query.
        threshold: Cosine above which candidates are ranked together.
        own_rows: (Q,) gallery photo that a query never reaches, its own; -1 for none. Defaults to
            none.

    Returns:
        Photos (Q, length) int32 in ranked order, -1 pads, and scores (Q, length) float32.

    Example:
        >>> near, cosines = np.array([[1, 2], [0, 2], [0, 1]]), np.array([[0.9, 0.2]] * 3)
        >>> start, weights = np.array([[2, 0]]), np.array([[0.8, 0.3]], np.float32)
        >>> lists = lambda photos: (near[photos], cosines[photos].astype(np.float32))
        >>> traverse(start, weights, lists, photos=3, length=3, threshold=0.5)[0].tolist()
        [[2, 0, 1]]
    """
    rows = np.empty((len(near), length), np.int32)
    scores = np.empty((len(near), length), np.float32)
    block_size = max(1, min(_MOST_QUERIES, len(near), _TABLE_ENTRIES // photos))
    traversal = Traversal(photos, length, near.shape[1], threshold, block_size)
    for part in row_blocks(len(near), block_size):
        own = None if own_rows is None else own_rows[part]
        rows[part], scores[part] = traversal(near[part], cosines[part], neighbours, own)
    return rows, scores


class Traversal:
    """Explore-exploit graph traversal from a block of queries (see `EGT`).

    Args:
        photos: Number of gallery photos, N.
        length: Photos to rank per query.
        edges: Neighbours per query or photo, k.
        threshold: Cosine above which candidates are ranked together.
        block_size: Maximum number of queries per call.

    Example:
        >>> near, cosines = np.array([[1], [0]]), np.array([[0.9], [0.9]], np.float32)
        >>> traversal = Traversal(photos=2, length=2, edges=1, threshold=0.5, block_size=1)
        >>> neighbours = lambda photos: (near[photos], cosines[photos])
        >>> rows, scores = traversal(near[:1], cosines[:1], neighbours)
        >>> rows.tolist(), scores.round(1).astype(str).tolist()
        ([[1, 0]], [['0.9', '0.9']])
    """

    def __init__(
        self, photos: int, length: int, edges: int, threshold: float, block_size: int
    ) -> None:
        self._photos, self._length, self._threshold = photos, length, threshold
        self._capacity = min(edges * (length + 1), photos)  # candidates per query
        self._block_size = block_size
        # Candidates are numbered per query. `_number` maps (query, photo) to the number; `_photo`
        # and `_cosine` map (query, number) to the photo and its cosine, -inf once ranked. The
        # arrays are flat because numpy indexes flat arrays faster.
        self._number = np.full(self._block_size * photos, _UNSEEN, np.int32)
        self._photo = np.empty(self._block_size * self._capacity, np.int32)
        self._cosine = np.full(self._block_size * self._capacity, -np.inf, np.float32)

    def __call__(
        self,
        near: np.ndarray,
        cosines: np.ndarray,
        neighbours: Neighbours,
        own_rows: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Traverse from B queries; see `traverse` for arguments and results."""
        queries = len(near)
        self._rows = np.full((queries, self._length), -1, np.int32)
        self._scores = np.full((queries, self._length), -np.inf, np.float32)
        self._ranked = np.zeros(queries, np.int64)
        self._seen = np.zeros(queries, np.int64)
        # Lower bound on the cosines that can still be ranked: enough candidates have higher ones.
        # The initial bound excludes only pads, whose cosine is -inf.
        self._least = np.full(queries, np.finfo(np.float32).min)
        self._seen_at_bound = np.zeros(queries, np.int64)
        unfinished = query = np.arange(queries)
        own = np.full(queries, -1) if own_rows is None else own_rows
        own = (query * self._photos + own)[own >= 0]
        self._number[own] = _RANKED  # so that it never becomes a candidate
        while len(query):
            candidates = [
                self._explore(query.take(part), near.take(part, axis=0), cosines.take(part, axis=0))
                for part in self._rounds(query, unfinished, near.shape[1])
            ]
            query, number = map(np.concatenate, zip(*candidates, strict=True))
            query, photos = self._exploit(unfinished, query, number)
            unfinished = unfinished[self._ranked[unfinished] < self._length]
            near, cosines = neighbours(photos)
        for row in range(queries):
            seen = slice(row * self._capacity, row * self._capacity + self._seen[row])
            self._number[row * self._photos + self._photo[seen]] = _UNSEEN
            self._cosine[seen] = -np.inf
        self._number[own] = _UNSEEN
        return self._rows, np.minimum.accumulate(self._scores, axis=1)

    def _rounds(
        self, query: np.ndarray, unfinished: np.ndarray, edges: int
    ) -> Iterator[np.ndarray]:
        """Yield neighbour lists to explore together: first few of each query, then more, then all.

        The bounds raised by the first rounds exclude most edges of the later ones.
        """
        place = _place_in_group(query, np.bincount(query, minlength=len(self._seen)))
        few = max(1, 2 * self._length // edges)
        for first, end in ((0, few), (few, 4 * few), (4 * few, len(query))):
            lists = np.flatnonzero((place >= first) & (place < end))
            if first and len(lists):
                self._bound(unfinished)
            for part in row_blocks(len(lists), _BLOCK_EDGES // edges):
                yield lists[part]

    def _explore(
        self, query: np.ndarray, near: np.ndarray, cosines: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Add the photos in the lists (L, k) of queries (L,) to the candidates.

        A photo that is already a candidate keeps the higher cosine.

        Returns:
            The candidates in the lists, possibly repeated: query (C,) and number (C,).
        """
        query, near, cosines = self._relevant_edges(query, near, cosines)
        at = query * self._photos + near  # index in self._number
        number = self._number.take(at)
        unseen = np.flatnonzero(number == _UNSEEN)
        unseen_at = at.take(unseen)
        # A photo may be in several lists of a query: in reversed order the first write wins.
        self._number[unseen_at[::-1]] = unseen[::-1]
        is_first = self._number.take(unseen_at) == unseen
        first = unseen.take(np.flatnonzero(is_first))
        of_query = query.take(first)
        count = np.bincount(of_query, minlength=len(self._seen))
        new = self._seen.take(of_query) + _place_in_group(of_query, count)
        self._number[at.take(first)] = new
        self._photo[of_query * self._capacity + new] = near.take(first)
        self._cosine[of_query * self._capacity + new] = cosines.take(first)
        self._seen += count

        again = number >= 0
        again[unseen.take(np.flatnonzero(~is_first))] = True
        again = np.flatnonzero(again)
        query_again, old = query.take(again), self._number.take(at.take(again))
        np.maximum.at(self._cosine, query_again * self._capacity + old, cosines.take(again))
        return np.concatenate([of_query, query_again]), np.concatenate([new, old])

    def _relevant_edges(
        self, query: np.ndarray, near: np.ndarray, cosines: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the edges above the bounds: query, photo and cosine, all (E,)."""
        is_relevant = cosines >= self._least.take(query)[:, None]
        query = np.repeat(query, near.shape[1])
        near, cosines = near.ravel(), cosines.ravel()
        if not is_relevant.all():
            edges = np.flatnonzero(is_relevant)
            query, near, cosines = query.take(edges), near.take(edges), cosines.take(edges)
        # Adding 0 turns -0, whose bits sort wrongly, into 0.
        return query, near, np.maximum(cosines, 0) + np.float32(0)

    def _exploit(
        self, unfinished: np.ndarray, query: np.ndarray, number: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rank the candidates above the threshold, or only the best one if no cosine exceeds it.

        Only the candidates (C,) of the last exploration can be above: others were ranked before.

        Returns:
            The photos ranked for queries whose ranking is not yet full: query (P,) ascending, and
            photo (P,) in ranked order.
        """
        query, ranked = self._descending(query, number)
        others = unfinished[np.bincount(query, minlength=len(self._seen))[unfinished] == 0]
        query = np.concatenate([query, others])
        ranked = np.concatenate([ranked, self._best(others)])
        order = np.argsort(query, kind="stable")
        query, ranked = query.take(order), ranked.take(order)
        count = np.bincount(query, minlength=len(self._seen))
        place = self._ranked.take(query) + _place_in_group(query, count)
        good = np.flatnonzero((place < self._length) & (self._cosine.take(ranked) > -np.inf))
        query, ranked, place = query.take(good), ranked.take(good), place.take(good)
        photos = self._photo.take(ranked)
        self._rows[query, place] = photos
        self._scores[query, place] = self._cosine.take(ranked)
        self._cosine[ranked] = -np.inf
        self._number[query * self._photos + photos] = _RANKED
        self._ranked += np.bincount(query, minlength=len(self._ranked))
        self._bound(unfinished[self._ranked[unfinished] < self._length])
        is_open = np.flatnonzero(self._ranked.take(query) < self._length)
        return query.take(is_open), photos.take(is_open)

    def _descending(self, query: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sort the candidates above the threshold by query, descending cosine and number.

        The sort key is one integer: query, inverted bits of the cosine, number. Duplicates are
        dropped.

        Returns:
            Queries (P,) and positions of the candidates in `_cosine` (P,).
        """
        cosines = self._cosine.take(query * self._capacity + number)
        above = np.flatnonzero(cosines > self._threshold)
        bits = np.uint64(self._capacity.bit_length())
        keys = query.take(above).astype(np.uint64) << np.uint64(31)
        keys |= np.uint64(2**31 - 1) - cosines.take(above).view(np.uint32)
        keys <<= bits
        keys |= number.take(above).astype(np.uint64)
        keys.sort()
        keys = keys[np.append(True, keys[1:] != keys[:-1])[: len(keys)]]
        query = (keys >> (np.uint64(31) + bits)).astype(np.int64)
        number = (keys & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
        return query, query * self._capacity + number

    def _best(self, query: np.ndarray) -> np.ndarray:
        """Return the position in `_cosine` of each query's best candidate; -inf if it has none."""
        most = max(1, self._seen.max())
        cosines = self._cosine.reshape(self._block_size, self._capacity)[query, :most]
        return query * self._capacity + cosines.argmax(axis=1)

    def _bound(self, unfinished: np.ndarray) -> None:
        """Raise the bounds of the queries that got many candidates since their last update.

        With r ranks left to fill, no candidate below the r-th highest cosine can be ranked.
        """
        left = self._length - self._ranked[unfinished]
        new = self._seen[unfinished] - np.maximum(self._ranked, self._seen_at_bound)[unfinished]
        many = new >= np.maximum(left, _MANY_CANDIDATES)
        for query, count in zip(unfinished[many], left[many], strict=True):
            first = query * self._capacity
            cosines = self._cosine[first : first + self._seen[query]]
            self._least[query] = np.partition(cosines, len(cosines) - count)[len(cosines) - count]
            self._seen_at_bound[query] = self._seen[query]


def _place_in_group(group: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return the position of each item within its group, from 0.

    Args:
        group: Group of each item, (P,), ascending.
        count: Number of items of each group.
    """
    return np.arange(len(group)) - (np.cumsum(count) - count).take(group)
