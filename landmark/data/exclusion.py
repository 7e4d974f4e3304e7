"""Photos and landmarks to leave out of train, such as those that a test set contains."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.artifact.photo_paths import in_one_form
from landmark.artifact.table import read_frame
from landmark.error import UserError

# Value of `held_out` in a run's splits.parquet, and of `split` while train photos are divided.
EXCLUDED = "excluded"
_COLUMNS = ("id", "landmark_id")


class Exclusion:
    """A list of photos and landmarks, from a .csv or .parquet file.

    A row with an `id` lists that photo, whatever its other columns; a row without one lists the
    landmark of its `landmark_id`. Other columns are ignored; names are compared in Unicode form
    NFC.

    Args:
        file: The file.

    Attributes:
        ids: The listed photos, distinct.
        landmarks: The listed landmarks, distinct.

    Raises:
        UserError: The file is missing, is not a table, has neither column, or has an empty row.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        frame = read_frame(self.file, _COLUMNS)
        known = [name for name in _COLUMNS if name in frame.columns]
        if not known:
            columns = ", ".join(map(str, frame.columns)) or "none"
            raise UserError(
                f"data.exclude={file} has no column id or landmark_id (columns: {columns}). Name "
                "the column of the photos id, or that of the landmarks landmark_id."
            )
        names = frame.reindex(columns=_COLUMNS).astype("str").apply(_plain)
        is_empty = names.isna().all(axis=1).to_numpy()
        if is_empty.any():
            raise UserError(
                f"data.exclude={file}: row {int(is_empty.argmax()) + 1} has no "
                f"{' or '.join(known)}. Fill it in, or remove the row."
            )
        self.ids = names["id"].dropna().unique()
        self.landmarks = names.loc[names["id"].isna(), "landmark_id"].unique()

    def of(self, photos: pd.DataFrame) -> NDArray[np.bool_]:
        """Whether each photo is listed, itself or by its landmark, (N,)."""
        is_listed = in_one_form(photos["id"]).isin(self.ids)
        if "landmark_id" in photos and len(self.landmarks):
            is_listed = is_listed | in_one_form(photos["landmark_id"]).isin(self.landmarks)
        return is_listed.to_numpy()

    def unknown(self, photos: pd.DataFrame) -> str:
        """Describe the listed names that no photo has; "" if every name occurs."""
        parts = []
        for column, names in (("id", self.ids), ("landmark_id", self.landmarks)):
            found = in_one_form(photos[column]) if column in photos else []
            missing = names[~pd.Index(names).isin(found)]
            if len(missing):
                kind = "photos" if column == "id" else "landmarks"
                parts.append(f"{len(missing):,} {kind}, such as {missing[0]}")
        return " and ".join(parts)


def _plain(names: pd.Series) -> pd.Series:
    plain = in_one_form(names.str.strip())
    return plain.mask(plain == "")
