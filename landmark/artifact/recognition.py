"""The output of a recognition on disk: the predicted landmark of each query and its score."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark import __version__
from landmark.artifact.folder import check_files, check_schema, damage, read_json, write_json

SCHEMA = 1
PREDICTIONS, META, METRICS = "predictions.parquet", "meta.json", "metrics.json"


@dataclass(frozen=True, eq=False)
class Recognition:
    """The prediction of each of Q queries.

    Attributes:
        ids: Ids of the queries, (Q,) strings.
        landmarks: Predicted landmark ids, (Q,) strings; "" without a prediction.
        scores: Scores of the votes, (Q,) float64, higher is more surely right; -inf without a
            prediction.
        confidences: Calibrated scores, (Q,) float64 in [0, 1]; 0 without a prediction. None if the
            scores were not calibrated.
        truth: Landmark that each query shows, (Q,) strings, "" for none that train has. None if
            unknown.
        meta: `settings` of the recognition, and `stores`.
        metrics: Metrics, if the truth is known.

    Raises:
        ValueError: The lengths differ, or a prediction has a score that is not finite.
    """

    ids: NDArray[np.str_]
    landmarks: NDArray[np.str_]
    scores: NDArray[np.float64]
    confidences: NDArray[np.float64] | None = None
    truth: NDArray[np.str_] | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = (self.landmarks, self.scores, self.confidences, self.truth)
        if any(column is not None and len(column) != len(self.ids) for column in columns):
            raise ValueError(f"columns of different lengths for {len(self.ids)} queries")
        if not np.isfinite(self.scores[self.is_predicted]).all():
            raise ValueError("a prediction has a score that is not finite")

    @property
    def is_predicted(self) -> NDArray[np.bool_]:
        """Whether each query has a prediction, (Q,)."""
        return self.landmarks != ""

    @property
    def is_correct(self) -> NDArray[np.bool_]:
        """Whether each prediction is the query's landmark, (Q,); False without a prediction.

        Raises:
            ValueError: The truth is unknown.
        """
        if self.truth is None:
            raise ValueError("the landmarks of the queries are unknown")
        return self.is_predicted & (self.landmarks == self.truth)

    @property
    def positives(self) -> int:
        """Number of queries that show a landmark."""
        return 0 if self.truth is None else int((self.truth != "").sum())

    def write_into(self, folder: Path) -> None:
        """Write the files into an existing folder, such as that of `atomic_folder`."""
        columns: dict[str, Any] = {
            "id": pd.Series(self.ids, dtype="str"),
            "landmark_id": pd.Series(self.landmarks, dtype="str"),
            "score": self.scores,
        }
        if self.confidences is not None:
            columns["confidence"] = self.confidences
        if self.truth is not None:
            columns["truth"] = pd.Series(self.truth, dtype="str")
        pd.DataFrame(columns).to_parquet(folder / PREDICTIONS, index=False)
        write_json(folder / META, {"schema": SCHEMA, "version": __version__, **self.meta})
        write_json(folder / METRICS, self.metrics)

    @classmethod
    def open(cls, path: str | Path) -> "Recognition":
        """Read a folder that `landmark recognize` wrote.

        Raises:
            UserError: The folder has no predictions, or they are damaged or of a later version.
        """
        path = Path(path)
        names = (PREDICTIONS, META, METRICS)
        check_files(path, names, "the output of a recognition", "recognize.py")
        with damage(path):
            meta, metrics = (read_json(path / name) for name in (META, METRICS))
            check_schema(path, meta, SCHEMA)
            table = pd.read_parquet(path / PREDICTIONS)
            texts = {
                name: table[name].fillna("").to_numpy(dtype=str)
                for name in ("id", "landmark_id", "truth")
                if name in table.columns or name != "truth"
            }
            numbers = {
                name: table[name].to_numpy(np.float64)
                for name in ("score", "confidence")
                if name in table.columns or name != "confidence"
            }
            return cls(
                texts["id"],
                texts["landmark_id"],
                numbers["score"],
                numbers.get("confidence"),
                texts.get("truth"),
                meta,
                metrics,
            )
