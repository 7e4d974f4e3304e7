"""The cleaned Google Landmarks v2 (Ozaki and Yokoo, arXiv 1906.04087): fewer train photos."""

from functools import cached_property
from pathlib import Path

import pandas as pd

from landmark.data.gldv2 import GLDv2
from landmark.data.official import read_columns
from landmark.error import UserError


class GLDv2Clean(GLDv2):
    """1,580,470 train photos of 81,313 landmarks; gallery and queries are those of GLDv2.

    Below the root: what `GLDv2` needs but `train.csv`, and the published list of kept photos
    (`landmark_id,images`, the images being ids with blanks between).

    Args:
        root: the folder.
        clean: the list, absolute or below the root.
        photos, skip_missing, validation_landmarks, query_fraction, gallery_fraction: see `GLDv2`.
        most_frequent, min_photos, max_photos: filters of train, see `Filters`.
        seed: of the draws.
        bad_image: see `LandmarkSource`.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        clean: str | Path = "train_clean.csv",
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
            photos=photos,
            skip_missing=skip_missing,
            validation_landmarks=validation_landmarks,
            query_fraction=query_fraction,
            gallery_fraction=gallery_fraction,
            most_frequent=most_frequent,
            min_photos=min_photos,
            max_photos=max_photos,
            seed=seed,
            bad_image=bad_image,
        )
        self._clean = clean

    @property
    def _train_file(self) -> Path:
        return self.root / self._clean

    @cached_property
    def _train_rows(self) -> pd.DataFrame:
        lists = read_columns(self._train_file, ["landmark_id", "images"])
        empty = lists[lists["images"].str.strip() == ""]
        if len(empty):
            raise UserError(
                f"{self._train_file}: landmark {empty['landmark_id'].iloc[0]} has no images"
            )
        rows = lists.assign(id=lists["images"].str.split()).explode("id", ignore_index=True)
        return rows[["id", "landmark_id"]].astype({"id": lists["images"].dtype})
