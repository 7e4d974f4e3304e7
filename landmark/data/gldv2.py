"""Google Landmarks v2 (Weyand et al., arXiv 2004.01804) in its published layout."""

from functools import cached_property
from pathlib import Path

import pandas as pd

from landmark.artifact.table import check_ids
from landmark.data.filters import Filters
from landmark.data.official import photo_paths, present_rows, read_columns
from landmark.data.source import LandmarkSource
from landmark.data.splits import HoldOut
from landmark.error import UserError

PUBLISHED_NAMES = {"train": "train", "query": "test", "gallery": "index"}


class GLDv2(LandmarkSource):
    """4,132,914 train photos of 203,094 landmarks, 761,757 gallery photos, 117,577 queries.

    Below the root: `train.csv` (`id,url,landmark_id`), `index.csv` (the gallery) and `test.csv`
    (the queries; both with `id`), photos at `{split}/{a}/{b}/{c}/{id}.jpg`. The published queries
    have no landmarks, so validation is held out of train.

    Args:
        root: the folder.
        photos: where a photo lies: {split} is train, index or test, {a}, {b}, {c} the first
            characters of the id.
        skip_missing: leave out listed photos that are not on disk (looks for each of them).
        validation_landmarks: landmarks of which photos are held out, at most a tenth of all; 0
            holds out none.
        query_fraction, gallery_fraction: shares of such a landmark's photos; the rest trains.
        most_frequent, min_photos, max_photos: filters of train, see `Filters`.
        seed: of the draws.
        bad_image: see `LandmarkSource`.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        photos: str = "{split}/{a}/{b}/{c}/{id}.jpg",
        skip_missing: bool = False,
        validation_landmarks: int = 1000,
        query_fraction: float = 0.1,
        gallery_fraction: float = 0.2,
        most_frequent: int | None = None,
        min_photos: int = 1,
        max_photos: int | None = None,
        seed: int = 0,
        bad_image: str = "error",
    ) -> None:
        super().__init__(
            root,
            Filters(most_frequent, min_photos, max_photos, seed),
            HoldOut(query_fraction, gallery_fraction, validation_landmarks, seed),
            "train" if validation_landmarks else "none",
            bad_image,
        )
        self._photos = photos
        self._skip_missing = skip_missing

    @property
    def _train_file(self) -> Path:
        return self.root / "train.csv"

    @cached_property
    def _train_rows(self) -> pd.DataFrame:
        """Return id and landmark_id of every train photo; "None" is no landmark."""
        rows = read_columns(self._train_file, ["id", "landmark_id"])
        return rows[rows["landmark_id"] != "None"].reset_index(drop=True)

    def _rows(self, split: str) -> pd.DataFrame:
        name = PUBLISHED_NAMES[split]
        if split == "train":
            file, rows = self._train_file, self._train_rows
        else:
            file = self.root / f"{name}.csv"
            rows = read_columns(file, ["id"])
        if not len(rows):
            raise UserError(f"{file}: lists no photo")
        check_ids(rows["id"], file)
        rows = rows.assign(path=photo_paths(self._photos, name, rows["id"]))
        return present_rows(rows, self.root, file, self._skip_missing)
