"""Photos listed in a CSV or parquet file."""

from pathlib import Path
from typing import Unpack

import pandas as pd

from landmark.artifact.table import read_table
from landmark.data.source import ListedSource, SplitOptions
from landmark.error import UserError
from landmark.settings import checked


class Table(ListedSource):
    """Photos of an image table: columns `id`, `path`, optional `landmark_id`, `split`, sizes.

    Without `split` the splits of photos with a landmark are drawn by seed; the others become
    gallery.

    Args:
        root: Folder to which the paths are relative.
        table: The file, absolute or relative to the root.
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
        self.file = self.root / table

    def _list(self) -> pd.DataFrame:
        if not self.root.is_dir():
            raise UserError(f"{self.root} is not a folder. Set data.root.")
        if not self.file.is_file():
            raise UserError(f"{self.file} does not exist. Set data.table.")
        rows = read_table(self.file)
        if "path" not in rows:
            raise UserError(f"{self.file} has no column path. Add the path of each photo.")
        return rows

    def _rows(self, split: str) -> pd.DataFrame:
        rows = super()._rows(split)
        if split == "train" and len(rows):
            if "landmark_id" not in rows:
                raise UserError(f"{self.file} has no column landmark_id. Training needs it.")
            unlabelled = rows.loc[rows["landmark_id"].isna(), "id"]
            if len(unlabelled):
                raise UserError(
                    f"{self.file}: train photo {unlabelled.iloc[0]} has no landmark_id. Add it, or "
                    "remove the photo from train."
                )
        return rows
