"""The official metrics of GLDv2 retrieval and recognition submissions."""

from collections.abc import Container, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from landmark.artifact.submission import (
    MOST_IMAGES,
    RecognitionPrediction,
    is_whole_number,
    read_recognition_solution,
    read_recognition_submission,
    read_retrieval,
    read_usage,
)
from landmark.error import UserError
from landmark.metric import gldv2
from landmark.metric.recall import recall_at_k
from landmark.metric.relevance import hits_by_list
from landmark.processes import notice
from landmark.score.evaluation import Cutoffs


def score_retrieval(
    solution: str | Path,
    submission: str | Path,
    allow_self: bool = False,
    map_at: int | Sequence[int] | None = None,
    recall_at: int | Sequence[int] | None = None,
) -> dict[str, dict[str, Any]]:
    """Compute the official retrieval metrics of each part of the solution.

    Queries that the solution marks as ignored are excluded; a query without a prediction scores 0.
    Of more than 100 images of a query, the first 100 count, or as many as `map_at` and `recall_at`.

    Args:
        solution: CSV `id,images,Usage`.
        submission: CSV `id,images`.
        allow_self: Keep a query that is among its own images. By default its own photo is neither a
            result nor relevant, and a query with no other relevant image is excluded.
        map_at: Further k of the mean average precision. Defaults to none.
        recall_at: k of the recall, the fraction of the queries with a relevant image among their
            first k. Defaults to none.

    Returns:
        For `public` and `private`, unless empty: mean average precision at 100 and 10, mean
        precision at 1, 5, 10 and 100, mean and median position of the first hit; with `map_at` and
        `recall_at` also `mean_average_precision_at_<k>` and `recall_at_<k>`.

    Raises:
        UserError: A file is missing or malformed, the submission contains an unknown query, no
            query of the solution counts, or no image of the submission is in the solution.
    """
    truth, predicted = read_retrieval(solution), read_retrieval(submission)
    _check_known(predicted, truth, submission, solution)
    parts = _parts(truth, solution)
    if not allow_self:
        _exclude_self(parts, predicted)
    _check_counted(parts, solution)
    counted = [query for part in parts.values() for query in part]
    submitted = [image for query in counted for image in predicted.get(query, [])]
    _check_overlap(_answers(parts), submitted, ("image", submission, solution))
    absent = sum(query not in predicted for query in counted)
    if absent:
        notice(f"{submission} has no row for {absent:,} of {len(counted):,} queries: they score 0.")
    cutoffs = Cutoffs.of(map_at, recall_at)
    most = max(MOST_IMAGES, cutoffs.deepest)
    long = sum(len(predicted.get(query, [])) > most for query in counted)
    if long:
        notice(
            f"{submission}: {long:,} of {len(counted):,} queries list more than {most} images; the "
            f"first {most} count."
        )
    return {
        part: _retrieval_metrics(
            list(relevant.values()),
            [predicted.get(query, [])[:most] for query in relevant],
            cutoffs,
        )
        for part, relevant in parts.items()
    }


def _exclude_self(parts: dict[str, dict[str, list[str]]], predicted: dict[str, list[str]]) -> None:
    """Drop each query from its own images, in both, and queries without another relevant image."""
    dropped, excluded, queries = 0, 0, sum(map(len, parts.values()))
    for part in parts.values():
        for query, relevant in list(part.items()):
            results = predicted.get(query, [])
            if query not in relevant and query not in results:
                continue
            dropped += 1
            if query in predicted:
                predicted[query] = [image for image in results if image != query]
            part[query] = [image for image in relevant if image != query]
            if relevant and not part[query]:
                excluded += 1
                del part[query]
    if dropped:
        notice(
            f"{dropped:,} of {queries:,} queries are among their own images: their own photo does "
            f"not count, and {excluded:,} without another relevant image are excluded. Pass "
            "allow_self=true to count them."
        )


def _retrieval_metrics(
    relevant: list[list[str]], predicted: list[list[str]], cutoffs: Cutoffs
) -> dict[str, Any]:
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
        **{
            f"mean_average_precision_at_{k}": gldv2.map_at_k(hits, counts, k)
            for k in dict.fromkeys((100, 10, *cutoffs.map_at))
        },
        "mean_precision_at_1_5_10_100": [
            float(gldv2.precision_at_k(hits, k).mean()) for k in (1, 5, 10, 100)
        ],
        "mean_position": float(positions.mean()),
        "median_position": float(np.median(positions)),
        **{f"recall_at_{k}": float(recall_at_k(hits, k).mean()) for k in cutoffs.recall_at},
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
    parts = _parts(truth, solution)
    _check_counted(parts, solution)
    known = _answers(parts)
    counted = np.array([any(one in part for part in parts.values()) for one in predicted.ids], bool)
    names = predicted.landmarks[counted].tolist()
    if all(map(is_whole_number, known)):
        for query, name in zip(predicted.ids[counted], names, strict=True):
            if not is_whole_number(name):
                raise UserError(
                    f"{submission}: landmark {name!r} of {query} is not a whole number, as those "
                    f"of {solution} are. Write 'landmark_id score'."
                )
    _check_overlap(known, names, ("landmark", submission, solution))
    return {part: _recognition_metrics(images, predicted) for part, images in parts.items()}


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


def _parts(truth: dict[str, list[str]], solution: str | Path) -> dict[str, dict[str, list[str]]]:
    """Return the parts `public` and `private` of the truth."""
    usage = read_usage(solution)
    return {
        name.lower(): {key: names for key, names in truth.items() if usage[key] == name}
        for name in ("Public", "Private")
    }


def _answers(parts: dict[str, dict[str, list[str]]]) -> set[str]:
    """Return the relevant images, or the landmarks, of all queries that count."""
    return set(chain.from_iterable(names for part in parts.values() for names in part.values()))


def _check_counted(parts: dict[str, dict[str, list[str]]], solution: str | Path) -> None:
    """Drop empty parts, and check that a query with an answer is left."""
    for name in [name for name, part in parts.items() if not part]:
        del parts[name]
    if not _answers(parts):
        problem = "no query that counts has an answer" if parts else "no query counts"
        raise UserError(
            f"{solution}: {problem}, so there is nothing to score. Pass a solution with Public or "
            "Private queries and their images or landmarks."
        )


def _check_overlap(
    known: Container[str], submitted: Sequence[str], where: tuple[str, str | Path, str | Path]
) -> None:
    """Check that a submission answers queries that count, with ids that the solution has."""
    kind, submission, solution = where
    if not submitted:
        raise UserError(
            f"{submission} has no prediction for a query that counts in {solution}. Pass a "
            "submission with predictions."
        )
    if not any(name in known for name in submitted):
        raise UserError(
            f"{submission}: none of its {kind} ids, such as {submitted[0]!r}, is in {solution}. "
            "Write the ids as the solution does."
        )


def _check_known(
    ids: Iterable[str], known: Container[str], submission: str | Path, solution: str | Path
) -> None:
    unknown = [name for name in ids if name not in known]
    if unknown:
        raise UserError(
            f"{submission}: {unknown[0]} ({len(unknown):,} in all) is not in {solution}. "
            "Pass the solution of the same queries."
        )
