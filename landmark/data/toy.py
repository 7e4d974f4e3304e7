"""A made-up world of landmarks, drawn on the first read: small, quick, and without any rights."""

import math
from functools import cached_property
from pathlib import Path

import pandas as pd

from landmark.data.filters import Filters
from landmark.data.folder import folder_rows
from landmark.data.source import LandmarkSource
from landmark.data.splits import HoldOut, split_by_landmark
from landmark.data.toy_world import ToyWorld
from landmark.error import UserError


class Toy(LandmarkSource):
    """Drawn photos of drawn facades, the same for the same settings.

    Photos of a landmark differ by viewpoint, distance, light, obstacles, blur, noise, crop and
    JPEG quality; two or three landmarks share a style and differ in proportions and ornaments.

    Args:
        root: folder in which worlds are kept, each below a name made from its settings.
        landmarks: number of landmarks.
        photos: photos of each.
        seed: of the drawing, the splits and the filters.
        styles: number of styles; none: two for every five landmarks.
        scale: of the photos' sides, about 320 × 240 at 1.
        query_fraction, gallery_fraction: shares of a landmark's photos; the rest trains.
        validation: "splits" validates with query and gallery, "train" holds out a part of train
            in the same fractions, "none" does neither.
        most_frequent, min_photos, max_photos: filters of train, see `Filters`.
        bad_image: see `LandmarkSource`.
    """

    def __init__(
        self,
        root: str | Path = "toy",
        *,
        landmarks: int = 30,
        photos: int = 20,
        seed: int = 0,
        styles: int | None = None,
        scale: float = 1.0,
        query_fraction: float = 0.1,
        gallery_fraction: float = 0.2,
        validation: str = "splits",
        most_frequent: int | None = None,
        min_photos: int = 1,
        max_photos: int | None = None,
        bad_image: str = "error",
    ) -> None:
        if styles is None:
            styles = math.ceil(landmarks * 0.4)
        for name, value in {"landmarks": landmarks, "photos": photos, "styles": styles}.items():
            if value < 1:
                raise UserError(f"data.{name}={value}: must be 1 or more")
        self.world = ToyWorld(landmarks, photos, seed, styles, scale)
        self._hold_out = HoldOut(query_fraction, gallery_fraction, seed=seed)
        folder = self.world.folder(Path(root))
        filters = Filters(most_frequent, min_photos, max_photos, seed)
        super().__init__(folder, filters, self._hold_out, validation, bad_image)

    @cached_property
    def _all_rows(self) -> pd.DataFrame:
        rows = folder_rows(self.world.make(self.root.parent))
        hold_out = self._hold_out
        splits = split_by_landmark(
            rows["landmark_id"], hold_out.query_fraction, hold_out.gallery_fraction, hold_out.seed
        )
        return rows.assign(split=splits)

    def _rows(self, split: str) -> pd.DataFrame:
        rows = self._all_rows
        return rows[rows["split"] == split].reset_index(drop=True)
