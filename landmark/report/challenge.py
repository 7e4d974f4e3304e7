"""Scores the challenges' files: ids become numbers, and the metrics count."""

from collections.abc import Container, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from landmark.artifact.submission import (
    RecognitionPrediction,
    read_recognition_solution,
    read_recognition_submission,
    read_retrieval,
    read_usage,
)
from landmark.error import UserError
from landmark.metric import gldv2
from landmark.metric.relevance import hits_by_list

PRECISION_AT = (1, 5, 10, 100)
PARTS = ("Public", "Private")


def score_retrieval(solution: str | Path, submission: str | Path) -> dict[str, dict[str, Any]]:
    """The official retrieval metrics of each part of the solution.

    Queries that the solution ignores do not count; a query without a prediction counts with 0.

    Returns:
        For `public` and `private`, where they have queries: mean average precision at 100 and 10,
        mean precision at 1, 5, 10 and 100, mean and median position of the first hit.

    Raises:
        UserError: a file is missing or malformed, or the submission names an unknown query.
    """
    truth, usage = read_retrieval(solution), read_usage(solution)
    predicted = read_retrieval(submission)
    _refuse_unknown(predicted.keys(), truth.keys(), submission, solution)
    result = {}
    for part in PARTS:
        queries = [query for query in truth if usage[query] == part]
        if queries:
            relevant = [truth[query] for query in queries]
            result[part.lower()] = _retrieval_numbers(
                relevant, [predicted.get(query, []) for query in queries]
            )
    return result


def _retrieval_numbers(relevant: list[list[str]], predicted: list[list[str]]) -> dict[str, Any]:
    names = pd.Index(list(dict.fromkeys(chain.from_iterable(relevant + predicted))), dtype=object)
    depth = max((len(images) for images in predicted), default=0)
    rows = np.full((len(predicted), depth), -1, np.int64)
    for query, images in enumerate(predicted):
        rows[query, : len(images)] = names.get_indexer(images)
    hits, counts = hits_by_list(rows, [names.get_indexer(images) for images in relevant])
    # The organisers count a query that nothing answers as one that found nothing.
    counts = np.maximum(counts, 1)
    positions = gldv2.first_hit_position(hits)
    return {
        "mean_average_precision_at_100": gldv2.map_at_k(hits, counts, 100),
        "mean_average_precision_at_10": gldv2.map_at_k(hits, counts, 10),
        "mean_precision_at_1_5_10_100": [
            float(gldv2.precision_at_k(hits, k).mean()) for k in PRECISION_AT
        ],
        "mean_position": float(positions.mean()),
        "median_position": float(np.median(positions)),
    }


def score_recognition(solution: str | Path, submission: str | Path) -> dict[str, dict[str, Any]]:
    """The official recognition metrics of each part of the solution.

    Returns:
        For `public` and `private`, where they have photos: `gap` (micro average precision), the
        same without the photos that show no landmark, and `top1_accuracy`.

    Raises:
        UserError: a file is missing or malformed, or the submission names an unknown photo.
    """
    truth, usage = read_recognition_solution(solution), read_usage(solution)
    predicted = read_recognition_submission(submission)
    _refuse_unknown(predicted.ids, truth.keys(), submission, solution)
    result = {}
    for part in PARTS:
        photos = {photo: truth[photo] for photo in truth if usage[photo] == part}
        if photos:
            result[part.lower()] = _recognition_numbers(photos, predicted)
    return result


def _recognition_numbers(
    truth: dict[str, list[str]], predicted: RecognitionPrediction
) -> dict[str, Any]:
    # Of equal scores the lower id counts first: the challenge's convention.
    order = np.argsort(predicted.ids, kind="stable")
    inside = order[[predicted.ids[row] in truth for row in order]]
    ids, landmarks = predicted.ids[inside], predicted.landmarks[inside]
    scores = predicted.scores[inside]
    correct = np.array(
        [name in truth[photo] for photo, name in zip(ids, landmarks, strict=True)], bool
    )
    shows = np.array([bool(truth[photo]) for photo in ids], bool)
    positives = sum(bool(names) for names in truth.values())
    return {
        "gap": gldv2.micro_ap(scores, correct, positives),
        "gap_ignoring_images_without_landmark": gldv2.micro_ap(
            scores[shows], correct[shows], positives
        ),
        "top1_accuracy": gldv2.top_1(correct, positives),
    }


def _refuse_unknown(
    ids: Iterable[str], known: Container[str], submission: str | Path, solution: str | Path
) -> None:
    unknown = [name for name in ids if name not in known]
    if unknown:
        raise UserError(
            f"{submission}: {unknown[0]} ({len(unknown):,} in all) is not a query of {solution}"
        )
