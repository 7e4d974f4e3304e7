"""Your own photos: one folder a landmark."""

import os
import re
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from landmark.data.filters import Filters
from landmark.data.source import LandmarkSource
from landmark.data.splits import SPLITS, HoldOut, split_by_landmark
from landmark.error import UserError

EXTENSIONS = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


class Folder(LandmarkSource):
    """Photos at `ROOT/<landmark>/<photo>`; the landmark is the folder's name.

    The split of a photo comes from `ROOT/splits.csv` (columns `path,split`; paths below ROOT),
    which then must name every photo; without it from a seeded draw. A photo's id is its path,
    with blanks written as %20, since ids stand in lists separated by blanks.

    Args:
        root: the folder.
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

    @cached_property
    def _all_rows(self) -> pd.DataFrame:
        rows = folder_rows(self.root)
        listing = self.root / "splits.csv"
        if listing.is_file():
            return rows.assign(split=_listed_splits(listing, rows["path"]))
        hold_out = self._hold_out
        splits = split_by_landmark(
            rows["landmark_id"], hold_out.query_fraction, hold_out.gallery_fraction, hold_out.seed
        )
        return rows.assign(split=splits)

    def _rows(self, split: str) -> pd.DataFrame:
        rows = self._all_rows
        return rows[rows["split"] == split].reset_index(drop=True)


def folder_rows(root: Path) -> pd.DataFrame:
    """Return id, path and landmark_id of the photos at `root/<landmark>/<photo>`, sorted by path.

    Raises:
        UserError: there is no such folder, or no photo in it.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; set data.root to the folder of your photos")
    paths, landmarks = [], []
    for landmark in _visible_names(root):
        if (root / landmark).is_dir():
            photos = [
                name
                for name in _visible_names(root / landmark)
                if os.path.splitext(name)[1].lower() in EXTENSIONS  # noqa: PTH122
            ]
            paths += [f"{landmark}/{name}" for name in photos]
            landmarks += [landmark] * len(photos)
    if not paths:
        raise UserError(
            f"{root}: no photos; they belong at {root}/<landmark>/<photo>.jpg (or png, webp, …)"
        )
    ids = [re.sub(r"[\s%]", lambda blank: quote(blank[0]), path) for path in paths]
    return pd.DataFrame({"id": ids, "path": paths, "landmark_id": landmarks}, dtype=str)


def _visible_names(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208


def _listed_splits(listing: Path, paths: pd.Series) -> pd.Series:
    """Return each photo's split from the CSV."""
    frame = pd.read_csv(listing, dtype=str, keep_default_na=False)
    for column in ("path", "split"):
        if column not in frame:
            raise UserError(f"{listing}: no column {column}; its header must be path,split")
    wrong = frame[~frame["split"].isin(SPLITS)]
    if len(wrong):
        raise UserError(
            f"{listing}: the split of {wrong['path'].iloc[0]} is "
            f"'{wrong['split'].iloc[0]}'; use {', '.join(SPLITS)}"
        )
    twice = frame[frame["path"].duplicated()]
    if len(twice):
        raise UserError(f"{listing}: {twice['path'].iloc[0]} stands there twice")
    gone = frame[~frame["path"].isin(paths)]
    if len(gone):
        raise UserError(
            f"{listing}: {gone['path'].iloc[0]} is not there ({len(gone)} such photos); "
            "take the lines out or bring the photos back"
        )
    splits = paths.map(frame.set_index("path")["split"])
    if splits.isna().any():
        first = paths[splits.isna()].iloc[0]
        raise UserError(
            f"{listing}: {first} is missing ({splits.isna().sum()} such photos); "
            "name every photo, or delete the file to have the splits drawn"
        )
    return splits
