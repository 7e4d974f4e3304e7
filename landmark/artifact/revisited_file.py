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
        if (query_ids or with_photos) and len(query_ids) != len(queries):
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
        rows = [{kind: query[kind] for kind in KINDS} for query in queries]
        return cls(rows, query_ids, gallery_ids, _boxes(path, queries if with_photos else []))


def _lists(path: str | Path, content: object, required: Sequence[str]) -> Iterable[list[Any]]:
    """Return `gnd`, `imlist` and `qimlist`; empty if missing and not required."""
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
    return [value or [] for value in lists.values()]


def _check_distinct(path: str | Path, key: str, names: Sequence[str]) -> None:
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
