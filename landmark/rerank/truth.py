"""Ground truth in the order of the stores, and the figures a ranking earns by it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from landmark.error import UserError
from landmark.metric import gldv2, revisited
from landmark.metric.relevance import hits_by_label
from landmark.rerank.stores import Stores
from landmark.rerank.voting import landmark_codes
from landmark.search.index import Index

if TYPE_CHECKING:
    from landmark.data.image_table import ImageTable
    from landmark.data.source import Source


_RESULTS_AT_ONCE = 2**22


class Judgement(NamedTuple):
    """What rankings earn.

    Attributes:
        figures: Name → value over all queries.
        precisions: Name of a mean average precision among them → the average precision of each
            query, (Q,), NaN for one that has no answer.
    """

    figures: dict[str, float]
    precisions: dict[str, np.ndarray]


class Truth(ABC):
    """Measures rankings.

    Attributes:
        labels: The mean average precisions to show, name → words.
        headline: The one of them that matters most.
        distractors: Gallery photos of which nothing is known: they answer no query.
    """

    labels: Mapping[str, str]
    headline: str
    distractors: int

    @abstractmethod
    def judge(self, rows: np.ndarray) -> Judgement:
        """The figures of rankings (Q, K) of gallery rows, -1 pads, and those of each query."""

    def measure(self, rows: np.ndarray) -> dict[str, float]:
        """The figures of rankings (Q, K) of gallery rows, -1 pads."""
        return self.judge(rows).figures

    @abstractmethod
    def kinds(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """What each result is to its query, (q, K) words; "" at the pads.

        Args:
            queries: Rows of the query store, (q,).
            rows: What they found, (q, K).
        """

    def nearest_accuracy(self, stores: Stores, train_index: Index) -> float | None:
        """Share of queries whose nearest train photo shows their landmark; None: not known."""
        del stores, train_index
        return None


class LandmarkTruth(Truth):
    """A gallery photo answers a query that shows its landmark.

    Args:
        query: Landmark of each query, (Q,); None, NaN or empty where unknown.
        gallery: Landmark of each gallery photo, (N,), likewise.

    Raises:
        UserError: No query has an answer in the gallery.
    """

    def __init__(self, query: np.ndarray, gallery: np.ndarray) -> None:
        self.labels = {"map_at_100": "mAP@100"}
        self.headline = "map_at_100"
        self._query_landmarks = np.asarray(query, object)
        codes = landmark_codes(np.concatenate([self._query_landmarks, gallery]))
        self._query, gallery_codes = codes[: len(query)], codes[len(query) :]
        # A code of its own for unknown gallery photos: they answer no unknown query.
        self._gallery = np.where(gallery_codes < 0, -2, gallery_codes)
        self.distractors = int((gallery_codes < 0).sum())
        if not np.isin(self._query, self._gallery).any():
            raise UserError("no query's landmark is in the gallery: these stores do not fit")

    def judge(self, rows: np.ndarray) -> Judgement:
        """`map_at_100`, `precision_at_10`, `top_1` over the queries that have an answer."""
        hits, relevant = hits_by_label(rows[:, :100], self._query, self._gallery)
        precisions = gldv2.average_precision_at_k(hits, relevant, k=100)
        hits = hits[relevant > 0]
        figures = {
            "map_at_100": float(precisions[relevant > 0].mean()),
            "precision_at_10": float(gldv2.precision_at_k(hits, k=10).mean()),
            "top_1": float(hits[:, 0].mean()),
        }
        return Judgement(figures, {"map_at_100": precisions})

    def kinds(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """`right`, `wrong`, or `unknown` where one of the two has no landmark, (q, K)."""
        asked, shown = self._query[queries, None], self._gallery[np.maximum(rows, 0)]
        cases = [rows < 0, (asked < 0) | (shown < 0), asked == shown]
        return np.select(cases, ["", "unknown", "right"], "wrong")

    def nearest_accuracy(self, stores: Stores, train_index: Index) -> float | None:
        """Share of the queries of known landmark whose nearest train photo shows it."""
        if stores.train is None or stores.train.landmark_ids is None:
            return None
        nearest, _ = train_index.search(stores.query.vectors, 1)
        right = self._query_landmarks == stores.train.landmark_ids.astype(object)[nearest[:, 0]]
        return float(right[self._query >= 0].mean())


class RevisitedTruth(Truth):
    """ROxford and RParis: lists of easy, hard and junk photos for each query.

    Args:
        ground_truth: For each query of the store, the rows of the data's gallery table that are
            `easy`, `hard` and `junk`.
        positions: Row in the data's gallery table of each photo of the gallery store, (N,); -1
            for a distractor.
    """

    def __init__(self, ground_truth: Sequence[Mapping[str, Any]], positions: np.ndarray) -> None:
        self.labels = {name: f"{name} mAP" for name in ("easy", "medium", "hard")}
        self.headline = "medium"
        self._ground_truth = ground_truth
        self.distractors = int((positions < 0).sum())
        beyond = positions.max(initial=-1) + 1 + np.arange(len(positions))  # in no list
        self._positions = np.where(positions < 0, beyond, positions)

    def judge(self, rows: np.ndarray) -> Judgement:
        """The mAP under the protocols `easy`, `medium` and `hard`."""
        precisions = {protocol: np.full(len(rows), np.nan) for protocol in self.labels}
        at_once = max(1, _RESULTS_AT_ONCE // max(1, rows.shape[1]))
        for first in range(0, len(rows), at_once):
            part = slice(first, first + at_once)
            found = revisited.evaluate(self._in_table(rows[part]), self._ground_truth[part])
            for protocol, values in precisions.items():
                values[part] = found[protocol]["average_precision"]
        counted = {name: values[~np.isnan(values)] for name, values in precisions.items()}
        figures = {name: float(v.mean()) if len(v) else 0.0 for name, v in counted.items()}
        return Judgement(figures, precisions)

    def kinds(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """`easy`, `hard`, `junk` or `wrong`, (q, K); a photo in two lists is the first of these."""
        ranked = self._in_table(rows)
        kinds = np.full(rows.shape, "wrong", "<U7")
        for place, query in enumerate(queries):
            for kind in ("junk", "hard", "easy"):
                kinds[place, np.isin(ranked[place], self._ground_truth[query][kind])] = kind
        kinds[rows < 0] = ""
        return kinds

    def _in_table(self, rows: np.ndarray) -> np.ndarray:
        """Rows of the store as rows of the data's gallery table, -1 pads kept."""
        return np.where(rows < 0, -1, self._positions[np.maximum(rows, 0)])


def truth_of(stores: Stores, source: "Source | None" = None) -> Truth | None:
    """What is known of the queries' answers, by the stores' own landmarks or a set's.

    Args:
        stores: Of queries and gallery.
        source: Set of photos with ground truth or landmarks; none: the stores' landmarks.

    Returns:
        None where nothing is known.

    Raises:
        UserError: The set does not fit the stores, or knows nothing of them.
    """
    query, gallery = stores.query, stores.gallery
    if source is None:
        if query.landmark_ids is None or gallery.landmark_ids is None:
            return None
        return LandmarkTruth(query.landmark_ids, gallery.landmark_ids)
    asked, searched = source.read("query"), source.read("gallery")
    at_query, at_gallery = _positions(asked, query.ids), _positions(searched, gallery.ids)
    if (at_query < 0).any():
        raise UserError(f"{query.path}: {query.ids[at_query.argmin()]!r} is no query of the data")
    if asked.ground_truth is None:
        return LandmarkTruth(_landmarks(asked, at_query), _landmarks(searched, at_gallery))
    absent = np.setdiff1d(np.arange(len(searched)), at_gallery)
    if len(absent):
        raise UserError(
            f"{gallery.path}: lacks {len(absent):,} photos of the data's gallery, such as "
            f"{searched.rows['id'].iloc[absent[0]]!r}: extract all of it"
        )
    return RevisitedTruth([asked.ground_truth[row] for row in at_query], at_gallery)


def _positions(table: "ImageTable", ids: np.ndarray) -> np.ndarray:
    """Row of each id in a table, (N,); -1 where it is not there."""
    return pd.Index(table.rows["id"]).get_indexer(pd.Index(ids))


def _landmarks(table: "ImageTable", positions: np.ndarray) -> np.ndarray:
    """Landmark at each row of a table, (N,); None at -1."""
    if "landmark_id" not in table.rows:
        raise UserError(f"{table.root}: neither landmarks nor ground truth of these photos there")
    landmarks = table.rows["landmark_id"].to_numpy(object)[positions]
    landmarks[positions < 0] = None
    return landmarks
