"""The published ground truth of ROxford and RParis, `gnd_*.pkl`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.artifact.restricted_pickle import load_pickle
from landmark.error import UserError

KINDS = ("easy", "hard", "junk")


@dataclass(frozen=True, eq=False)
class RevisitedFile:
    """Ground truth of Q queries.

    Attributes:
        queries: The `easy`, `hard` and `junk` gallery rows of each query.
        query_ids: Name of each query; empty if the file has none.
        gallery_ids: Name of each gallery photo, in the order of the rows; empty likewise.
        boxes: (Q, 4) left, top, right, bottom of each query in pixels; empty unless requested.
    """

    queries: list[dict[str, Any]]
    query_ids: list[str]
    gallery_ids: list[str]
    boxes: NDArray[np.float64]

    @classmethod
    def open(cls, path: str | Path, with_photos: bool = False) -> "RevisitedFile":
        """Read the pickle without running what it may ask for.

        Args:
            path: The pickle.
            with_photos: Require what tells which photos these are: the names, and the box `bbx` of
                each query. Defaults to the lists of rows alone.

        Raises:
            UserError: The file is missing, refused as a pickle, or not such a ground truth.
        """
        content = load_pickle(path)
        required = ["gnd", "imlist", "qimlist"] if with_photos else ["gnd"]
        queries, gallery_ids, query_ids = _lists(path, content, required)
        if (query_ids or with_photos) and len(query_ids) != len(queries):
            raise UserError(
                f"{path}: gnd has {len(queries):,} entries, qimlist {len(query_ids):,} names."
            )
        keys = [*KINDS, *(["bbx"] if with_photos else [])]
        for row, query in enumerate(queries):
            if not isinstance(query, Mapping) or not set(keys) <= query.keys():
                raise UserError(f"{path}: gnd[{row}] must contain {', '.join(keys)}.")
        rows = [{kind: query[kind] for kind in KINDS} for query in queries]
        return cls(rows, query_ids, gallery_ids, _boxes(path, queries if with_photos else []))


def _lists(path: str | Path, content: object, required: Sequence[str]) -> Iterable[list[Any]]:
    """`gnd`, `imlist` and `qimlist`; empty where one is missing and not required."""
    values = content if isinstance(content, dict) else {}
    lists = {key: values.get(key) for key in ("gnd", "imlist", "qimlist")}
    for key, value in lists.items():
        if not isinstance(value, list) and (key in required or value is not None):
            raise UserError(
                f"{path} is not a ground truth of ROxford or RParis: it must contain the lists "
                f"{', '.join(required)}, and {key} is {'missing' if value is None else 'no list'}."
            )
        if key != "gnd" and value is not None:
            _check_distinct(path, key, value)
    return [value or [] for value in lists.values()]


def _check_distinct(path: str | Path, key: str, names: Sequence[str]) -> None:
    repeated = pd.Index(names, dtype=object).duplicated()
    if repeated.any():
        raise UserError(f"{path}: duplicate name {names[int(repeated.argmax())]!r} in {key}.")


def _boxes(path: str | Path, queries: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    try:
        return np.array([query["bbx"] for query in queries], np.float64).reshape(len(queries), 4)
    except (TypeError, ValueError):
        raise UserError(f"{path}: each bbx in gnd must be four numbers.") from None
