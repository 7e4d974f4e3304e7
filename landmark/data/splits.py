"""Draw train, query and gallery photos of each landmark, by seed, and filter train photos."""

from typing import Annotated

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from landmark.error import UserError

Fraction = Annotated[float, Field(ge=0, lt=1)]
_MIN_PHOTOS = 3  # one each for train, query and gallery


def draw_splits(
    landmark_ids: pd.Series,
    query_fraction: float,
    gallery_fraction: float,
    seed: int,
    landmarks: int | None = None,
) -> NDArray[np.object_]:
    """Draw "train", "query" or "gallery" for each photo (N,).

    Of a landmark's n photos round(n · query_fraction) become queries and round(n ·
    gallery_fraction) become gallery: at least one each unless the fraction is 0, and one photo
    always remains for training. Landmarks with fewer than three photos are only trained on.

    Args:
        landmark_ids: Landmark of each photo, (N,).
        query_fraction: Fraction of a landmark's photos that become queries.
        gallery_fraction: Fraction that becomes gallery.
        seed: Seed of the draw.
        landmarks: Split this many landmarks, at most a tenth of all; the others are only trained
            on. Defaults to all landmarks.

    Raises:
        UserError: The fractions leave no photos for training.

    Example:
        >>> photos = pd.Series(["arch"] * 5 + ["tower"] * 2)
        >>> draw_splits(photos, query_fraction=0.2, gallery_fraction=0.4, seed=0).tolist()
        ['train', 'gallery', 'gallery', 'query', 'train', 'train', 'train']
    """
    if min(query_fraction, gallery_fraction) < 0 or query_fraction + gallery_fraction >= 1:
        raise UserError(
            f"data.query_fraction={query_fraction} and data.gallery_fraction={gallery_fraction} "
            "leave no photos for training. Pass fractions >= 0 with a sum below 1."
        )
    codes, names = pd.factorize(landmark_ids)
    counts = np.bincount(codes)
    queries = _share(counts, query_fraction, counts - 2)
    gallery = _share(counts, gallery_fraction, counts - 1 - queries)
    if landmarks is not None and len(codes):
        large = np.flatnonzero(counts >= _MIN_PHOTOS)
        number = min(landmarks, max(1, len(names) // 10), len(large))
        chosen = np.random.default_rng(seed).choice(large, number, replace=False)
        others = np.setdiff1d(np.arange(len(names)), chosen)
        queries[others] = gallery[others] = 0
    position = _shuffled_positions(codes, counts, seed)
    return np.select(
        [position < queries[codes], position < (queries + gallery)[codes]],
        ["query", "gallery"],
        "train",
    ).astype(object)


def _share(
    counts: NDArray[np.int64], fraction: float, most: NDArray[np.int64]
) -> NDArray[np.int64]:
    if fraction == 0:
        return np.zeros_like(counts)
    rounded = np.maximum(1, np.rint(counts * fraction).astype(np.int64))
    return np.where(counts >= _MIN_PHOTOS, np.minimum(rounded, most), 0)


def filter_photos(
    rows: pd.DataFrame,
    most_frequent: int | None = None,
    min_photos: int = 1,
    max_photos: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Filter train photos by the frequency of their landmarks, in the order of the arguments.

    Args:
        rows: Train photos with `landmark_id`.
        most_frequent: Keep this many landmarks, those with the most photos; ties go to the first.
            Defaults to all.
        min_photos: Keep landmarks with at least this many photos.
        max_photos: Keep at most this many photos of a landmark, drawn by seed. Defaults to all.
        seed: Seed of the draw.

    Returns:
        The remaining rows, in order.

    Source:
        Ozaki and Yokoo, arXiv 1906.04087.

    Example:
        >>> rows = pd.DataFrame({"id": range(6), "landmark_id": ["arch"] * 3 + ["mill"] * 3})
        >>> filter_photos(rows, most_frequent=1, max_photos=2)["id"].tolist()
        [1, 2]
    """
    codes, names = pd.factorize(rows["landmark_id"])
    counts = np.bincount(codes, minlength=len(names))
    is_kept = counts >= min_photos
    if most_frequent is not None:
        is_kept[np.argsort(-counts, kind="stable")[most_frequent:]] = False
    mask = is_kept[codes]
    if max_photos is not None:
        mask &= _shuffled_positions(codes, counts, seed) < max_photos
    return rows[mask].reset_index(drop=True)


def _shuffled_positions(
    codes: NDArray[np.int64], counts: NDArray[np.int64], seed: int
) -> NDArray[np.int64]:
    """Return each photo's position in a random order of its landmark's photos, (N,)."""
    order = np.lexsort((np.random.default_rng(seed).random(len(codes)), codes))
    positions = np.empty(len(codes), np.int64)
    positions[order] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return positions
