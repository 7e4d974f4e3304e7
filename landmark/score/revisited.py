"""Score rankings of ROxford and RParis against the published ground truth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from landmark.artifact.rankings import Rankings
from landmark.artifact.revisited_file import RevisitedFile
from landmark.error import UserError
from landmark.metric import revisited
from landmark.processes import notice
from landmark.score.ground_truth import RevisitedGroundTruth, positions_in


def score_revisited(
    ground_truth: str | Path, rankings: str | Path, allow_self: bool = False
) -> dict[str, dict[str, Any]]:
    """Compute the metrics of a ranking folder under the three protocols.

    Queries and photos are matched by name, so the rankings may have a different order and contain
    distractors. If the ground truth has no names, the order must be the same.

    Args:
        ground_truth: The published pickle, `gnd_roxford5k.pkl` or `gnd_rparis6k.pkl`.
        rankings: A folder that `rerank` wrote. It must rank the complete gallery, or at least all
            positives.
        allow_self: Keep a query that is in the gallery under the same id. By default its own photo
            is neither a result nor a positive.

    Returns:
        For `easy`, `medium` and `hard`: `map`, `average_precision` of each query in the ground
        truth's order (None without positives) and `mp_at_1`, `mp_at_5`, `mp_at_10`.

    Raises:
        UserError: A file is missing or invalid, the rankings have other queries, a photo of the
            ground truth is missing from their gallery, or they end before a positive.
    """
    truth, ranked = RevisitedFile.open(ground_truth), Rankings.open(rankings)
    if len(ranked.rows) != len(truth.queries):
        raise UserError(
            f"{rankings} contains {len(ranked.rows):,} queries, {ground_truth} "
            f"{len(truth.queries):,}. Rank the queries of that ground truth."
        )
    rows, query_ids = ranked.rows, ranked.query_ids
    positions = np.arange(len(ranked.gallery_ids))
    if truth.query_ids:
        order = positions_in(truth.query_ids, query_ids)
        _check_all(truth.query_ids, order, rankings, "query")
        rows, query_ids = rows[np.argsort(order)], query_ids[np.argsort(order)]
    if truth.gallery_ids:
        positions = positions_in(truth.gallery_ids, ranked.gallery_ids)
        _check_all(truth.gallery_ids, positions, rankings, "photo")
    else:
        truth.check_rows(ground_truth, len(positions))
    queries, rows = (
        truth.queries,
        RevisitedGroundTruth(truth.queries, positions).published_rows(rows),
    )
    own = np.full(len(rows), -1) if allow_self else _own_rows(query_ids, ranked.gallery_ids)
    if (own >= 0).any():
        own = RevisitedGroundTruth(queries, positions).published_rows(own)
        queries, rows = _without_own(queries, rows, own)
    _check_complete(queries, rows, len(positions) - (own >= 0), rankings)
    result = revisited.evaluate(rows, queries)
    for protocol, metrics in result.items():
        precisions = metrics["average_precision"]
        if np.isnan(precisions).all():
            notice(f"{ground_truth}: no query has a positive under the protocol {protocol}: map 0.")
        metrics["average_precision"] = [
            None if np.isnan(value) else float(value) for value in precisions
        ]
    return result


def _own_rows(query_ids: np.ndarray, gallery_ids: np.ndarray) -> np.ndarray:
    """Return the gallery row with the id of each query, (Q,); -1 without one."""
    row_of = dict.fromkeys(query_ids.tolist(), -1)
    for row in np.flatnonzero(pd.Index(gallery_ids).isin(query_ids)).tolist():
        row_of[str(gallery_ids[row])] = row
    return np.array([row_of[query] for query in query_ids.tolist()], np.int64)


def _without_own(
    queries: Sequence[Mapping[str, Any]], rows: np.ndarray, own: np.ndarray
) -> tuple[list[dict[str, list[int]]], np.ndarray]:
    """Drop each query's own photo from its lists and its ranking."""
    notice(
        f"{(own >= 0).sum():,} of {len(own):,} queries are in the gallery under the same id: their "
        "own photo does not count. Pass allow_self=true to count it."
    )
    lists = [
        {kind: [row for row in listed if row != photo] for kind, listed in query.items()}
        for query, photo in zip(queries, own.tolist(), strict=True)
    ]
    return lists, np.where((rows == own[:, None]) & (rows >= 0), -1, rows)


def _check_complete(
    queries: Sequence[Mapping[str, Any]], rows: np.ndarray, photos: np.ndarray, rankings: str | Path
) -> None:
    """Check that each ranking reaches its last positive, or the end of the gallery.

    Args:
        queries: `easy`, `hard` and `junk` rows of each query.
        rows: (Q, K) in the numbering of these lists; -1 pads.
        photos: (Q,) number of photos to rank for each query.
        rankings: The folder, for the message.
    """
    positives = [np.union1d(query["easy"], query["hard"]) for query in queries]
    if not any(map(len, positives)):
        raise UserError(
            "no query of the ground truth has an easy or a hard photo, so there is nothing to "
            "score. Pass the published file."
        )
    missing = np.array(
        [
            np.isin(one, ranked, invert=True).sum()
            for one, ranked in zip(positives, rows, strict=True)
        ]
    )
    is_cut = (rows.shape[1] < photos) & (missing > 0)
    if is_cut.any():
        raise UserError(
            f"{rankings} ranks {rows.shape[1]:,} of {photos.max():,} photos, and "
            f"{missing[is_cut].sum():,} positives of {is_cut.sum():,} queries are not among them: "
            f"mAP needs the complete ranking. Rank again with k={photos.max()}."
        )
    if missing.any():
        notice(
            f"{rankings}: the search did not return {missing.sum():,} positives of "
            f"{(missing > 0).sum():,} queries; they count as misses."
        )


def _check_all(
    names: Sequence[str], positions: np.ndarray, rankings: str | Path, kind: str
) -> None:
    """Check that each name of the ground truth occurs exactly once."""
    counts = np.bincount(positions[positions >= 0], minlength=len(names))
    for problem, wrong in (("is missing", counts == 0), ("occurs more than once", counts > 1)):
        if wrong.any():
            raise UserError(
                f"{rankings}: {kind} {names[int(wrong.argmax())]} of the ground truth {problem} "
                f"({wrong.sum():,} in all). Rank the photos of that ground truth."
            )
