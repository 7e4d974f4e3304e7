"""Files of the challenges: submissions, and solutions to score them."""

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.artifact.challenge_table import read_challenge_table
from landmark.artifact.rankings import Rankings
from landmark.artifact.recognition import Recognition
from landmark.artifact.table import check_values
from landmark.disk.atomic import atomic_file
from landmark.error import UserError
from landmark.processes import notice

MOST_IMAGES = 100
USAGES = ("Public", "Private", "Ignored")
# Separators other than blanks, an id in quotes, or a list written as text.
_NOT_IDS = re.compile(r"""[,;|]|(?:^|\s)(['"])\S*\1(?:\s|$)|^[\[{].*[\]}]$""", re.DOTALL)
_MARKS = ",;|'\"[{"  # one of these is in every text that `_NOT_IDS` matches
_DECIMAL = r"[+-]?(?:\d+\.\d*|\.\d+|\d+(?:\.\d*)?[eE][+-]?\d+)"
_NOT_A_LANDMARK = r"^[\[{(]|[,;|:]$|^\d+[,;|]\d"
_WAY_OUT = "Rename the photo and extract again, or pass submission=false to write no submission."
_MISSING = ("nan", "none", "null", "na", "<na>")


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


def check_can_submit(query_ids: NDArray[np.str_], gallery_ids: NDArray[np.str_]) -> None:
    """Check that a submission can hold these ids, before any work.

    Raises:
        UserError: An id of the gallery contains a separator of ids, or an id of a query cannot be
            read back; names the first.
    """
    for wrong in _unreadable(gallery_ids):
        raise UserError(
            f"gallery id {wrong!r} cannot be listed in submission.csv: blanks and the "
            "characters , ; | separate ids there, and brackets and quotes enclose lists. "
            f"{_WAY_OUT}"
        )
    _check_query_ids(query_ids)


def _check_query_ids(query_ids: NDArray[np.str_]) -> None:
    for query in query_ids.tolist():
        if query != query.strip() or len(query.splitlines()) != 1:
            raise UserError(
                f"query id {query!r} cannot be written to submission.csv: it begins or ends "
                f"with a blank, or contains a line break. {_WAY_OUT}"
            )


def _unreadable(ids: NDArray[np.str_]) -> Iterator[str]:
    """Yield the ids that `read_retrieval` would not return as they are."""
    joined = " ".join(ids.tolist())
    if joined.split() == ids.tolist() and not any(mark in joined for mark in _MARKS):
        return  # quickly, for a million ids
    for one in ids.tolist():
        if one.split() != [one] or one[0] in "[{" or _NOT_IDS.search(one):
            yield one


def write_retrieval(path: str | Path, rankings: Rankings, k: int = MOST_IMAGES) -> None:
    """Write `id,images`: each query's first `k` gallery ids, separated by spaces.

    Raises:
        UserError: An id contains a separator (see `check_can_submit`).
    """
    check_can_submit(rankings.query_ids, rankings.gallery_ids)
    with atomic_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "images"))
        for query, rows in zip(rankings.query_ids, rankings.rows[:, :k], strict=True):
            writer.writerow((query, " ".join(rankings.gallery_ids[rows[rows >= 0]])))


def check_can_predict(query_ids: NDArray[np.str_], landmark_ids: NDArray[np.str_]) -> None:
    """Check that a submission can hold predictions of these landmarks, before any work.

    Raises:
        UserError: A landmark id could not be read back, or a query id; names the first.
    """
    names = pd.Series(landmark_ids, dtype="str")
    is_wrong = names.str.contains(r"\s").to_numpy(bool) | (names == "").to_numpy(bool)
    for pattern in (rf"^{_DECIMAL}$", _NOT_A_LANDMARK):
        is_wrong |= names.str.contains(pattern).to_numpy(bool)
    if is_wrong.any():
        raise UserError(
            f"landmark {str(names[int(is_wrong.argmax())])!r} cannot be predicted in "
            "submission.csv: a blank separates landmark and score there, and decimal numbers, "
            "brackets and separators are not ids. Rename the landmark and extract again, or pass "
            "submission=false to write no submission."
        )
    _check_query_ids(query_ids)


def write_recognition(path: str | Path, recognition: Recognition) -> None:
    """Write `id,landmarks`: each query's landmark and its score, or nothing.

    The score is the confidence if there is one, written so that it is read back exactly.

    Raises:
        UserError: An id could not be read back (see `check_can_predict`).
    """
    predicted = recognition.is_predicted
    check_can_predict(recognition.ids, np.unique(recognition.landmarks[predicted]))
    scores = recognition.scores if recognition.confidences is None else recognition.confidences
    with atomic_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "landmarks"))
        for query, landmark, score in zip(
            recognition.ids.tolist(), recognition.landmarks.tolist(), scores.tolist(), strict=True
        ):
            writer.writerow((query, f"{landmark} {score!r}" if landmark else ""))


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
        UserError: A column is missing, an id is empty or repeated, or a row is not a list of ids
            separated by blanks.
    """
    frame = read_challenge_table(path, ("id", "images"))
    images = frame["images"].fillna("")
    wrong = images[
        [any(mark in text for mark in _MARKS) and bool(_NOT_IDS.search(text)) for text in images]
    ]
    if len(wrong):
        raise UserError(
            f"{path}: images {_shortened(wrong.iloc[0])} in row {wrong.index[0] + 1} is not a list "
            "of ids separated by blanks. Write 'id id id'."
        )
    return dict(zip(frame["id"], images.str.split(), strict=True))


def read_usage(path: str | Path) -> dict[str, str]:
    """Read the Usage of a solution: query id → Public, Private or Ignored. Defaults to Public.

    Raises:
        UserError: A usage is not valid, or the file is not a solution.
    """
    frame = read_challenge_table(path, ("id",))
    if "Usage" not in frame.columns:
        columns = ", ".join(map(str, frame.columns))
        notice(f"{path} has no column Usage (columns: {columns}): every query counts as public.")
        return dict.fromkeys(frame["id"], "Public")
    if frame.attrs["Usage"] != "Usage":
        notice(f"{path}: the column {frame.attrs['Usage']!r} is used as Usage.")
    check_values(frame["Usage"], USAGES, path)
    return dict(zip(frame["id"], frame["Usage"], strict=True))


def read_recognition_solution(path: str | Path) -> dict[str, list[str]]:
    """Read a solution: query id → ids of the landmarks shown, empty without a landmark.

    Raises:
        UserError: A column is missing, an id is empty or repeated, or a landmark is not an id.
    """
    frame = read_challenge_table(path, ("id", "landmarks"))
    parts = frame["landmarks"].fillna("").str.split()
    landmarks = parts.explode().dropna()
    _check_landmarks(landmarks, path)
    if landmarks.map(is_whole_number).any():
        wrong = landmarks[landmarks.str.lower().isin(_MISSING)]
        if len(wrong):
            raise UserError(
                f"{path}: landmark {wrong.iloc[0]!r} in row {wrong.index[0] + 1} is not an id. "
                "Leave the field empty where there is no landmark."
            )
    return dict(zip(frame["id"], parts, strict=True))


def read_recognition_submission(path: str | Path) -> RecognitionPrediction:
    """Read the predictions `landmark_id score`; empty ones are dropped.

    Raises:
        UserError: A column is missing, an id is empty or repeated, or a line is neither empty
            nor a landmark and a finite number.
    """
    frame = read_challenge_table(path, ("id", "landmarks"))
    parts = frame["landmarks"].fillna("").str.split()
    predicted = parts[parts.str.len() > 0]
    wrong = predicted[predicted.str.len() != 2]
    if len(wrong):
        raise UserError(
            f"{path}: row {wrong.index[0] + 1}: {_shortened(' '.join(wrong.iloc[0]))} is not "
            "valid. Write 'landmark_id score' or nothing."
        )
    _check_landmarks(predicted.str[0], path)
    scores = pd.to_numeric(predicted.str[1], errors="coerce")
    is_wrong = ~np.isfinite(scores.to_numpy(np.float64))
    if is_wrong.any():
        row = int(is_wrong.argmax())
        raise UserError(
            f"{path}: row {predicted.index[row] + 1}: score {predicted.iloc[row][1]!r} is not a "
            "number, or not finite. Write 'landmark_id score'."
        )
    return RecognitionPrediction(
        ids=frame["id"].loc[predicted.index].to_numpy(dtype=str),
        landmarks=predicted.str[0].to_numpy(dtype=str),
        scores=scores.to_numpy(np.float64),
    )


def is_whole_number(text: str) -> bool:
    """Whether a landmark is a number, as those of GLDv2.

    Example:
        >>> [is_whole_number(text) for text in ("12", "-1", "12.0", "tower")]
        [True, True, False, False]
    """
    return re.fullmatch(r"[+-]?\d+", text) is not None


def _check_landmarks(landmarks: pd.Series, path: str | Path) -> None:
    """Check that no landmark is a decimal number, or contains a separator or a bracket."""
    wrong = landmarks[landmarks.str.fullmatch(_DECIMAL).astype(bool)]
    if len(wrong):
        raise UserError(
            f"{path}: landmark {wrong.iloc[0]!r} in row {wrong.index[0] + 1} is a decimal number, "
            "not an id. Write ids as whole numbers, before the score."
        )
    wrong = landmarks[landmarks.str.contains(_NOT_A_LANDMARK).astype(bool)]
    if len(wrong):
        raise UserError(
            f"{path}: landmark {_shortened(wrong.iloc[0])} in row {wrong.index[0] + 1} is not an "
            "id. Separate ids and scores by blanks alone."
        )


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")
