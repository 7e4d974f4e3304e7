"""The value that re-rankers take and return."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from landmark.error import UserError
from landmark.search import Flat
from landmark.search.index import DeferredIndex, Index, Search
from landmark.verify.features import Features

# Name of the local features → those of each photo, by row.
LocalOfPhotos = Mapping[str, Sequence[Features]]


@dataclass(frozen=True, eq=False)
class Retrieval:
    """Queries, gallery and ranking. Immutable: re-rankers return a new retrieval.

    Attributes:
        query: Query descriptors, (Q, D), unit rows.
        gallery: Gallery descriptors, (N, D), unit rows; may be memory-mapped, float16 or float32.
        rows: Gallery rows ranked for each query, best first, (Q, K); -1 pads at the end.
        scores: Scores of the rows, higher is better, (Q, K); -inf at the pads.
        index: Index of the gallery. Defaults to an exact index, built at its first search.
        train: Descriptors of photos with known landmarks, (N_t, D). Defaults to None.
        train_landmark_ids: Landmarks of the train photos, (N_t,), strings or numbers.
        train_index: Index of the train photos, shared by all steps. Defaults to an index with the
            settings of `index`, built at its first search.
        query_ids: Ids of the queries, (Q,) strings. Defaults to None.
        gallery_ids: Ids of the gallery photos, (N,) strings. Defaults to None.
        own_rows: Gallery row of each query's own photo, (Q,), which is never one of its results; -1
            for none. Defaults to None, no query is in the gallery.
        own_train_rows: Train row of each query's own photo, (Q,), which does not vote on it.
        query_local: Local features of the queries, name → sequence of Q photos, for re-rankers that
            need them.
        gallery_local: Local features of the gallery photos, name → sequence of N photos.
        earlier: Rankings of earlier steps, recorded only if a re-ranker needs them: name → rows and
            scores, the latest last.

    Raises:
        ValueError: The shapes do not match.

    Example:
        >>> photos = np.eye(2, dtype=np.float32)
        >>> retrieval = Retrieval.from_search(photos, photos, k=2, search=Flat())
        >>> retrieval.rows.tolist(), retrieval.scores.tolist()
        ([[0, 1], [1, 0]], [[1.0, 0.0], [1.0, 0.0]])
    """

    query: np.ndarray
    gallery: np.ndarray
    rows: np.ndarray
    scores: np.ndarray
    index: Index = None  # type: ignore[assignment] # until __post_init__
    train: np.ndarray | None = None
    train_landmark_ids: np.ndarray | None = None
    train_index: Index | None = None
    query_ids: np.ndarray | None = None
    gallery_ids: np.ndarray | None = None
    own_rows: np.ndarray | None = None
    own_train_rows: np.ndarray | None = None
    query_local: LocalOfPhotos = field(default_factory=dict)
    gallery_local: LocalOfPhotos = field(default_factory=dict)
    earlier: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rows.shape != self.scores.shape or len(self.rows) != len(self.query):
            raise ValueError(
                f"rows {self.rows.shape}, scores {self.scores.shape} and query "
                f"{self.query.shape} do not match"
            )
        if self.query.shape[1] != self.gallery.shape[1]:
            raise ValueError(f"query {self.query.shape} and gallery {self.gallery.shape} differ")
        if (self.train is None) != (self.train_landmark_ids is None):
            raise ValueError("train and train_landmark_ids must be passed together")
        if self.index is None:
            object.__setattr__(self, "index", DeferredIndex(self.gallery, Flat()))
        if self.index.gallery.shape != self.gallery.shape:
            raise ValueError(
                f"index of {self.index.gallery.shape} and gallery {self.gallery.shape} differ"
            )
        if self.train_index is None or self.train_index.gallery is not self.train:
            index = None if self.train is None else DeferredIndex(self.train, self.index.settings)
            object.__setattr__(self, "train_index", index)

    @classmethod
    def from_search(
        cls,
        query: np.ndarray,
        gallery: np.ndarray,
        k: int,
        search: Search,
        train: np.ndarray | None = None,
        train_landmark_ids: np.ndarray | None = None,
        query_ids: np.ndarray | None = None,
        gallery_ids: np.ndarray | None = None,
        own_rows: np.ndarray | None = None,
        own_train_rows: np.ndarray | None = None,
        query_local: LocalOfPhotos | None = None,
        gallery_local: LocalOfPhotos | None = None,
    ) -> "Retrieval":
        """Index a gallery and search it for the top k of each query.

        Args:
            query: (Q, D).
            gallery: (N, D).
            k: Results per query.
            search: Search that builds the index.
            train: (N_t, D).
            train_landmark_ids: (N_t,).
            query_ids: (Q,).
            gallery_ids: (N,).
            own_rows: (Q,).
            own_train_rows: (Q,).
            query_local: Name → sequence of Q photos.
            gallery_local: Name → sequence of N photos.
        """
        index = search.build(gallery)
        rows, scores = index.search_others(query, k, own_rows)
        retrieval = cls(query, gallery, rows, scores, index, train, train_landmark_ids)
        return replace(
            retrieval,
            query_ids=query_ids,
            gallery_ids=gallery_ids,
            own_rows=own_rows,
            own_train_rows=own_train_rows,
            query_local=query_local or {},
            gallery_local=gallery_local or {},
        )

    def searched(
        self, query: np.ndarray | None = None, gallery: np.ndarray | None = None
    ) -> "Retrieval":
        """Search again for the same number of results, with new queries or a new gallery.

        Args:
            query: New queries, (Q, D). Defaults to the current queries.
            gallery: New descriptors of the same gallery photos, (N, D). Defaults to the current
                gallery. A new index with the same settings replaces the current index.

        Example:
            >>> photos = np.eye(2, dtype=np.float32)
            >>> retrieval = Retrieval.from_search(photos, photos, k=1, search=Flat())
            >>> retrieval.searched(query=photos[::-1]).rows.tolist()
            [[1], [0]]
            >>> retrieval.searched(gallery=photos[::-1]).rows.tolist()
            [[1], [0]]
        """
        index = self.index if gallery is None else self.index.settings.build(gallery)
        query = self.query if query is None else query
        gallery = self.gallery if gallery is None else gallery
        rows, scores = index.search_others(query, self.rows.shape[1], self.own_rows)
        return replace(self, query=query, gallery=gallery, rows=rows, scores=scores, index=index)

    def with_ranking(self, rows: np.ndarray, scores: np.ndarray) -> "Retrieval":
        """Return the retrieval with new rows (Q, K) and scores (Q, K)."""
        return replace(self, rows=rows, scores=scores)

    def remembered(self, name: str) -> "Retrieval":
        """Return the retrieval with its ranking recorded in `earlier` under a step's name."""
        return replace(self, earlier={**self.earlier, name: (self.rows, self.scores)})


def local_of(local: LocalOfPhotos, name: str, purpose: str) -> Sequence[Features]:
    """Return the local features of a name.

    Args:
        local: Local features of the queries or of the gallery.
        name: Name of the local features.
        purpose: Who needs them, for the message.

    Raises:
        UserError: The retrieval has no local features of this name.

    Example:
        >>> local_of({}, "patches", "rerank.chamfer compares")
        Traceback (most recent call last):
        landmark.error.UserError: the retrieval has no local features 'patches', which ...
    """
    if name not in local:
        raise UserError(
            f"the retrieval has no local features {name!r}, which {purpose}. "
            "Pass query_local and gallery_local."
        )
    return local[name]
