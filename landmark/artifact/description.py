"""What stands beside a store's vectors: ids, what it was made with, and what was left out."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark import __version__
from landmark.artifact.table import check_ids, read_frame
from landmark.error import UserError

Texts = Sequence[str] | NDArray[Any]

SCHEMA = 1
IDS, META, SKIPPED = "ids.parquet", "meta.json", "skipped.csv"


def ids_frame(path: str | Path, ids: Texts, landmark_ids: Texts | None) -> pd.DataFrame:
    """The rows of ids.parquet.

    Raises:
        UserError: an id is missing or repeated, or the numbers differ.
    """
    rows = pd.DataFrame({"id": pd.Series(np.asarray(ids, dtype=object), dtype="str")})
    check_ids(rows["id"], path)
    if landmark_ids is not None:
        if len(landmark_ids) != len(rows):
            raise UserError(f"{path}: {len(landmark_ids):,} landmark_ids for {len(rows):,} ids")
        rows["landmark_id"] = pd.Series(np.asarray(landmark_ids, dtype=object), dtype="str")
    return rows


def meta_text(dtype: str, meta: Mapping[str, Any]) -> str:
    """The text of meta.json.

    Raises:
        TypeError, ValueError: `meta` holds what JSON cannot, or a name that the store records.
    """
    recorded = {"schema": SCHEMA, "version": __version__, "dtype": dtype}
    if taken := recorded.keys() & meta.keys():
        raise ValueError(f"{min(taken)} is recorded by the store itself")
    return json.dumps({**recorded, **meta}, indent=1) + "\n"


def write_description(
    folder: Path, rows: pd.DataFrame, description: str, skipped: pd.DataFrame | None = None
) -> None:
    """Writes ids, meta, and the photos left out where there are any."""
    rows.to_parquet(folder / IDS, index=False)
    (folder / META).write_text(description)
    if skipped is not None and len(skipped):
        skipped[["id", "path"]].to_csv(folder / SKIPPED, index=False)


def read_ids(folder: Path) -> pd.DataFrame:
    """The rows that `ids_frame` made.

    Raises:
        UserError: damaged, or without ids.
    """
    try:
        rows = pd.read_parquet(folder / IDS)
    except (ValueError, OSError) as error:
        raise UserError(f"{folder}/{IDS}: is damaged ({error})") from error
    if "id" not in rows.columns:
        raise UserError(f"{folder}/{IDS}: has no column id")
    return rows


def read_skipped(folder: Path) -> pd.DataFrame:
    """The photos left out (columns `id`, `path`), none where the store has no such file."""
    if not (folder / SKIPPED).is_file():
        return pd.DataFrame({"id": [], "path": []}, dtype="str")
    return read_frame(folder / SKIPPED)
