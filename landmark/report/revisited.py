"""Scores rankings of ROxford5k and RParis6k against their published ground truth."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.artifact.rankings import Rankings
from landmark.artifact.restricted_pickle import load_pickle
from landmark.error import UserError
from landmark.metric import revisited


@dataclass(frozen=True)
class GroundTruth:
    """What a `gnd_*.pkl` says.

    Attributes:
        queries: the `easy`, `hard` and `junk` rows of each query.
        query_ids: names of the queries; None where the file has none.
        gallery_ids: names of the photos that the rows count; None where the file has none.
    """

    queries: list[dict[str, Any]]
    query_ids: list[str] | None
    gallery_ids: list[str] | None


def score_revisited(ground_truth: str | Path, rankings: str | Path) -> dict[str, dict[str, Any]]:
    """The three protocols of ROxford or RParis for rankings that rerank.py wrote.

    Queries and photos are found by their names, so that the rankings may have another order, and
    distractors besides. Where the ground truth has no names, the orders must be the same.

    Returns:
        For `easy`, `medium` and `hard`: `map`, `average_precision` of each query in the ground
        truth's order (None for one without positives) and `mp_at_1`, `mp_at_5`, `mp_at_10`.

    Raises:
        UserError: a file is missing or refused, or the rankings are of other queries or of a
            gallery that lacks some of the ground truth's photos.
    """
    truth, ranked = read_ground_truth(ground_truth), Rankings.open(rankings)
    if len(ranked.rows) != len(truth.queries):
        raise UserError(
            f"{rankings}: holds {len(ranked.rows)} queries, {ground_truth} has {len(truth.queries)}"
        )
    rows = ranked.rows
    if truth.query_ids is not None:
        rows = rows[_positions(truth.query_ids, ranked.query_ids, rankings, "query")]
    if truth.gallery_ids is not None:
        places = _positions(truth.gallery_ids, ranked.gallery_ids, rankings, "photo")
        # Distractors get numbers that no list of the ground truth has.
        counted = len(places) + np.arange(len(ranked.gallery_ids))
        counted[places] = np.arange(len(places))
        rows = np.where(rows < 0, -1, counted[np.maximum(rows, 0)])
    result = revisited.evaluate(rows, truth.queries)
    for numbers in result.values():
        precisions = numbers["average_precision"]
        numbers["average_precision"] = [None if np.isnan(one) else float(one) for one in precisions]
    return result


def read_ground_truth(path: str | Path) -> GroundTruth:
    """The ground truth of ROxford or RParis.

    Raises:
        UserError: refused as a pickle, or no such ground truth.
    """
    content = load_pickle(path)
    if not isinstance(content, dict) or not isinstance(content.get("gnd"), list):
        raise UserError(f"{path}: is no ground truth of ROxford or RParis, it has no list gnd")
    kinds = ("easy", "hard", "junk")
    for row, query in enumerate(content["gnd"]):
        if not isinstance(query, dict) or not set(kinds) <= query.keys():
            raise UserError(f"{path}: gnd[{row}] must hold {', '.join(kinds)}")
    return GroundTruth(
        [{kind: query[kind] for kind in kinds} for query in content["gnd"]],
        content.get("qimlist"),
        content.get("imlist"),
    )


def _positions(
    wanted: list[str], found: NDArray[np.str_], rankings: str | Path, kind: str
) -> NDArray[np.intp]:
    """Where each name of the ground truth is among the rankings' ids."""
    positions = pd.Index(found, dtype=object).get_indexer(pd.Index(wanted, dtype=object))
    lacking = int((positions < 0).sum())
    if lacking:
        first = wanted[int((positions < 0).argmax())]
        raise UserError(
            f"{rankings}: lacks {kind} {first} of the ground truth ({lacking:,} in all)"
        )
    return positions
