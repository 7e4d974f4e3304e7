"""Score rankings of ROxford and RParis against the published ground truth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from landmark.artifact.rankings import Rankings
from landmark.artifact.revisited_file import RevisitedFile
from landmark.error import UserError
from landmark.metric import revisited
from landmark.score.ground_truth import RevisitedGroundTruth, positions_in


def score_revisited(ground_truth: str | Path, rankings: str | Path) -> dict[str, dict[str, Any]]:
    """Compute the metrics of a ranking folder under the three protocols.

    Queries and photos are matched by name, so the rankings may have a different order and contain
    distractors. If the ground truth has no names, the order must be the same.

    Args:
        ground_truth: The published pickle, `gnd_roxford5k.pkl` or `gnd_rparis6k.pkl`.
        rankings: A folder that `rerank` wrote.

    Returns:
        For `easy`, `medium` and `hard`: `map`, `average_precision` of each query in the ground
        truth's order (None without positives) and `mp_at_1`, `mp_at_5`, `mp_at_10`.

    Raises:
        UserError: A file is missing or invalid, the rankings have other queries, or a photo of the
            ground truth is missing from their gallery.
    """
    truth, ranked = RevisitedFile.open(ground_truth), Rankings.open(rankings)
    if len(ranked.rows) != len(truth.queries):
        raise UserError(
            f"{rankings} contains {len(ranked.rows):,} queries, {ground_truth} "
            f"{len(truth.queries):,}. Rank the queries of that ground truth."
        )
    rows, positions = ranked.rows, np.arange(len(ranked.gallery_ids))
    if truth.query_ids:
        order = positions_in(truth.query_ids, ranked.query_ids)
        _check_all(truth.query_ids, order, rankings, "query")
        rows = rows[np.argsort(order)]
    if truth.gallery_ids:
        positions = positions_in(truth.gallery_ids, ranked.gallery_ids)
        _check_all(truth.gallery_ids, positions, rankings, "photo")
    rows = RevisitedGroundTruth(truth.queries, positions).published_rows(rows)
    result = revisited.evaluate(rows, truth.queries)
    for metrics in result.values():
        precisions = metrics["average_precision"]
        metrics["average_precision"] = [
            None if np.isnan(value) else float(value) for value in precisions
        ]
    return result


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
