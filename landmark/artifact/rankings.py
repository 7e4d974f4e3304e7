"""Rankings on disk: gallery rows of each query, best first."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark import __version__
from landmark.artifact.folder import check_files, check_schema, damage, read_json, write_json

SCHEMA = 1
ROWS, SCORES = "rows.npy", "scores.npy"
QUERY_IDS, GALLERY_IDS = "query_ids.parquet", "gallery_ids.parquet"
META, METRICS = "meta.json", "metrics.json"


@dataclass(frozen=True, eq=False)
class Rankings:
    """The result of a search and its re-rankers.

    Attributes:
        rows: Rows of the gallery, (Q, K) int32, best first; -1 pads.
        scores: Scores, (Q, K) float32, higher is better.
        query_ids: Ids of the queries, (Q,) strings.
        gallery_ids: Ids of the gallery, (N,) strings.
        meta: Steps of the chain with their settings.
        metrics: Metrics of each step.
    """

    rows: NDArray[np.int32]
    scores: NDArray[np.float32]
    query_ids: NDArray[np.str_]
    gallery_ids: NDArray[np.str_]
    meta: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (
            self.rows.ndim != 2
            or self.rows.shape != self.scores.shape
            or len(self.rows) != len(self.query_ids)
        ):
            raise ValueError(
                f"rows {self.rows.shape}, scores {self.scores.shape} and {len(self.query_ids)} "
                "query ids do not match"
            )
        if self.rows.size and not -1 <= self.rows.min() <= self.rows.max() < len(self.gallery_ids):
            raise ValueError(f"a row is outside the gallery of {len(self.gallery_ids)}")

    def write_into(self, folder: Path) -> None:
        """Write the files into an existing folder, such as that of `atomic_folder`."""
        np.save(folder / ROWS, np.ascontiguousarray(self.rows, np.int32))
        np.save(folder / SCORES, np.ascontiguousarray(self.scores, np.float32))
        for name, ids in ((QUERY_IDS, self.query_ids), (GALLERY_IDS, self.gallery_ids)):
            pd.DataFrame({"id": pd.Series(ids, dtype="str")}).to_parquet(folder / name, index=False)
        write_json(folder / META, {"schema": SCHEMA, "version": __version__, **self.meta})
        write_json(folder / METRICS, self.metrics)

    @classmethod
    def open(cls, path: str | Path) -> "Rankings":
        """Read a folder of rankings.

        Rows may have any real dtype if they are whole numbers, and scores any real dtype.

        Raises:
            UserError: The folder has no rankings, or they are damaged or of a later version.
        """
        path = Path(path)
        names = (ROWS, SCORES, QUERY_IDS, GALLERY_IDS, META, METRICS)
        check_files(path, names, "a folder of rankings", "rerank.py")
        with damage(path):
            rows, scores = (np.load(path / name, allow_pickle=False) for name in (ROWS, SCORES))
            query_ids, gallery_ids = (
                pd.read_parquet(path / name)["id"].to_numpy(dtype=str)
                for name in (QUERY_IDS, GALLERY_IDS)
            )
            meta, metrics = (read_json(path / name) for name in (META, METRICS))
            rows, scores = _whole_numbers(rows), _numbers(scores)
            rankings = cls(rows, scores, query_ids, gallery_ids, meta, metrics)
        check_schema(path, meta, SCHEMA)
        return rankings


def _whole_numbers(rows: np.ndarray) -> NDArray[np.int32]:
    """Convert gallery rows to int32.

    Raises:
        ValueError: A row is not a whole number, or too large.
    """
    if rows.dtype == np.int32:
        return rows
    if rows.dtype.kind not in "iuf":
        raise ValueError(f"{ROWS} has the dtype {rows.dtype}, not whole numbers")
    with np.errstate(invalid="ignore"):
        whole = rows.astype(np.int32)
    different = whole != rows
    if different.any():
        raise ValueError(f"{ROWS} contains {rows[different][0]}, which is not a gallery row")
    return whole


def _numbers(scores: np.ndarray) -> NDArray[np.float32]:
    """Convert scores to float32.

    Raises:
        ValueError: They are not numbers.
    """
    if scores.dtype.kind not in "iuf" or np.isnan(scores).any():
        raise ValueError(f"{SCORES} of dtype {scores.dtype} contains values that are not numbers")
    return scores.astype(np.float32, copy=False)
