"""Photos listed in a CSV or parquet file."""

from functools import cached_property
from pathlib import Path

import pandas as pd

from landmark.artifact.table import read_table
from landmark.data.filters import Filters
from landmark.data.source import LandmarkSource
from landmark.data.splits import HoldOut, split_by_landmark
from landmark.error import UserError


class Table(LandmarkSource):
    """Photos of an image table: columns `id`, `path`, optional `landmark_id`, `split`, sizes.

    Without `split` the photos with landmarks are divided by a seeded draw; photos without any
    landmarks are all gallery.

    Args:
        root: folder below which the paths lie.
        table: the file, absolute or below the root.
        query_fraction, gallery_fraction: shares of a landmark's photos in the seeded draw; the
            rest trains. A landmark with fewer than three photos only trains.
        validation: "splits" validates with query and gallery, "train" holds out a part of train
            in the same fractions, "none" does neither.
        most_frequent, min_photos, max_photos: filters of train, see `Filters`.
        seed: of the draws.
        bad_image: see `LandmarkSource`.
    """

    def __init__(
        self,
        root: str | Path,
        table: str | Path = "table.csv",
        *,
        query_fraction: float = 0.1,
        gallery_fraction: float = 0.2,
        validation: str = "splits",
        most_frequent: int | None = None,
        min_photos: int = 1,
        max_photos: int | None = None,
        seed: int = 0,
        bad_image: str = "error",
    ) -> None:
        self._hold_out = HoldOut(query_fraction, gallery_fraction, seed=seed)
        filters = Filters(most_frequent, min_photos, max_photos, seed)
        super().__init__(root, filters, self._hold_out, validation, bad_image)
        self.file = self.root / table

    @cached_property
    def _all_rows(self) -> pd.DataFrame:
        if not self.root.is_dir():
            raise UserError(f"{self.root}: no such folder; set data.root")
        if not self.file.is_file():
            raise UserError(f"{self.file}: no such file; set data.table")
        rows = read_table(self.file)
        if "path" not in rows:
            raise UserError(f"{self.file}: no column path; it tells where each photo lies")
        if "split" in rows:
            return rows
        if "landmark_id" not in rows:
            return rows.assign(split="gallery")
        hold_out = self._hold_out
        splits = split_by_landmark(
            rows["landmark_id"], hold_out.query_fraction, hold_out.gallery_fraction, hold_out.seed
        )
        return rows.assign(split=splits)

    def _rows(self, split: str) -> pd.DataFrame:
        rows = self._all_rows
        chosen = rows[rows["split"] == split].reset_index(drop=True)
        if split == "train" and len(chosen):
            if "landmark_id" not in chosen:
                raise UserError(f"{self.file}: no column landmark_id; training needs it")
            nameless = chosen[chosen["landmark_id"].isna()]
            if len(nameless):
                raise UserError(
                    f"{self.file}: train photo {nameless['id'].iloc[0]} has no landmark_id"
                )
        return chosen
