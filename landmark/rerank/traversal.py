"""Several traversals of explore-exploit side by side, each at its own pace."""

from collections.abc import Callable

import numpy as np

Neighbours = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
_UNSEEN, _RANKED = -1, -2
_TABLE = 2**25  # entries of the table of candidates: 128 MB
_MOST_AT_ONCE = 256


class Traversal:
    """Explore-exploit graph traversal from some queries at once (see `EGT`).

    Args:
        photos: N of the gallery.
        length: Photos to rank for a query.
        edges: k, edges of a query or photo.
        threshold: Cosine above which candidates are ranked together.

    Attributes:
        at_once: Queries of a call at most; bounds the memory.
    """

    def __init__(self, photos: int, length: int, edges: int, threshold: float) -> None:
        self._photos, self._length, self._threshold = photos, length, threshold
        self._room = min(edges * (length + 1), photos)  # candidates of a query at most
        self.at_once = max(1, min(_MOST_AT_ONCE, _TABLE // photos))
        # For each query the number of a photo among its candidates; by number the photo and its
        # cosine, -inf once ranked. Flat, as numpy looks up faster so.
        self._number = np.full(self.at_once * photos, _UNSEEN, np.int32)
        self._photo = np.empty(self.at_once * self._room, np.int32)
        self._cosine = np.full(self.at_once * self._room, -np.inf, np.float32)

    def __call__(
        self, near: np.ndarray, cosines: np.ndarray, neighbours: Neighbours
    ) -> tuple[np.ndarray, np.ndarray]:
        """Traverse from B queries.

        Args:
            near: Their nearest gallery photos, (B, k); -1 is none.
            cosines: Theirs, (B, k).
            neighbours: Gives the nearest (P, k) and their cosines (P, k) of photos (P,).

        Returns:
            Photos (B, length) int32 in the order ranked, -1 pads, and scores (B, length) float32.
        """
        queries = len(near)
        self._rows = np.full((queries, self._length), -1, np.int32)
        self._scores = np.full((queries, self._length), -np.inf, np.float32)
        self._ranked = np.zeros(queries, np.int64)
        self._seen = np.zeros(queries, np.int64)
        # A cosine that so many candidates have that no lower one will ever be ranked.
        self._least = np.full(queries, -np.inf, np.float32)
        self._seen_then = np.zeros(queries, np.int64)
        query = np.arange(queries)
        while len(query):
            # The 0 that is added leaves no -0, whose bits would not sort.
            met = self._explore(query, near, np.maximum(cosines, 0) + np.float32(0))
            query, photos = self._exploit(np.unique(query), met)
            near, cosines = neighbours(photos)
        for row in range(queries):
            seen = slice(row * self._room, row * self._room + self._seen[row])
            self._number[row * self._photos + self._photo[seen]] = _UNSEEN
            self._cosine[seen] = -np.inf
        return self._rows, np.minimum.accumulate(self._scores, axis=1)

    def _explore(self, query: np.ndarray, near: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        """Make photos candidates, or raise their cosines.

        Args:
            query: Whose traversal each list belongs to, (L,) ascending.
            near: (L, k) photos; -1 is none.
            cosines: (L, k).

        Returns:
            The candidates that are new or were met again, (C,) flat numbers, each maybe often.
        """
        worth = (cosines >= self._least[query, None]) & (near >= 0)
        query = np.repeat(query, np.count_nonzero(worth, axis=1))
        cosines = cosines[worth]
        at = query * self._photos + near[worth]  # in the table
        number = self._number.take(at)

        unseen = np.flatnonzero(number == _UNSEEN)
        new_at = at.take(unseen)
        # A photo may stand in several lists of a query; what is written last is its first place.
        self._number[new_at[::-1]] = unseen[::-1]
        first = np.flatnonzero(self._number.take(new_at) == unseen)
        new_at, new_query = new_at.take(first), query.take(unseen.take(first))
        count = np.bincount(new_query, minlength=len(self._seen))
        place = np.arange(len(first)) - (np.cumsum(count) - count - self._seen).take(new_query)
        self._number[new_at] = place
        self._photo[new_query * self._room + place] = new_at - new_query * self._photos
        self._seen += count

        number = self._number.take(at)
        open_ = np.flatnonzero(number != _RANKED)
        met = query.take(open_) * self._room + number.take(open_)
        np.maximum.at(self._cosine, met, cosines.take(open_))
        return met

    def _exploit(self, going: np.ndarray, met: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rank the candidates above the threshold; where a query has none, its best one.

        Only candidates just met can be above: the others were ranked before.

        Args:
            going: Queries whose ranking is not full, ascending.
            met: Flat numbers of the candidates met, (C,).

        Returns:
            What was ranked for queries that go on: query (P,) ascending, and photo (P,) in order.
        """
        query, above = self._falling(met[self._cosine.take(met) > self._threshold])
        alone = going[np.bincount(query, minlength=len(self._seen))[going] == 0]
        best = self._best(alone)
        query, ranked = np.concatenate([query, alone]), np.concatenate([above, best])
        order = np.argsort(query, kind="stable")
        query, ranked = query.take(order), ranked.take(order)
        place = self._ranked[query] + np.arange(len(query)) - np.searchsorted(query, query)
        good = np.flatnonzero((place < self._length) & (self._cosine.take(ranked) > -np.inf))
        query, ranked, place = query.take(good), ranked.take(good), place.take(good)
        photos = self._photo.take(ranked)
        self._rows[query, place] = photos
        self._scores[query, place] = self._cosine.take(ranked)
        self._cosine[ranked] = -np.inf
        self._number[query * self._photos + photos] = _RANKED
        self._ranked += np.bincount(query, minlength=len(self._ranked))
        self._bound(going[self._ranked[going] < self._length])
        on = np.flatnonzero(self._ranked[query] < self._length)
        return query.take(on), photos.take(on)

    def _falling(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each flat number once, by query, falling cosine, and number: queries and flat numbers.

        Sorted as one integer each: query, the bits of the cosine turned round, number.
        """
        bits = np.uint64(self._room.bit_length())
        query, number = (part.astype(np.uint64) for part in np.divmod(numbers, self._room))
        cosine = np.uint64(2**31 - 1) - self._cosine.take(numbers).view(np.uint32)
        keys = (query << np.uint64(31) | cosine) << bits | number
        keys.sort()
        keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)]]
        query = (keys >> (np.uint64(31) + bits)).astype(np.int64)
        number = (keys & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
        return query, query * self._room + number

    def _best(self, query: np.ndarray) -> np.ndarray:
        """Flat number of the best candidate of some queries, one of cosine -inf where none is."""
        wide = max(1, self._seen.max())
        cosines = self._cosine.reshape(self.at_once, self._room)[query, :wide]
        return query * self._room + cosines.argmax(axis=1)

    def _bound(self, going: np.ndarray) -> None:
        """Raise the bounds of some queries, each when many candidates came since the last time.

        As many candidates as there are places left keep all that are below them out.
        """
        places = self._length - self._ranked[going]
        many = self._seen[going] - np.maximum(self._ranked, self._seen_then)[going] >= places
        for query, left in zip(going[many], places[many], strict=True):
            first = query * self._room
            cosines = self._cosine[first : first + self._seen[query]]
            self._least[query] = np.partition(cosines, len(cosines) - left)[len(cosines) - left]
            self._seen_then[query] = self._seen[query]
