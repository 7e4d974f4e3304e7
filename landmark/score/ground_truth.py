"""Ground truth in the order of the stores, and the metrics of rankings against it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.photo_paths import positions_of
from landmark.artifact.stacked import StackedStores
from landmark.artifact.vectors import row_blocks
from landmark.error import UserError
from landmark.metric import gldv2, revisited
from landmark.metric.relevance import hits_by_label
from landmark.score.evaluation import Cutoffs, Evaluation, GroundTruth, means
from landmark.score.places import RECALL_AT, PlaceGroundTruth, has_positions, positions

if TYPE_CHECKING:  # imported only if data= is set
    from landmark.data.image_table import ImageTable

_BLOCK_RESULTS = 2**22


class LandmarkGroundTruth(GroundTruth):
    """Ground truth in which photos of the query's landmark are relevant.

    Args:
        query: (Q,) landmark of each query; None, NaN or empty if unknown.
        gallery: (N,) landmark of each gallery photo, likewise.
        k: Results per query of the rankings to evaluate: the metrics of fewer than 100 results of a
            larger gallery are named after k. Defaults to N.
        own_rows: (Q,) gallery row of each query's own photo, which is not a positive; -1 for none.
            Defaults to none.
        cutoffs: k of the mean average precisions and the recalls. Defaults to mAP@100.

    Raises:
        UserError: No query has a positive in the gallery.

    Example:
        >>> truth = LandmarkGroundTruth(np.array(["a", "b"]), np.array(["b", "a", ""]))
        >>> rows = np.array([[1, 0], [2, 0]])
        >>> truth.evaluate(rows).metrics
        {'map_at_100': 0.75, 'precision_at_10': 0.1, 'top_1': 0.5}
        >>> truth.relevance_labels(np.arange(2), rows).tolist()
        [['right', 'wrong'], ['unknown', 'right']]
    """

    def __init__(
        self,
        query: np.ndarray,
        gallery: np.ndarray,
        *,
        k: int | None = None,
        own_rows: np.ndarray | None = None,
        cutoffs: Cutoffs | None = None,
    ) -> None:
        self._cutoffs = (cutoffs or Cutoffs()).limited(k, len(gallery))
        self.labels = self._cutoffs.labels
        self.headline = next(iter(self.labels))
        self._query_landmarks = np.asarray(query, object)
        codes = landmark_codes(np.concatenate([self._query_landmarks, gallery]))
        self._query, gallery_codes = codes[: len(query)], codes[len(query) :]
        # Unknown gallery photos get a different code from unknown queries, so they never match.
        self._gallery = np.where(gallery_codes < 0, -2, gallery_codes)
        self.distractors = int((gallery_codes < 0).sum())
        is_own = np.zeros(len(query), bool)
        if own_rows is not None:
            is_own = (own_rows >= 0) & (self._gallery[own_rows] == self._query)
        self._own = is_own.astype(np.int64)
        _, positives = hits_by_label(np.empty((len(query), 0), int), self._query, self._gallery)
        if not (positives > self._own).any():
            raise UserError(
                "no query's landmark is in the gallery. Pass query and gallery of the same data."
            )

    def evaluate(self, rows: np.ndarray) -> Evaluation:
        """Compute `map_at_100`, `precision_at_10` and `top_1` over the queries with positives."""
        first = rows[:, : self._cutoffs.deepest]
        hits, relevant = hits_by_label(first, self._query, self._gallery)
        relevant = relevant - self._own
        values = self._cutoffs.values(hits, relevant)
        hits, few = hits[relevant > 0], min(self._cutoffs.map_at[0], 10)
        metrics = {
            **means(values),
            f"precision_at_{few}": float(gldv2.precision_at_k(hits, few).mean()),
            "top_1": float(hits[:, 0].mean()),
        }
        return Evaluation(metrics, values)

    def relevance_labels(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return `right`, `wrong`, or `unknown` if either photo has no landmark, (q, K)."""
        query, gallery = self._query[queries, None], self._gallery[np.maximum(rows, 0)]
        cases = [rows < 0, (query < 0) | (gallery < 0), query == gallery]
        return np.select(cases, ["", "unknown", "right"], "wrong")

    def nearest_accuracy(self, rows: np.ndarray, train_landmark_ids: np.ndarray) -> float:
        """Compute the share of queries whose nearest train photo shows their landmark.

        Args:
            rows: (Q, K) train rows, nearest first; -1 pads. Only the first column is used.
            train_landmark_ids: (T,) landmark of each train photo.

        Returns:
            The share among the queries with a known landmark.
        """
        nearest = rows[:, 0]
        landmarks = train_landmark_ids[np.maximum(nearest, 0)].astype(object)
        right = (self._query_landmarks == landmarks) & (nearest >= 0)
        return float(right[self._query >= 0].mean())


class RevisitedGroundTruth(GroundTruth):
    """Ground truth of ROxford and RParis: lists of easy, hard and junk photos for each query.

    Args:
        queries: `easy`, `hard` and `junk` rows of the published gallery for each query.
        positions: (N,) row of each gallery photo in the published gallery; -1 for distractors.
        k: Results per query of the rankings to evaluate. If fewer than N, positives beyond them are
            misses, and the metrics are named after k. Defaults to N.

    Example:
        >>> lists = [{"easy": [1], "hard": [0], "junk": []}]
        >>> truth = RevisitedGroundTruth(lists, np.array([0, -1, 1]))
        >>> truth.evaluate(np.array([[1, 2, 0]])).metrics["easy"]
        0.25
        >>> truth.relevance_labels(np.array([0]), np.array([[1, 2, 0]])).tolist()
        [['wrong', 'easy', 'hard']]
    """

    def __init__(
        self, queries: Sequence[Mapping[str, Any]], positions: np.ndarray, *, k: int | None = None
    ) -> None:
        is_complete = k is None or k >= len(positions)
        self._ending, limit = ("", "") if is_complete else (f"_at_{k}", f"@{k}")
        self.labels = {
            f"{name}{self._ending}": f"{name} mAP{limit}" for name in revisited.PROTOCOLS
        }
        self.headline = f"medium{self._ending}"
        self._queries = queries
        self.distractors = int((positions < 0).sum())
        # Distractors get numbers that are in no list.
        unlisted = positions.max(initial=-1) + 1 + np.arange(len(positions))
        self._positions = np.where(positions < 0, unlisted, positions)

    def evaluate(self, rows: np.ndarray) -> Evaluation:
        """Compute the mAP under the protocols `easy`, `medium` and `hard`."""
        precisions = {name: np.full(len(rows), np.nan) for name in self.labels}
        for part in row_blocks(len(rows), _BLOCK_RESULTS // max(1, rows.shape[1])):
            result = revisited.evaluate(self.published_rows(rows[part]), self._queries[part])
            for protocol in result:
                precisions[protocol + self._ending][part] = result[protocol]["average_precision"]
        counted = {name: values[~np.isnan(values)] for name, values in precisions.items()}
        metrics = {name: float(v.mean()) if len(v) else 0.0 for name, v in counted.items()}
        return Evaluation(metrics, precisions)

    def relevance_labels(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return `easy`, `hard`, `junk` or `wrong`, (q, K): the first that applies."""
        ranked = self.published_rows(rows)
        labels = np.full(rows.shape, "wrong", "<U7")
        for line, query in enumerate(queries):
            for label in ("junk", "hard", "easy"):
                labels[line, np.isin(ranked[line], self._queries[query][label])] = label
        labels[rows < 0] = ""
        return labels

    def published_rows(self, rows: np.ndarray) -> np.ndarray:
        """Map gallery rows (Q, K) to published rows; distractors get rows that are in no list."""
        return np.where(rows < 0, -1, self._positions[np.maximum(rows, 0)])


def find_ground_truth(
    query: DescriptorStore,
    gallery: DescriptorStore | StackedStores,
    query_table: "ImageTable | None" = None,
    gallery_table: "ImageTable | None" = None,
    *,
    k: int | None = None,
    own_rows: np.ndarray | None = None,
    map_at: int | Sequence[int] | None = None,
    recall_at: int | Sequence[int] | None = None,
    radius: float | None = 25.0,
) -> GroundTruth | None:
    """Return the ground truth of stores, in their order.

    Args:
        query: Store of the queries.
        gallery: Store of the gallery photos, or stacked stores.
        query_table: Image table of the queries, with ground truth or landmarks. Defaults to the
            landmarks in the stores.
        gallery_table: Image table of the gallery, likewise; pass both tables or neither.
        k: Results per query of the rankings to evaluate. Defaults to the complete gallery.
        own_rows: (Q,) gallery row of each query's own photo, which the rankings leave out; -1 for
            none. Defaults to none.
        map_at: k of the mean average precisions. Defaults to 100.
        recall_at: k of the recalls. Defaults to none by landmark, and to 1, 5 and 10 by position.
        radius: With tables that have the photos' positions, the gallery photos at most this many
            metres from a query are its positives. None means by landmark.

    Returns:
        None if there is no ground truth.

    Raises:
        UserError: The data does not match the stores, or has neither landmarks nor ground truth.
    """
    by_landmark, is_chosen = Cutoffs.of(map_at, recall_at), (map_at, recall_at) != (None, None)
    if query_table is None or gallery_table is None:
        if query.landmark_ids is None or gallery.landmark_ids is None:
            if is_chosen:
                raise UserError(
                    f"map_at={map_at} and recall_at={recall_at} need landmarks in the stores of "
                    "query and gallery, or data= with the ground truth. Leave out both."
                )
            return None
        return LandmarkGroundTruth(
            query.landmark_ids, gallery.landmark_ids, k=k, own_rows=own_rows, cutoffs=by_landmark
        )
    if radius is not None and has_positions(query_table) and has_positions(gallery_table):
        return PlaceGroundTruth(
            positions(query_table.rows, query.ids, "query", query_table.root),
            positions(gallery_table.rows, gallery.ids, "gallery", gallery_table.root),
            radius,
            k=k,
            own_rows=own_rows,
            cutoffs=Cutoffs.of(map_at, recall_at, RECALL_AT),
        )
    query_rows = positions_in(query_table.rows["id"], query.ids)
    gallery_rows = positions_in(gallery_table.rows["id"], gallery.ids)
    if (query_rows < 0).any():
        raise UserError(
            f"{query.path}: {query.ids[query_rows.argmin()]!r} is not a query of the data in "
            f"{query_table.root}. Pass the data that the store was extracted from."
        )
    if query_table.ground_truth is None:
        landmarks = _landmarks(gallery_table, gallery_rows)
        if gallery.landmark_ids is not None:
            # The data may assign a photo of the gallery to another split, if it was extracted with
            # the splits of a run; it does not become a distractor.
            landmarks = np.where(gallery_rows < 0, gallery.landmark_ids, landmarks)
        return LandmarkGroundTruth(
            _landmarks(query_table, query_rows),
            landmarks,
            k=k,
            own_rows=own_rows,
            cutoffs=by_landmark,
        )
    if is_chosen:
        raise UserError(
            f"map_at={map_at} and recall_at={recall_at}: the metrics of {query_table.root} are of "
            "complete rankings. Leave out both."
        )
    missing = np.setdiff1d(np.arange(len(gallery_table)), gallery_rows)
    if len(missing):
        raise UserError(
            f"{gallery.path}: {len(missing):,} photos of the data's gallery are missing, such as "
            f"{gallery_table.rows['id'].iloc[missing[0]]!r}. Extract the complete gallery."
        )
    lists = [query_table.ground_truth[row] for row in query_rows]
    if own_rows is not None:
        own = np.where(own_rows < 0, -1, gallery_rows[own_rows])
        lists = [_without(listed, row) for listed, row in zip(lists, own.tolist(), strict=True)]
    return RevisitedGroundTruth(lists, gallery_rows, k=k)


def _without(lists: Mapping[str, Any], row: int) -> Mapping[str, Any]:
    """Drop a published row from the lists of a query; -1 for none."""
    if row < 0:
        return lists
    return {name: np.setdiff1d(np.asarray(rows, np.int64), [row]) for name, rows in lists.items()}


def landmark_codes(landmark_ids: np.ndarray) -> np.ndarray:
    """Number landmarks from 0 in order of appearance; -1 for None, NaN and the empty string.

    Example:
        >>> landmark_codes(np.array(["b", "", "a", None, "b"], object)).tolist()
        [0, -1, 1, -1, 0]
    """
    return pd.factorize(pd.Series(landmark_ids, dtype=object).replace("", None))[0]


def positions_in(listed: Sequence[str], ids: np.ndarray) -> np.ndarray:
    """Return the position of each id (N,) in a list of distinct names, -1 if not listed."""
    return positions_of(ids, listed)


def _landmarks(table: "ImageTable", positions: np.ndarray) -> np.ndarray:
    """Return the landmark of each position in a table, (N,); None at -1."""
    if "landmark_id" not in table.rows:
        raise UserError(
            f"{table.root} has neither landmarks nor ground truth for these photos. Pass other "
            "data, or no data to use the landmarks in the stores."
        )
    landmarks = table.rows["landmark_id"].to_numpy(object)[positions]
    landmarks[positions < 0] = None
    return landmarks
