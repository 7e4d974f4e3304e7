"""The challenges' files: submissions, and the solutions that they are scored against."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.artifact.rankings import Rankings
from landmark.artifact.table import check_ids, read_frame
from landmark.disk.atomic import atomic_file
from landmark.error import UserError

MOST_IMAGES = 100
USAGES = ("Public", "Private", "Ignored")


@dataclass(frozen=True)
class RecognitionPrediction:
    """The predictions of a recognition submission that are not empty, in the file's order.

    Attributes:
        ids: (P,) query ids.
        landmarks: (P,) predicted landmark ids.
        scores: (P,) confidences.
    """

    ids: NDArray[np.str_]
    landmarks: NDArray[np.str_]
    scores: NDArray[np.float64]


def write_retrieval(path: str | Path, rankings: Rankings, k: int = MOST_IMAGES) -> None:
    """Writes `id,images`: each query's first `k` gallery ids, separated by spaces."""
    with atomic_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "images"))
        for query, rows in zip(rankings.query_ids, rankings.rows[:, :k], strict=True):
            writer.writerow((query, " ".join(rankings.gallery_ids[rows[rows >= 0]])))


def check_retrieval(
    path: str | Path, gallery_ids: Iterable[str], query_ids: Iterable[str] | None = None
) -> int:
    """Checks a retrieval submission as the challenge would.

    Args:
        path: the submission.
        gallery_ids: what may be named.
        query_ids: the queries that must have a line each, where known.

    Returns:
        The number of queries.

    Raises:
        UserError: more than 100 images in a line, one twice, one that is not in the gallery, a
            query that is missing or unknown; names the first.
    """
    submitted = read_retrieval(path)
    known = set(gallery_ids)
    for query, images in submitted.items():
        if len(images) > MOST_IMAGES:
            raise UserError(
                f"{path}: query {query} has {len(images)} images, at most {MOST_IMAGES} are allowed"
            )
        if len(set(images)) < len(images):
            twice = next(image for place, image in enumerate(images) if image in images[:place])
            raise UserError(f"{path}: query {query} names image {twice} more than once")
        for image in images:
            if image not in known:
                raise UserError(f"{path}: query {query} names {image}, not in the gallery")
    if query_ids is not None:
        wanted = set(query_ids)
        for problem, ids in (
            ("lacks", wanted - submitted.keys()),
            ("has unknown", submitted.keys() - wanted),
        ):
            if ids:
                raise UserError(f"{path}: {problem} query {min(ids)} ({len(ids):,} in all)")
    return len(submitted)


def read_retrieval(path: str | Path) -> dict[str, list[str]]:
    """Query id → image ids in their order, of a submission's or solution's `id,images`.

    Raises:
        UserError: a column is missing, or an id is empty or repeated.
    """
    frame = _read(path, ("id", "images"))
    return dict(zip(frame["id"], frame["images"].fillna("").str.split(), strict=True))


def read_usage(path: str | Path) -> dict[str, str]:
    """Query id → Public, Private or Ignored, of a solution; Public where it has no Usage.

    Raises:
        UserError: another usage, or a file that is no solution.
    """
    frame = _read(path, ("id",))
    if "Usage" not in frame.columns:
        return dict.fromkeys(frame["id"], "Public")
    unknown = frame["Usage"][~frame["Usage"].isin(USAGES)]
    if len(unknown):
        raise UserError(
            f"{path}: Usage {unknown.iloc[0]!r} in row {unknown.index[0] + 1}; "
            f"choose {', '.join(USAGES)}"
        )
    return dict(zip(frame["id"], frame["Usage"], strict=True))


def read_recognition_solution(path: str | Path) -> dict[str, list[str]]:
    """Query id → the landmark ids that it shows, none for a photo without a landmark.

    Raises:
        UserError: a column is missing, or an id is empty or repeated.
    """
    frame = _read(path, ("id", "landmarks"))
    return dict(zip(frame["id"], frame["landmarks"].fillna("").str.split(), strict=True))


def read_recognition_submission(path: str | Path) -> RecognitionPrediction:
    """The predictions `landmark_id score`; lines without one are left out.

    Raises:
        UserError: a column is missing, an id is empty or repeated, or a line is neither empty
            nor a landmark and a number.
    """
    frame = _read(path, ("id", "landmarks"))
    parts = frame["landmarks"].fillna("").str.split()
    made = parts[parts.str.len() > 0]
    wrong = made[made.str.len() != 2]
    if len(wrong):
        raise UserError(
            f"{path}: row {wrong.index[0] + 1}: {' '.join(wrong.iloc[0])!r} is no "
            "'landmark_id score'"
        )
    scores = pd.to_numeric(made.str[1], errors="coerce")
    if scores.isna().any():
        row = int(scores.isna().to_numpy().argmax())
        raise UserError(
            f"{path}: row {made.index[row] + 1}: score {made.iloc[row][1]!r} is no number"
        )
    return RecognitionPrediction(
        ids=frame["id"].loc[made.index].to_numpy(dtype=str),
        landmarks=made.str[0].to_numpy(dtype=str),
        scores=scores.to_numpy(np.float64),
    )


def _read(path: str | Path, columns: tuple[str, ...]) -> pd.DataFrame:
    frame = read_frame(path, text_columns=("id", "images", "landmarks", "Usage"))
    for name in columns:
        if name not in frame.columns:
            found = ", ".join(map(str, frame.columns))
            raise UserError(f"{path}: has no column {name} (columns: {found})")
    check_ids(frame["id"], path)
    return frame
