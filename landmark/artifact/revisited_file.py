"""The published ground truth of ROxford and RParis, `gnd_*.pkl`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.artifact.restricted_pickle import load_pickle
from landmark.error import UserError
from landmark.processes import notice

KINDS = ("easy", "hard", "junk")


@dataclass(frozen=True, eq=False)
class RevisitedFile:
    """Ground truth of Q queries.

    Attributes:
        queries: Gallery rows of each query that are `easy`, `hard` and `junk`.
        query_ids: Names of the queries; empty if the file has none.
        gallery_ids: Names of the gallery photos, in the order of the rows; empty if the file has
            none.
        boxes: (Q, 4) left, top, right, bottom of each query in pixels; empty unless requested.
    """

    queries: list[dict[str, Any]]
    query_ids: list[str]
    gallery_ids: list[str]
    boxes: NDArray[np.float64]

    @classmethod
    def open(cls, path: str | Path, with_photos: bool = False) -> "RevisitedFile":
        """Read the pickle without executing code.

        Args:
            path: Path of the pickle.
            with_photos: Require the names of the photos and the box `bbx` of each query. Defaults
                to reading only the lists of rows.

        Raises:
            UserError: The file is missing, not a plain pickle, or not such a ground truth.
        """
        content = load_pickle(path)
        required = ["gnd", "imlist", "qimlist"] if with_photos else ["gnd"]
        queries, gallery_ids, query_ids = _lists(path, content, required)
        if query_ids is not None and len(query_ids) != len(queries):
            raise UserError(
                f"{path}: gnd has {len(queries):,} entries, qimlist {len(query_ids):,} names. "
                "Pass the published file."
            )
        keys = [*KINDS, *(["bbx"] if with_photos else [])]
        for row, query in enumerate(queries):
            if not isinstance(query, Mapping) or not set(keys) <= query.keys():
                raise UserError(
                    f"{path}: gnd[{row}] must contain {', '.join(keys)}. Pass the published file."
                )
        boxes = _boxes(path, queries if with_photos else [])
        truth = cls(_rows(path, queries), query_ids or [], gallery_ids or [], boxes)
        if gallery_ids is not None:
            truth.check_rows(path, len(gallery_ids))
        return truth

    def check_rows(self, path: str | Path, photos: int) -> None:
        """Check that all rows are below the number of gallery photos.

        Raises:
            UserError: A row is not; names the first.
        """
        for number, query in enumerate(self.queries):
            for kind, rows in query.items():
                if max(rows, default=-1) >= photos:
                    raise UserError(
                        f"{path}: gnd[{number}]: {kind} contains {max(rows)}, and the gallery has "
                        f"{photos:,} photos, from 0. Pass the published file."
                    )


def _lists(path: str | Path, content: object, required: Sequence[str]) -> Iterable[Any]:
    """Return the lists `gnd`, `imlist` and `qimlist`; None if missing and not required."""
    values = content if isinstance(content, dict) else {}
    lists = {key: values.get(key) for key in ("gnd", "imlist", "qimlist")}
    for key, value in lists.items():
        if not isinstance(value, list) and (key in required or value is not None):
            problem = "missing" if value is None else "not a list"
            raise UserError(
                f"{path} is not a ground truth of ROxford or RParis: it must contain the lists "
                f"{', '.join(required)}, and {key} is {problem}."
            )
        if key != "gnd" and value is not None:
            _check_distinct(path, key, value)
    return lists.values()


def _rows(path: str | Path, queries: Sequence[Mapping[str, Any]]) -> list[dict[str, list[int]]]:
    """Return the rows of each list of each query; say which rows are in two lists of a query."""
    checked, overlaps = [], []
    for number, query in enumerate(queries):
        lists = {kind: _row_list(f"{path}: gnd[{number}]: {kind}", query[kind]) for kind in KINDS}
        checked.append(lists)
        for one, other in combinations(KINDS, 2):
            both = set(lists[one]) & set(lists[other])
            overlaps += [f"gnd[{number}]: row {min(both)} is {one} and {other}"] if both else []
    if overlaps:
        notice(
            f"{path}: {overlaps[0]} ({len(overlaps):,} in all); such a photo is a positive, "
            "not junk."
        )
    return checked


def _row_list(where: str, values: Any) -> list[int]:  # noqa: ANN401 - whatever a pickle has
    kinds = (list, tuple, set, frozenset, np.ndarray)
    if not isinstance(values, kinds) or getattr(values, "shape", None) == ():
        raise UserError(f"{where} is {values!r:.40}, not a list of rows. Pass the published file.")
    for row in values:
        is_number = isinstance(row, int | float | np.integer | np.floating)
        if not is_number or isinstance(row, bool) or row != abs(row) // 1:
            raise UserError(
                f"{where} contains {row!r:.40}, which is not a row. Pass the published file."
            )
    return [int(row) for row in values]


def _check_distinct(path: str | Path, key: str, names: Sequence[str]) -> None:
    for row, name in enumerate(names):
        if not isinstance(name, str):
            raise UserError(
                f"{path}: {key}[{row}] is {name!r:.40}, which is not a name. Pass the published "
                "file."
            )
    repeated = pd.Index(names, dtype=object).duplicated()
    if repeated.any():
        duplicate = names[int(repeated.argmax())]
        raise UserError(f"{path}: duplicate name {duplicate!r} in {key}. Pass the published file.")


def _boxes(path: str | Path, queries: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    try:
        return np.array([query["bbx"] for query in queries], np.float64).reshape(len(queries), 4)
    except (TypeError, ValueError):
        raise UserError(
            f"{path}: each bbx in gnd must be four numbers. Pass the published file."
        ) from None
