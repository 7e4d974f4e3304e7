"""Which photos train, which ask and which are searched, drawn by seed landmark by landmark."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.error import UserError

SPLITS = ("train", "query", "gallery")
_LEAST_PHOTOS = 3


def split_by_landmark(
    landmark_ids: pd.Series, query_fraction: float, gallery_fraction: float, seed: int
) -> NDArray[np.object_]:
    """Return "train", "query" or "gallery" for each photo (N,).

    Of a landmark's n photos round(n · fraction) go to each of query and gallery, at least one and
    so that at least one trains. Landmarks with fewer than three photos only train.

    Raises:
        UserError: the fractions leave nothing to train with.
    """
    if min(query_fraction, gallery_fraction) < 0 or query_fraction + gallery_fraction >= 1:
        raise UserError(
            f"data.query_fraction={query_fraction}, data.gallery_fraction={gallery_fraction}: "
            "both must be at least 0 and their sum below 1"
        )
    codes, _ = pd.factorize(landmark_ids)
    order = np.lexsort((np.random.default_rng(seed).random(len(codes)), codes))
    counts = np.bincount(codes)
    places = np.empty(len(codes), np.int64)
    places[order] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    queries = _share(counts, query_fraction, counts - 2)
    searched = _share(counts, gallery_fraction, counts - 1 - queries)
    return np.select(
        [places < queries[codes], places < (queries + searched)[codes]],
        ["query", "gallery"],
        "train",
    ).astype(object)


def _share(
    counts: NDArray[np.int64], fraction: float, most: NDArray[np.int64]
) -> NDArray[np.int64]:
    if fraction == 0:
        return np.zeros_like(counts)
    wanted = np.maximum(1, np.rint(counts * fraction).astype(np.int64))
    return np.where(counts >= _LEAST_PHOTOS, np.minimum(wanted, most), 0)


@dataclass(frozen=True)
class HoldOut:
    """A part of the train photos kept back for validation.

    Attributes:
        query_fraction: share of a chosen landmark's photos that become queries.
        gallery_fraction: share that is searched; the rest still trains.
        landmarks: how many landmarks are chosen, at most a tenth of all; none: every landmark.
        seed: of both draws.
    """

    query_fraction: float = 0.1
    gallery_fraction: float = 0.2
    landmarks: int | None = None
    seed: int = 0

    def split(self, landmark_ids: pd.Series) -> NDArray[np.object_]:
        """Return each train photo's split (N,): it stays "train" or is held out."""
        splits = split_by_landmark(
            landmark_ids, self.query_fraction, self.gallery_fraction, self.seed
        )
        if self.landmarks is None or not len(splits):
            return splits
        codes, landmarks = pd.factorize(landmark_ids)
        able = np.flatnonzero(np.bincount(codes) >= _LEAST_PHOTOS)
        number = min(self.landmarks, max(1, len(landmarks) // 10), len(able))
        chosen = np.random.default_rng(self.seed).choice(able, number, replace=False)
        return np.where(np.isin(codes, chosen), splits, "train").astype(object)
