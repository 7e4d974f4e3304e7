"""Photos listed in a CSV or parquet file."""

from pathlib import Path
from typing import Unpack

import pandas as pd

from landmark.artifact.photo_paths import in_one_form
from landmark.artifact.table import read_table
from landmark.data.source import ListedSource, SplitOptions
from landmark.error import UserError
from landmark.processes import notice
from landmark.settings import checked


class Table(ListedSource):
    """Photos of an image table: columns `id`, `path`, optional `landmark_id`, `split`, sizes.

    Without `split` the splits of photos with a landmark are drawn by seed; the others become
    gallery. With it, photos whose split is empty are read only with all photos (split=null). One
    line on standard error counts rows without a split or landmark.

    Paths are relative to the root, or absolute inside it; ids and landmarks are compared in Unicode
    form NFC.

    Args:
        root: Folder to which the paths are relative.
        table: The file, absolute, or relative to the root or, if it is not there, to the current
            folder, where `clean.py` writes its table.
        **options: See `SplitOptions`.
    """

    @checked
    def __init__(
        self,
        root: str | Path,
        table: str | Path = "table.csv",
        **options: Unpack[SplitOptions],
    ) -> None:
        super().__init__(root, **options)
        self._given = Path(table)
        self.file = self.root / table

    def _list(self) -> pd.DataFrame:
        if not self.root.is_dir():
            raise UserError(f"{self.root} is not a folder. Set data.root.")
        if not self.file.is_file() and self._given.is_file():
            self.file = self._given
        if not self.file.is_file():
            raise UserError(f"{self.file} does not exist. Set data.table.")
        rows = read_table(self.file, self.root)
        if "path" not in rows:
            raise UserError(f"{self.file} has no column path. Add the path of each photo.")
        rows["id"] = self._unique_ids(rows["id"])
        if "landmark_id" in rows:
            rows["landmark_id"] = _plain_landmarks(rows["landmark_id"])
        if "split" in rows and rows["split"].isna().all():
            rows = rows.drop(columns="split")
        if summary := _missing_values(rows):
            notice(f"{self.file}: {len(rows):,} photos; {summary}")
        return rows

    def _unique_ids(self, ids: pd.Series) -> pd.Series:
        unique = in_one_form(ids)
        if unique is not ids and (repeated := unique.duplicated(keep=False)).any():
            first = unique[repeated].iloc[0]
            names = " and ".join(ascii(name) for name in ids[unique == first])
            raise UserError(
                f"{self.file}: the ids {names} are one name in two Unicode forms. Rename one."
            )
        return unique

    def _train_rows(self) -> pd.DataFrame:
        rows = self._rows("train")
        if len(rows) and self.needs_landmarks:
            if "landmark_id" not in rows:
                raise UserError(
                    f"{self.file} has no column landmark_id. Training needs it; to describe the "
                    "photos, pass split=null."
                )
            unlabelled = rows.loc[rows["landmark_id"].isna(), "id"]
            if len(unlabelled):
                raise UserError(
                    f"{self.file}: train photo {unlabelled.iloc[0]} has no landmark_id "
                    f"({len(unlabelled):,} such photos). Add it, or remove the photo from train."
                )
        return super()._train_rows()


def _plain_landmarks(landmarks: pd.Series) -> pd.Series:
    """Return landmarks in one spelling: NFC, no blanks around them, whole numbers without ".0"."""
    plain = in_one_form(landmarks.str.strip())
    plain = plain.mask(plain == "")
    # A column of whole numbers with missing values is written as floats.
    if plain.notna().any() and plain.dropna().str.fullmatch(r"\d+\.0").all():
        plain = plain.str.removesuffix(".0")
    return plain


def _missing_values(rows: pd.DataFrame) -> str:
    """Return the numbers of rows without a split or landmark; "" if all have both."""
    parts = []
    if "split" in rows and (count := int(rows["split"].isna().sum())):
        parts.append(f"without split: {count:,} (only split=null reads them)")
    if "landmark_id" not in rows:
        return "; ".join(parts)
    unlabelled = rows[rows["landmark_id"].isna()]
    if "split" not in rows:
        if len(unlabelled):
            parts.append(f"without landmark_id: {len(unlabelled):,} (used as gallery)")
        return "; ".join(parts)
    for split, use in (("query", "not validated"), ("gallery", "distractors")):
        if count := int((unlabelled["split"] == split).sum()):
            parts.append(f"{split} without landmark_id: {count:,} ({use})")
    return "; ".join(parts)
