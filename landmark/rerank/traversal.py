"""Several explore-exploit traversals side by side, each at its own pace."""

from collections.abc import Callable, Iterator

import numpy as np

from landmark.artifact.vectors import row_blocks

Neighbours = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
_UNSEEN, _RANKED = -1, -2
_TABLE = 2**26  # entries of the table of candidates: 256 MB
_MOST_QUERIES = 1024
_BLOCK_EDGES = 2**16  # fit the processor's cache
_MANY_CANDIDATES = 32


def traverse(
    near: np.ndarray,
    cosines: np.ndarray,
    neighbours: Neighbours,
    photos: int,
    length: int,
    threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Traverse from all queries.

    Args:
        near: Nearest gallery photos of each query, (Q, k); -1 is none.
        cosines: Theirs, (Q, k).
        neighbours: Maps photos (P,) to their nearest (P, k) and the cosines (P, k).
        photos: N of the gallery.
        length: Photos to rank for a query.
        threshold: Cosine above which candidates are ranked together.

    Returns:
        Photos (Q, length) int32 in the order ranked, -1 pads, and scores (Q, length) float32.

    Example:
        >>> near, cosines = np.array([[1, 2], [0, 2], [0, 1]]), np.array([[0.9, 0.2]] * 3)
        >>> start, weights = np.array([[2, 0]]), np.array([[0.8, 0.3]], np.float32)
        >>> lists = lambda photos: (near[photos], cosines[photos].astype(np.float32))
        >>> traverse(start, weights, lists, photos=3, length=3, threshold=0.5)[0].tolist()
        [[2, 0, 1]]
    """
    rows = np.empty((len(near), length), np.int32)
    scores = np.empty((len(near), length), np.float32)
    block_size = max(1, min(_MOST_QUERIES, len(near), _TABLE // photos))
    traversal = Traversal(photos, length, near.shape[1], threshold, block_size)
    for part in row_blocks(len(near), block_size):
        rows[part], scores[part] = traversal(near[part], cosines[part], neighbours)
    return rows, scores


class Traversal:
    """Explore-exploit graph traversal from some queries together (see `EGT`).

    Args:
        photos: N of the gallery.
        length: Photos to rank for a query.
        edges: k, edges of a query or photo.
        threshold: Cosine above which candidates are ranked together.
        block_size: Most queries of a call.
    """

    def __init__(
        self, photos: int, length: int, edges: int, threshold: float, block_size: int
    ) -> None:
        self._photos, self._length, self._threshold = photos, length, threshold
        self._capacity = min(edges * (length + 1), photos)  # most candidates of a query
        self._block_size = block_size
        # For each query the number of a photo among its candidates; by number the photo and its
        # cosine, -inf once ranked. Flat, as numpy looks up flat arrays faster.
        self._number = np.full(self._block_size * photos, _UNSEEN, np.int32)
        self._photo = np.empty(self._block_size * self._capacity, np.int32)
        self._cosine = np.full(self._block_size * self._capacity, -np.inf, np.float32)

    def __call__(
        self, near: np.ndarray, cosines: np.ndarray, neighbours: Neighbours
    ) -> tuple[np.ndarray, np.ndarray]:
        """Traverse from B queries; arguments and results as of `traverse`."""
        queries = len(near)
        self._rows = np.full((queries, self._length), -1, np.int32)
        self._scores = np.full((queries, self._length), -np.inf, np.float32)
        self._ranked = np.zeros(queries, np.int64)
        self._seen = np.zeros(queries, np.int64)
        # Lower cosines will never be ranked, as enough candidates have higher ones; at first all
        # but the -inf of pads may be.
        self._least = np.full(queries, np.finfo(np.float32).min)
        self._seen_then = np.zeros(queries, np.int64)
        unfinished = query = np.arange(queries)
        while len(query):
            met = [
                self._explore(query.take(some), near.take(some, axis=0), cosines.take(some, axis=0))
                for some in self._rounds(query, unfinished, near.shape[1])
            ]
            query, photos = self._exploit(unfinished, *map(np.concatenate, zip(*met, strict=True)))
            unfinished = unfinished[self._ranked[unfinished] < self._length]
            near, cosines = neighbours(photos)
        for row in range(queries):
            seen = slice(row * self._capacity, row * self._capacity + self._seen[row])
            self._number[row * self._photos + self._photo[seen]] = _UNSEEN
            self._cosine[seen] = -np.inf
        return self._rows, np.minimum.accumulate(self._scores, axis=1)

    def _rounds(
        self, query: np.ndarray, unfinished: np.ndarray, edges: int
    ) -> Iterator[np.ndarray]:
        """Yield the lists to explore together: the first of every query, then more, then the rest.

        The bounds raised by the first ones leave out most of the others' edges.
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
        """Make photos of the lists (L, k) of queries (L,) candidates, or raise their cosines.

        Returns:
            The candidates met, possibly several times: query (C,) and number (C,).
        """
        query, near, cosines = self._worth(query, near, cosines)
        at = query * self._photos + near  # in the table
        number = self._number.take(at)
        unseen = np.flatnonzero(number == _UNSEEN)
        unseen_at = at.take(unseen)
        # A photo may be in several lists of a query; its first place is written last, and stays.
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

    def _worth(
        self, query: np.ndarray, near: np.ndarray, cosines: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The edges that can still matter: query, photo and cosine, all (E,)."""
        worth = cosines >= self._least.take(query)[:, None]
        query = np.repeat(query, near.shape[1])
        near, cosines = near.ravel(), cosines.ravel()
        if not worth.all():
            edges = np.flatnonzero(worth)
            query, near, cosines = query.take(edges), near.take(edges), cosines.take(edges)
        # Adding 0 turns -0, whose bits would not sort, into 0.
        return query, near, np.maximum(cosines, 0) + np.float32(0)

    def _exploit(
        self, unfinished: np.ndarray, query: np.ndarray, number: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rank the candidates above the threshold; where a query has none, its best one.

        Only candidates just met, (C,), can be above: the others were ranked before.

        Returns:
            What was ranked for queries whose ranking is still not full: query (P,) ascending, and
            photo (P,) in order.
        """
        query, ranked = self._descending(query, number)
        alone = unfinished[np.bincount(query, minlength=len(self._seen))[unfinished] == 0]
        query, ranked = np.concatenate([query, alone]), np.concatenate([ranked, self._best(alone)])
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
        on = np.flatnonzero(self._ranked.take(query) < self._length)
        return query.take(on), photos.take(on)

    def _descending(self, query: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Candidates above the threshold, each once, by query, descending cosine, and number.

        Sorted as one integer each: query, the bits of the cosine inverted, number. Returns queries
        (P,) and the places of the candidates' cosines (P,).
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
        """Flat number of the best candidate of some queries, one of cosine -inf where none is."""
        wide = max(1, self._seen.max())
        cosines = self._cosine.reshape(self._block_size, self._capacity)[query, :wide]
        return query * self._capacity + cosines.argmax(axis=1)

    def _bound(self, unfinished: np.ndarray) -> None:
        """Raise the bounds of some queries, each when many candidates came since the last time.

        As many candidates as there are places left exclude all that are below them.
        """
        places = self._length - self._ranked[unfinished]
        new = self._seen[unfinished] - np.maximum(self._ranked, self._seen_then)[unfinished]
        many = new >= np.maximum(places, _MANY_CANDIDATES)
        for query, left in zip(unfinished[many], places[many], strict=True):
            first = query * self._capacity
            cosines = self._cosine[first : first + self._seen[query]]
            self._least[query] = np.partition(cosines, len(cosines) - left)[len(cosines) - left]
            self._seen_then[query] = self._seen[query]


def _place_in_group(group: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Place of each within its group, from 0, of groups (P,) ascending with so many each."""
    return np.arange(len(group)) - (np.cumsum(count) - count).take(group)
