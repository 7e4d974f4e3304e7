"""The official metrics of GLDv2 retrieval and recognition submissions."""

from collections.abc import Container, Iterable, Iterator
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


def score_retrieval(solution: str | Path, submission: str | Path) -> dict[str, dict[str, Any]]:
    """Compute the official retrieval metrics of each part of the solution.

    Queries that the solution marks as ignored are excluded; a query without a prediction scores 0.

    Args:
        solution: CSV `id,images,Usage`.
        submission: CSV `id,images`.

    Returns:
        For `public` and `private`, unless empty: mean average precision at 100 and 10, mean
        precision at 1, 5, 10 and 100, mean and median position of the first hit.

    Raises:
        UserError: A file is missing or malformed, or the submission contains an unknown query.
    """
    truth, predicted = read_retrieval(solution), read_retrieval(submission)
    _check_known(predicted, truth, submission, solution)
    return {
        part: _retrieval_metrics(
            list(relevant.values()), [predicted.get(query, []) for query in relevant]
        )
        for part, relevant in _parts(truth, solution)
    }


def _retrieval_metrics(relevant: list[list[str]], predicted: list[list[str]]) -> dict[str, Any]:
    names = pd.Index(list(dict.fromkeys(chain.from_iterable(relevant + predicted))), dtype=object)
    depth = max((len(images) for images in predicted), default=0)
    rows = np.full((len(predicted), depth), -1, np.int64)
    for query, images in enumerate(predicted):
        rows[query, : len(images)] = names.get_indexer(images)
    hits, counts = hits_by_list(rows, [names.get_indexer(images) for images in relevant])
    # The organisers score a query without relevant images as if one image had been missed.
    counts = np.maximum(counts, 1)
    positions = gldv2.first_hit_position(hits)
    return {
        "mean_average_precision_at_100": gldv2.map_at_k(hits, counts, 100),
        "mean_average_precision_at_10": gldv2.map_at_k(hits, counts, 10),
        "mean_precision_at_1_5_10_100": [
            float(gldv2.precision_at_k(hits, k).mean()) for k in (1, 5, 10, 100)
        ],
        "mean_position": float(positions.mean()),
        "median_position": float(np.median(positions)),
    }


def score_recognition(solution: str | Path, submission: str | Path) -> dict[str, dict[str, Any]]:
    """Compute the official recognition metrics of each part of the solution.

    Args:
        solution: CSV `id,landmarks,Usage`.
        submission: CSV `id,landmarks`.

    Returns:
        For `public` and `private`, unless empty: `gap` (micro average precision), the same without
        the images that show no landmark, and `top1_accuracy`.

    Raises:
        UserError: A file is missing or malformed, or the submission contains an unknown image.
    """
    truth = read_recognition_solution(solution)
    predicted = read_recognition_submission(submission)
    _check_known(predicted.ids, truth, submission, solution)
    return {
        part: _recognition_metrics(images, predicted) for part, images in _parts(truth, solution)
    }


def _recognition_metrics(
    truth: dict[str, list[str]], predicted: RecognitionPrediction
) -> dict[str, Any]:
    # Ties are ordered by id, the challenge's convention.
    order = np.argsort(predicted.ids, kind="stable")
    counted = order[[predicted.ids[row] in truth for row in order]]
    ids, landmarks = predicted.ids[counted], predicted.landmarks[counted]
    scores = predicted.scores[counted]
    correct = np.array(
        [name in truth[image] for image, name in zip(ids, landmarks, strict=True)], bool
    )
    has_landmark = np.array([bool(truth[image]) for image in ids], bool)
    positives = sum(bool(names) for names in truth.values())
    return {
        "gap": gldv2.micro_ap(scores, correct, positives),
        "gap_ignoring_images_without_landmark": gldv2.micro_ap(
            scores[has_landmark], correct[has_landmark], positives
        ),
        "top1_accuracy": gldv2.top_1(correct, positives),
    }


def _parts(
    truth: dict[str, list[str]], solution: str | Path
) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Yield `public` and `private` with their part of the truth, unless empty."""
    usage = read_usage(solution)
    for name in ("Public", "Private"):
        part = {key: names for key, names in truth.items() if usage[key] == name}
        if part:
            yield name.lower(), part


def _check_known(
    ids: Iterable[str], known: Container[str], submission: str | Path, solution: str | Path
) -> None:
    unknown = [name for name in ids if name not in known]
    if unknown:
        raise UserError(
            f"{submission}: {unknown[0]} ({len(unknown):,} in all) is not in {solution}. "
            "Pass the solution of the same queries."
        )
