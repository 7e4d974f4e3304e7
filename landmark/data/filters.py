"""Which landmarks and photos of a training set are used (the filters of arXiv 1906.04087)."""

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Filters:
    """Filters on train photos, applied in the order of the attributes.

    Attributes:
        most_frequent: keep the landmarks with the most photos, this many; ties go to the landmark
            that comes first. None keeps all.
        min_photos: keep landmarks with at least this many photos.
        max_photos: keep at most this many photos of a landmark, drawn by seed. None keeps all.
        seed: of that draw.
    """

    most_frequent: int | None = None
    min_photos: int = 1
    max_photos: int | None = None
    seed: int = 0

    def apply(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the rows that stay, in their order."""
        codes, landmarks = pd.factorize(rows["landmark_id"])
        counts = np.bincount(codes, minlength=len(landmarks))
        kept = counts >= self.min_photos
        if self.most_frequent is not None:
            kept[np.argsort(-counts, kind="stable")[self.most_frequent :]] = False
        mask = kept[codes]
        if self.max_photos is not None:
            order = np.lexsort((np.random.default_rng(self.seed).random(len(codes)), codes))
            places = np.empty(len(codes), np.int64)
            places[order] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
            mask &= places < self.max_photos
        return rows[mask].reset_index(drop=True)
