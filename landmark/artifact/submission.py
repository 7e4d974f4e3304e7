"""Files of the challenges: submissions, and solutions to score them."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.artifact.rankings import Rankings
from landmark.artifact.table import check_columns, check_ids, check_values, read_frame
from landmark.disk.atomic import atomic_file
from landmark.error import UserError

MOST_IMAGES = 100
USAGES = ("Public", "Private", "Ignored")


@dataclass(frozen=True)
class RecognitionPrediction:
    """The non-empty predictions of a recognition submission, in the order of the file.

    Attributes:
        ids: Query ids, (P,).
        landmarks: Predicted landmark ids, (P,).
        scores: Confidences, (P,).
    """

    ids: NDArray[np.str_]
    landmarks: NDArray[np.str_]
    scores: NDArray[np.float64]


def write_retrieval(path: str | Path, rankings: Rankings, k: int = MOST_IMAGES) -> None:
    """Write `id,images`: each query's first `k` gallery ids, separated by spaces."""
    with atomic_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "images"))
        for query, rows in zip(rankings.query_ids, rankings.rows[:, :k], strict=True):
            writer.writerow((query, " ".join(rankings.gallery_ids[rows[rows >= 0]])))


def check_retrieval(
    path: str | Path, gallery_ids: Iterable[str], query_ids: Iterable[str] | None = None
) -> int:
    """Check a retrieval submission as the challenge would.

    Args:
        path: The submission.
        gallery_ids: Ids that a line may contain.
        query_ids: Queries that must have one line each. None means that they are not checked.

    Returns:
        The number of queries.

    Raises:
        UserError: A line has more than 100 images, a repeated image, or one that is not in the
            gallery, or a query is missing or unknown; names the first.
    """
    submitted = read_retrieval(path)
    gallery = set(gallery_ids)
    for query, images in submitted.items():
        if len(images) > MOST_IMAGES:
            raise UserError(
                f"{path}: query {query} has {len(images)} images. List at most {MOST_IMAGES}."
            )
        if len(set(images)) < len(images):
            repeated = next(image for rank, image in enumerate(images) if image in images[:rank])
            raise UserError(
                f"{path}: query {query} lists image {repeated} more than once. List each once."
            )
        for image in images:
            if image not in gallery:
                raise UserError(
                    f"{path}: query {query} lists {image}, which is not in the gallery. Use ids of "
                    "the gallery."
                )
    if query_ids is not None:
        expected = set(query_ids)
        for problem, ids in (
            ("missing", expected - submitted.keys()),
            ("unknown", submitted.keys() - expected),
        ):
            if ids:
                raise UserError(
                    f"{path}: {problem} query {min(ids)} ({len(ids):,} in all). Write one line per "
                    "query."
                )
    return len(submitted)


def read_retrieval(path: str | Path) -> dict[str, list[str]]:
    """Read `id,images` of a submission or solution: query id → image ids in order.

    Raises:
        UserError: A column is missing, or an id is empty or repeated.
    """
    frame = _read(path, ("id", "images"))
    return dict(zip(frame["id"], frame["images"].fillna("").str.split(), strict=True))


def read_usage(path: str | Path) -> dict[str, str]:
    """Read the Usage of a solution: query id → Public, Private or Ignored. Defaults to Public.

    Raises:
        UserError: A usage is not valid, or the file is not a solution.
    """
    frame = _read(path, ("id",))
    if "Usage" not in frame.columns:
        return dict.fromkeys(frame["id"], "Public")
    check_values(frame["Usage"], USAGES, path)
    return dict(zip(frame["id"], frame["Usage"], strict=True))


def read_recognition_solution(path: str | Path) -> dict[str, list[str]]:
    """Read a solution: query id → ids of the landmarks shown, empty without a landmark.

    Raises:
        UserError: A column is missing, or an id is empty or repeated.
    """
    frame = _read(path, ("id", "landmarks"))
    return dict(zip(frame["id"], frame["landmarks"].fillna("").str.split(), strict=True))


def read_recognition_submission(path: str | Path) -> RecognitionPrediction:
    """Read the predictions `landmark_id score`; empty ones are dropped.

    Raises:
        UserError: A column is missing, an id is empty or repeated, or a line is neither empty
            nor a landmark and a number.
    """
    frame = _read(path, ("id", "landmarks"))
    parts = frame["landmarks"].fillna("").str.split()
    predicted = parts[parts.str.len() > 0]
    wrong = predicted[predicted.str.len() != 2]
    if len(wrong):
        raise UserError(
            f"{path}: row {wrong.index[0] + 1}: {' '.join(wrong.iloc[0])!r} is not valid. Write "
            "'landmark_id score' or nothing."
        )
    scores = pd.to_numeric(predicted.str[1], errors="coerce")
    if scores.isna().any():
        row = int(scores.isna().to_numpy().argmax())
        raise UserError(
            f"{path}: row {predicted.index[row] + 1}: score {predicted.iloc[row][1]!r} is not a "
            "number. Write 'landmark_id score'."
        )
    return RecognitionPrediction(
        ids=frame["id"].loc[predicted.index].to_numpy(dtype=str),
        landmarks=predicted.str[0].to_numpy(dtype=str),
        scores=scores.to_numpy(np.float64),
    )


def _read(path: str | Path, columns: tuple[str, ...]) -> pd.DataFrame:
    frame = read_frame(path, text_columns=("id", "images", "landmarks", "Usage"))
    check_columns(frame, columns, path)
    check_ids(frame["id"], path)
    return frame
