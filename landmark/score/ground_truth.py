"""Ground truth in the order of the stores, and the metrics of rankings by it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.stacked import StackedStores
from landmark.error import UserError
from landmark.metric import gldv2, revisited
from landmark.metric.relevance import hits_by_label

if TYPE_CHECKING:  # imported only where data= is given
    from landmark.data.image_table import ImageTable

BLOCK_SIZE = 1 << 22  # results per block


class Evaluation(NamedTuple):
    """The metrics of a ranking.

    Attributes:
        metrics: Name → value over all queries.
        precisions: Name of each mean average precision among them → the average precision of each
            query, (Q,), NaN for a query without an answer.
    """

    metrics: dict[str, float]
    precisions: dict[str, np.ndarray]


class GroundTruth(ABC):
    """The right answers of Q queries in a gallery of N photos.

    Attributes:
        labels: The mean average precisions to show, name → label.
        headline: Name of the most important one.
        distractors: Number of gallery photos without any known answer.
    """

    labels: Mapping[str, str]
    headline: str
    distractors: int

    @abstractmethod
    def evaluate(self, rows: np.ndarray) -> Evaluation:
        """Compute the metrics of rankings (Q, K) of gallery rows; -1 pads."""

    @abstractmethod
    def relevance_labels(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Say what each result is to its query.

        Args:
            queries: (q,) rows of the query store.
            rows: (q, K) gallery rows ranked for them; -1 pads.

        Returns:
            (q, K) words; "" at the pads.
        """


class LandmarkGroundTruth(GroundTruth):
    """A gallery photo answers the queries that show its landmark.

    Args:
        query: (Q,) landmark of each query; None, NaN or empty where unknown.
        gallery: (N,) landmark of each gallery photo, likewise.

    Raises:
        UserError: No query has an answer in the gallery.

    Example:
        >>> truth = LandmarkGroundTruth(np.array(["a", "b"]), np.array(["b", "a", ""]))
        >>> rows = np.array([[1, 0], [2, 0]])
        >>> truth.evaluate(rows).metrics
        {'map_at_100': 0.75, 'precision_at_10': 0.1, 'top_1': 0.5}
        >>> truth.relevance_labels(np.arange(2), rows).tolist()
        [['right', 'wrong'], ['unknown', 'right']]
    """

    def __init__(self, query: np.ndarray, gallery: np.ndarray) -> None:
        self.labels = {"map_at_100": "mAP@100"}
        self.headline = "map_at_100"
        self._query_landmarks = np.asarray(query, object)
        codes = landmark_codes(np.concatenate([self._query_landmarks, gallery]))
        self._query, gallery_codes = codes[: len(query)], codes[len(query) :]
        # Unknown gallery photos get another code than unknown queries: they answer nothing.
        self._gallery = np.where(gallery_codes < 0, -2, gallery_codes)
        self.distractors = int((gallery_codes < 0).sum())
        if not np.isin(self._query, self._gallery).any():
            raise UserError(
                "no query's landmark is in the gallery. Pass query and gallery of the same data."
            )

    def evaluate(self, rows: np.ndarray) -> Evaluation:
        """Compute `map_at_100`, `precision_at_10` and `top_1` over the queries with an answer."""
        hits, relevant = hits_by_label(rows[:, :100], self._query, self._gallery)
        precisions = gldv2.average_precision_at_k(hits, relevant, k=100)
        hits = hits[relevant > 0]
        metrics = {
            "map_at_100": float(precisions[relevant > 0].mean()),
            "precision_at_10": float(gldv2.precision_at_k(hits, k=10).mean()),
            "top_1": float(hits[:, 0].mean()),
        }
        return Evaluation(metrics, {"map_at_100": precisions})

    def relevance_labels(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Say `right`, `wrong`, or `unknown` where one of the two has no landmark, (q, K)."""
        query, gallery = self._query[queries, None], self._gallery[np.maximum(rows, 0)]
        cases = [rows < 0, (query < 0) | (gallery < 0), query == gallery]
        return np.select(cases, ["", "unknown", "right"], "wrong")

    def nearest_accuracy(self, rows: np.ndarray, train_landmark_ids: np.ndarray) -> float:
        """Compute the share of queries whose nearest train photo shows their landmark.

        Args:
            rows: (Q, K) train rows, nearest first, of which the first counts; -1 pads.
            train_landmark_ids: (T,) landmark of each train photo.

        Returns:
            The share of the queries whose landmark is known.
        """
        nearest = rows[:, 0]
        landmarks = train_landmark_ids[np.maximum(nearest, 0)].astype(object)
        right = (self._query_landmarks == landmarks) & (nearest >= 0)
        return float(right[self._query >= 0].mean())


class RevisitedGroundTruth(GroundTruth):
    """ROxford and RParis: lists of easy, hard and junk photos for each query.

    Args:
        queries: For each query its `easy`, `hard` and `junk` rows in the published gallery.
        positions: (N,) row in the published gallery of each photo of the gallery; -1 for a
            distractor.

    Example:
        >>> lists = [{"easy": [1], "hard": [0], "junk": []}]
        >>> truth = RevisitedGroundTruth(lists, np.array([0, -1, 1]))
        >>> truth.evaluate(np.array([[1, 2, 0]])).metrics["easy"]
        0.25
        >>> truth.relevance_labels(np.array([0]), np.array([[1, 2, 0]])).tolist()
        [['wrong', 'easy', 'hard']]
    """

    def __init__(self, queries: Sequence[Mapping[str, Any]], positions: np.ndarray) -> None:
        self.labels = {name: f"{name} mAP" for name in revisited.PROTOCOLS}
        self.headline = "medium"
        self._queries = queries
        self.distractors = int((positions < 0).sum())
        # A distractor gets a number that is in no list.
        beyond = positions.max(initial=-1) + 1 + np.arange(len(positions))
        self._positions = np.where(positions < 0, beyond, positions)

    def evaluate(self, rows: np.ndarray) -> Evaluation:
        """Compute the mAP under the protocols `easy`, `medium` and `hard`."""
        precisions = {protocol: np.full(len(rows), np.nan) for protocol in self.labels}
        block = max(1, BLOCK_SIZE // max(1, rows.shape[1]))
        for start in range(0, len(rows), block):
            part = slice(start, start + block)
            result = revisited.evaluate(self.published_rows(rows[part]), self._queries[part])
            for protocol, values in precisions.items():
                values[part] = result[protocol]["average_precision"]
        counted = {name: values[~np.isnan(values)] for name, values in precisions.items()}
        metrics = {name: float(v.mean()) if len(v) else 0.0 for name, v in counted.items()}
        return Evaluation(metrics, precisions)

    def relevance_labels(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Say `easy`, `hard`, `junk` or `wrong`, (q, K); the first of these that applies."""
        ranked = self.published_rows(rows)
        labels = np.full(rows.shape, "wrong", "<U7")
        for place, query in enumerate(queries):
            for kind in ("junk", "hard", "easy"):
                labels[place, np.isin(ranked[place], self._queries[query][kind])] = kind
        labels[rows < 0] = ""
        return labels

    def published_rows(self, rows: np.ndarray) -> np.ndarray:
        """Renumber gallery rows (Q, K) as the published lists do; distractors are in no list."""
        return np.where(rows < 0, -1, self._positions[np.maximum(rows, 0)])


def find_ground_truth(
    query: DescriptorStore,
    gallery: DescriptorStore | StackedStores,
    query_table: "ImageTable | None" = None,
    gallery_table: "ImageTable | None" = None,
) -> GroundTruth | None:
    """Bring what is known of the right answers into the order of the stores.

    Args:
        query: Store of the queries.
        gallery: Store of the photos searched; several as one.
        query_table: The data's table of the queries, with ground truth or landmarks. Defaults to
            the landmarks in the stores.
        gallery_table: The data's table of the gallery, likewise; both or none.

    Returns:
        None if nothing is known.

    Raises:
        UserError: The data does not fit the stores, or has neither landmarks nor ground truth.
    """
    if query_table is None or gallery_table is None:
        if query.landmark_ids is None or gallery.landmark_ids is None:
            return None
        return LandmarkGroundTruth(query.landmark_ids, gallery.landmark_ids)
    of_query = positions_in(query_table.rows["id"], query.ids)
    of_gallery = positions_in(gallery_table.rows["id"], gallery.ids)
    if (of_query < 0).any():
        raise UserError(
            f"{query.path}: {query.ids[of_query.argmin()]!r} is not a query of the data in "
            f"{query_table.root}. Pass the data that the store was extracted from."
        )
    if query_table.ground_truth is None:
        landmarks = _landmarks(query_table, of_query), _landmarks(gallery_table, of_gallery)
        return LandmarkGroundTruth(*landmarks)
    missing = np.setdiff1d(np.arange(len(gallery_table)), of_gallery)
    if len(missing):
        raise UserError(
            f"{gallery.path}: {len(missing):,} photos of the data's gallery are missing, such as "
            f"{gallery_table.rows['id'].iloc[missing[0]]!r}. Extract all of it."
        )
    return RevisitedGroundTruth([query_table.ground_truth[row] for row in of_query], of_gallery)


def landmark_codes(landmark_ids: np.ndarray) -> np.ndarray:
    """Number landmarks from 0 in order of appearance; -1 for None, NaN and the empty string.

    Example:
        >>> landmark_codes(np.array(["b", "", "a", None, "b"], object)).tolist()
        [0, -1, 1, -1, 0]
    """
    return pd.factorize(pd.Series(landmark_ids, dtype=object).replace("", None))[0]


def positions_in(listed: Sequence[str], ids: np.ndarray) -> np.ndarray:
    """Return the position of each id (N,) in a list of distinct names, -1 if not listed."""
    return pd.Index(listed).get_indexer(pd.Index(ids))


def _landmarks(table: "ImageTable", positions: np.ndarray) -> np.ndarray:
    """Return the landmark at each row of a table, (N,); None at -1."""
    if "landmark_id" not in table.rows:
        raise UserError(
            f"{table.root} has neither landmarks nor a ground truth of these photos. Pass other "
            "data, or none to use the landmarks in the stores."
        )
    landmarks = table.rows["landmark_id"].to_numpy(object)[positions]
    landmarks[positions < 0] = None
    return landmarks
