"""Several traversals of explore-exploit side by side, each at its own pace."""

from collections.abc import Callable, Iterator

import numpy as np

Neighbours = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
_UNSEEN, _RANKED = -1, -2
_TABLE = 2**26  # entries of the table of candidates: 256 MB
_MOST_AT_ONCE = 1024
_EDGES_AT_ONCE = 2**16  # what the processor's cache holds
_GROWN = 32


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
        neighbours: Gives the nearest (P, k) and their cosines (P, k) of photos (P,).
        photos: N of the gallery.
        length: Photos to rank for a query.
        threshold: Cosine above which candidates are ranked together.

    Returns:
        Photos (Q, length) int32 in the order ranked, -1 pads, and scores (Q, length) float32.
    """
    rows = np.empty((len(near), length), np.int32)
    scores = np.empty((len(near), length), np.float32)
    at_once = max(1, min(_MOST_AT_ONCE, len(near), _TABLE // photos))
    traversal = Traversal(photos, length, near.shape[1], threshold, at_once)
    for first in range(0, len(near), at_once):
        part = slice(first, first + at_once)
        rows[part], scores[part] = traversal(near[part], cosines[part], neighbours)
    return rows, scores


class Traversal:
    """Explore-exploit graph traversal from some queries at once (see `EGT`).

    Args:
        photos: N of the gallery.
        length: Photos to rank for a query.
        edges: k, edges of a query or photo.
        threshold: Cosine above which candidates are ranked together.
        at_once: Queries of a call at most.
    """

    def __init__(
        self, photos: int, length: int, edges: int, threshold: float, at_once: int
    ) -> None:
        self._photos, self._length, self._threshold = photos, length, threshold
        self._room = min(edges * (length + 1), photos)  # candidates of a query at most
        self._at_once = at_once
        # For each query the number of a photo among its candidates; by number the photo and its
        # cosine, -inf once ranked. Flat, as numpy looks up faster so.
        self._number = np.full(self._at_once * photos, _UNSEEN, np.int32)
        self._photo = np.empty(self._at_once * self._room, np.int32)
        self._cosine = np.full(self._at_once * self._room, -np.inf, np.float32)

    def __call__(
        self, near: np.ndarray, cosines: np.ndarray, neighbours: Neighbours
    ) -> tuple[np.ndarray, np.ndarray]:
        """Traverse from B queries.

        Args:
            near: Their nearest gallery photos, (B, k); -1 is none.
            cosines: Theirs, (B, k); -inf at -1.
            neighbours: Gives the nearest (P, k) and their cosines (P, k) of photos (P,).

        Returns:
            Photos (B, length) int32 in the order ranked, -1 pads, and scores (B, length) float32.
        """
        queries = len(near)
        self._rows = np.full((queries, self._length), -1, np.int32)
        self._scores = np.full((queries, self._length), -np.inf, np.float32)
        self._ranked = np.zeros(queries, np.int64)
        self._seen = np.zeros(queries, np.int64)
        # A cosine that so many candidates have that no lower one will ever be ranked; at first any,
        # but for the -inf of pads.
        self._least = np.full(queries, np.finfo(np.float32).min)
        self._seen_then = np.zeros(queries, np.int64)
        going = query = np.arange(queries)
        while len(query):
            met = [
                self._explore(query.take(some), near.take(some, axis=0), cosines.take(some, axis=0))
                for some in self._rounds(query, going, near.shape[1])
            ]
            query, photos = self._exploit(going, *map(np.concatenate, zip(*met, strict=True)))
            going = going[self._ranked[going] < self._length]
            near, cosines = neighbours(photos)
        for row in range(queries):
            seen = slice(row * self._room, row * self._room + self._seen[row])
            self._number[row * self._photos + self._photo[seen]] = _UNSEEN
            self._cosine[seen] = -np.inf
        return self._rows, np.minimum.accumulate(self._scores, axis=1)

    def _rounds(self, query: np.ndarray, going: np.ndarray, edges: int) -> Iterator[np.ndarray]:
        """Which lists to look at together: the first of every query, then more, then the rest.

        What the first ones hold tells how little the others need to be looked at.
        """
        place = _place_in_group(query, np.bincount(query, minlength=len(self._seen)))
        few = max(1, 2 * self._length // edges)
        for first, end in ((0, few), (few, 4 * few), (4 * few, len(query))):
            lists = np.flatnonzero((place >= first) & (place < end))
            if first and len(lists):
                self._bound(going)
            at_once = max(1, _EDGES_AT_ONCE // edges)
            for start in range(0, len(lists), at_once):
                yield lists[start : start + at_once]

    def _explore(
        self, query: np.ndarray, near: np.ndarray, cosines: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Make photos candidates, or raise their cosines.

        Args:
            query: Whose traversal each list belongs to, (L,) ascending.
            near: (L, k) photos; -1 is none.
            cosines: (L, k); -inf at -1.

        Returns:
            The candidates that are new or were met again, some maybe often: query (C,) and number
            (C,).
        """
        query, near, cosines = self._worth(query, near, cosines)
        at = query * self._photos + near  # in the table
        number = self._number.take(at)
        unseen = np.flatnonzero(number == _UNSEEN)
        unseen_at = at.take(unseen)
        # A photo may stand in several lists of a query; what is written last is its first place.
        self._number[unseen_at[::-1]] = unseen[::-1]
        is_first = self._number.take(unseen_at) == unseen
        first = unseen.take(np.flatnonzero(is_first))
        asked = query.take(first)
        count = np.bincount(asked, minlength=len(self._seen))
        new = self._seen.take(asked) + _place_in_group(asked, count)
        self._number[at.take(first)] = new
        self._photo[asked * self._room + new] = near.take(first)
        self._cosine[asked * self._room + new] = cosines.take(first)
        self._seen += count

        again = number >= 0
        again[unseen.take(np.flatnonzero(~is_first))] = True
        again = np.flatnonzero(again)
        asked_again, old = query.take(again), self._number.take(at.take(again))
        np.maximum.at(self._cosine, asked_again * self._room + old, cosines.take(again))
        return np.concatenate([asked, asked_again]), np.concatenate([new, old])

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
        # The 0 that is added leaves no -0, whose bits would not sort.
        return query, near, np.maximum(cosines, 0) + np.float32(0)

    def _exploit(
        self, going: np.ndarray, query: np.ndarray, number: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rank the candidates above the threshold; where a query has none, its best one.

        Only candidates just met can be above: the others were ranked before.

        Args:
            going: Queries whose ranking is not full, ascending.
            query: Of the candidates met, (C,).
            number: Theirs, (C,).

        Returns:
            What was ranked for queries that go on: query (P,) ascending, and photo (P,) in order.
        """
        query, ranked = self._falling(query, number)
        alone = going[np.bincount(query, minlength=len(self._seen))[going] == 0]
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
        self._bound(going[self._ranked[going] < self._length])
        on = np.flatnonzero(self._ranked.take(query) < self._length)
        return query.take(on), photos.take(on)

    def _falling(self, query: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Candidates above the threshold, each once, by query, falling cosine, and number.

        Sorted as one integer each: query, the bits of the cosine turned round, number.

        Returns:
            Queries (P,) and where the candidates' cosines stand (P,).
        """
        cosines = self._cosine.take(query * self._room + number)
        above = np.flatnonzero(cosines > self._threshold)
        bits = np.uint64(self._room.bit_length())
        keys = query.take(above).astype(np.uint64) << np.uint64(31)
        keys |= np.uint64(2**31 - 1) - cosines.take(above).view(np.uint32)
        keys <<= bits
        keys |= number.take(above).astype(np.uint64)
        keys.sort()
        keys = keys[np.append(True, keys[1:] != keys[:-1])[: len(keys)]]
        query = (keys >> (np.uint64(31) + bits)).astype(np.int64)
        number = (keys & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
        return query, query * self._room + number

    def _best(self, query: np.ndarray) -> np.ndarray:
        """Flat number of the best candidate of some queries, one of cosine -inf where none is."""
        wide = max(1, self._seen.max())
        cosines = self._cosine.reshape(self._at_once, self._room)[query, :wide]
        return query * self._room + cosines.argmax(axis=1)

    def _bound(self, going: np.ndarray) -> None:
        """Raise the bounds of some queries, each when many candidates came since the last time.

        As many candidates as there are places left keep all that are below them out.
        """
        places = self._length - self._ranked[going]
        new = self._seen[going] - np.maximum(self._ranked, self._seen_then)[going]
        many = new >= np.maximum(places, _GROWN)
        for query, left in zip(going[many], places[many], strict=True):
            first = query * self._room
            cosines = self._cosine[first : first + self._seen[query]]
            self._least[query] = np.partition(cosines, len(cosines) - left)[len(cosines) - left]
            self._seen_then[query] = self._seen[query]


def _place_in_group(group: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Place of each within its group, from 0, of groups (P,) ascending with so many each."""
    return np.arange(len(group)) - (np.cumsum(count) - count).take(group)
