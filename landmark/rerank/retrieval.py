"""The value that re-rankers take and give."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from landmark.search import Flat

Search = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Retrieval:
    """Queries, the gallery, and the rows found; re-rankers make a new one and change nothing.

    Attributes:
        query: Query descriptors, (Q, D), unit rows.
        gallery: Gallery descriptors, (N, D), unit rows; may be memory-mapped, float16 or float32.
        rows: Gallery rows found for each query, best first, (Q, K); -1 pads at the end.
        scores: Their scores, higher is better, (Q, K); -inf at the pads.
        search: How to look again: search(query, gallery, k) gives rows (Q, k) and scores (Q, k).
        train: Descriptors of photos whose landmarks are known, (N_t, D), where there are any.
        train_landmark_ids: Their landmarks, (N_t,), strings or numbers.
        query_ids: Ids of the queries, (Q,) strings, where they are known.
        gallery_ids: Ids of the gallery, (N,) strings, likewise.
        earlier: What the steps before gave where a re-ranker asks for it: name → rows and scores,
            the last one's among them.

    Raises:
        ValueError: The shapes do not fit.
    """

    query: np.ndarray
    gallery: np.ndarray
    rows: np.ndarray
    scores: np.ndarray
    search: Search = field(default_factory=Flat)
    train: np.ndarray | None = None
    train_landmark_ids: np.ndarray | None = None
    query_ids: np.ndarray | None = None
    gallery_ids: np.ndarray | None = None
    earlier: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rows.shape != self.scores.shape or len(self.rows) != len(self.query):
            raise ValueError(
                f"rows {self.rows.shape}, scores {self.scores.shape} and query "
                f"{self.query.shape} do not fit"
            )
        if self.query.shape[1] != self.gallery.shape[1]:
            raise ValueError(f"query {self.query.shape} and gallery {self.gallery.shape} differ")
        if (self.train is None) != (self.train_landmark_ids is None):
            raise ValueError("train and train_landmark_ids come together")

    @classmethod
    def from_search(
        cls,
        query: np.ndarray,
        gallery: np.ndarray,
        k: int,
        search: Search,
        train: np.ndarray | None = None,
        train_landmark_ids: np.ndarray | None = None,
    ) -> "Retrieval":
        """The retrieval that a search gives: its k best for each query."""
        rows, scores = search(query, gallery, k)
        return cls(query, gallery, rows, scores, search, train, train_landmark_ids)

    def searched(
        self, query: np.ndarray | None = None, gallery: np.ndarray | None = None
    ) -> "Retrieval":
        """Look again, as many rows as before, with other queries or another gallery.

        Args:
            query: (Q, D) in place of the queries; none: the same.
            gallery: (N, D) in place of the gallery, its rows the same photos; none: the same.
        """
        query = self.query if query is None else query
        gallery = self.gallery if gallery is None else gallery
        rows, scores = self.search(query, gallery, self.rows.shape[1])
        return replace(self, query=query, gallery=gallery, rows=rows, scores=scores)

    def with_ranking(self, rows: np.ndarray, scores: np.ndarray) -> "Retrieval":
        """The same descriptors with other rows (Q, K) and scores (Q, K)."""
        return replace(self, rows=rows, scores=scores)

    def with_ids(self, query_ids: np.ndarray, gallery_ids: np.ndarray) -> "Retrieval":
        """The same with the ids of queries (Q,) and gallery (N,)."""
        return replace(self, query_ids=query_ids, gallery_ids=gallery_ids)

    def remembered(self, name: str) -> "Retrieval":
        """The same, its ranking kept under a step's name for the steps to come."""
        return replace(self, earlier={**self.earlier, name: (self.rows, self.scores)})
