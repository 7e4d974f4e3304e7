"""Ground truth by position: a gallery photo near the query is a positive (place recognition)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from landmark.artifact.photo_paths import positions_of
from landmark.artifact.rankings import Rankings
from landmark.artifact.table import COORDINATES, read_table
from landmark.error import UserError
from landmark.metric.position import hits_by_position, is_within
from landmark.processes import notice
from landmark.score.evaluation import Cutoffs, Evaluation, GroundTruth, means

if TYPE_CHECKING:
    from landmark.data.image_table import ImageTable

RECALL_AT = (1, 5, 10)


class PlaceGroundTruth(GroundTruth):
    """Ground truth in which the gallery photos within a radius of the query are relevant.

    A query without positives is a miss of the recalls, as in the benchmarks of place recognition,
    and is left out of the mean average precision. A notice counts such queries.

    Args:
        query: (Q, 2) east and north of each query in metres.
        gallery: (N, 2) of each gallery photo.
        radius: Largest distance of a positive, in metres.
        k: Results per query of the rankings to evaluate. Defaults to N.
        own_rows: (Q,) gallery row of each query's own photo, which is not a positive; -1 for none.
            Defaults to none.
        cutoffs: k of the metrics. Defaults to mAP@100 and recall@1, 5 and 10.

    Raises:
        UserError: No query has a positive in the gallery.

    Source:
        Torii et al., 24/7 Place Recognition by View Synthesis, CVPR 2015, section 5 (25 m).

    Example:
        >>> truth = PlaceGroundTruth(np.zeros((1, 2)), np.array([[0.0, 30.0], [15.0, 20.0]]))
        >>> truth.evaluate(np.array([[0, 1]])).metrics["recall_at_5"]
        1.0
        >>> truth.relevance_labels(np.array([0]), np.array([[0, 1]])).tolist()
        [['wrong', 'right']]
    """

    def __init__(
        self,
        query: np.ndarray,
        gallery: np.ndarray,
        radius: float = 25.0,
        *,
        k: int | None = None,
        own_rows: np.ndarray | None = None,
        cutoffs: Cutoffs | None = None,
    ) -> None:
        cutoffs = cutoffs or Cutoffs(recall_at=RECALL_AT)
        self._cutoffs = cutoffs.limited(k, len(gallery))
        self.labels = self._cutoffs.labels
        self.headline = next(iter(self.labels))
        self.distractors = 0
        self.radius = radius
        self._query, self._gallery = query, gallery
        self._own = np.zeros(len(query), np.int64)
        if own_rows is not None:
            is_own = is_within(query, gallery[np.maximum(own_rows, 0)], radius)
            self._own = (is_own & (own_rows >= 0)).astype(np.int64)
        _, positives = self._hits(np.empty((len(query), 0), np.int64))
        if not positives.any():
            raise UserError(
                f"no query has a gallery photo within {radius:g} m. Pass a larger radius, or query "
                "and gallery of the same data."
            )
        if missing := int((positives == 0).sum()):
            notice(
                f"{missing:,} of {len(query):,} queries have no gallery photo within {radius:g} m: "
                "recall counts them as misses, mAP leaves them out"
            )

    def _hits(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hits, positives = hits_by_position(rows, self._query, self._gallery, self.radius)
        return hits, positives - self._own

    def evaluate(self, rows: np.ndarray) -> Evaluation:
        """Compute `map_at_100` over the queries with positives, and the recalls over all."""
        values = self._cutoffs.values(*self._hits(rows[:, : self._cutoffs.deepest]))
        for name in values:
            if name.startswith("recall"):
                values[name] = np.nan_to_num(values[name])
        return Evaluation(means(values), values)

    def relevance_labels(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return `right` or `wrong`, (q, K)."""
        near = is_within(
            self._query[queries][:, None], self._gallery[np.maximum(rows, 0)], self.radius
        )
        return np.select([rows < 0, near], ["", "right"], "wrong")


def score_places(
    ground_truth: str | Path,
    rankings: str | Path,
    radius: float = 25.0,
    map_at: int | Sequence[int] | None = None,
    recall_at: int | Sequence[int] | None = None,
    allow_self: bool = False,
) -> dict[str, float]:
    """Compute the metrics of a ranking folder by the positions in an image table.

    Args:
        ground_truth: Image table with the columns `id`, `utm_east` and `utm_north`.
        rankings: A folder that `rerank` wrote.
        radius: Largest distance of a positive, in metres.
        map_at: k of the mean average precisions. Defaults to 100.
        recall_at: k of the recalls. Defaults to 1, 5 and 10.
        allow_self: Keep the photo of a query that is in the gallery under the same id. By default
            it is neither a result nor a positive.

    Returns:
        `map_at_<k>` and `recall_at_<k>`, and the number of `queries`.

    Raises:
        UserError: A file is missing or invalid, a photo of the rankings has no position, or the
            rankings end before a k.
    """
    table, ranked = read_table(ground_truth), Rankings.open(rankings)
    query = positions(table, ranked.query_ids, "query", ground_truth)
    gallery = positions(table, ranked.gallery_ids, "gallery", ground_truth)
    rows, own = ranked.rows, None
    if not allow_self:
        own = positions_of(ranked.query_ids, ranked.gallery_ids)
        rows = _without(rows, own)
    cutoffs = Cutoffs.of(map_at, recall_at, RECALL_AT)
    k, photos = rows.shape[1], len(gallery)
    if (map_at, recall_at) != (None, None) and k < min(cutoffs.deepest, photos):
        raise UserError(
            f"{rankings} ranks {k:,} of {photos:,} photos, too few for k={cutoffs.deepest}. Rank "
            f"again with k={min(cutoffs.deepest, photos)}."
        )
    truth = PlaceGroundTruth(query, gallery, radius, k=k, own_rows=own, cutoffs=cutoffs)
    return {**truth.evaluate(rows).metrics, "queries": len(query)}


def _without(rows: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Move each query's own photo to the end of its ranking, as a pad."""
    is_own = (rows == own[:, None]) & (rows >= 0)
    if not is_own.any():
        return rows
    notice(
        f"{is_own.any(axis=1).sum():,} of {len(rows):,} rankings contain the query's own photo: it "
        "does not count. Pass allow_self=true to count it."
    )
    order = np.argsort(is_own, axis=1, kind="stable")
    return np.take_along_axis(np.where(is_own, -1, rows), order, axis=1)


def has_positions(table: "ImageTable") -> bool:
    """Whether a table has the coordinates of its photos.

    Raises:
        UserError: It has one of the two columns.
    """
    missing = [name for name in COORDINATES if name not in table.rows]
    if len(missing) == 1:
        raise UserError(
            f"{table.root}: the table has no column {missing[0]}, but the other coordinate. Add "
            "it, or pass radius=null to use landmarks."
        )
    return not missing


def positions(rows: pd.DataFrame, ids: np.ndarray, kind: str, where: str | Path) -> np.ndarray:
    """Return east and north of the photos in metres, (N, 2).

    Args:
        rows: Rows of an image table.
        ids: (N,) ids of the photos.
        kind: What the photos are, for the message.
        where: The table, for the message.

    Raises:
        UserError: The table lacks a column or a photo, or a coordinate is missing or not finite;
            names the first photo and how many.
    """
    for name in COORDINATES:
        if name not in rows:
            raise UserError(f"{where} has no column {name}. Add the position in metres.")
    listed = positions_of(ids, rows["id"])
    if (listed < 0).any():
        raise UserError(
            f"{where} does not list the {kind} photo {str(ids[listed.argmin()])!r} "
            f"({(listed < 0).sum():,} of {len(ids):,}). Add its position."
        )
    metres = rows[list(COORDINATES)].to_numpy(np.float64, na_value=np.nan)[listed]
    wrong = ~np.isfinite(metres)
    if wrong.any():
        row, column = (int(place[0]) for place in np.nonzero(wrong))
        raise UserError(
            f"{where}: {COORDINATES[column]} of the {kind} photo {str(ids[row])!r} is missing or "
            f"not finite ({wrong.any(axis=1).sum():,} of {len(ids):,} {kind} photos). Give each a "
            "position in metres."
        )
    return metres
