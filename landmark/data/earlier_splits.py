"""The splits of runs that an earlier version trained and that have no splits.parquet.

Their splits came from a permutation of all photos: they can be recomputed only while no photo is
added or removed.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_MIN_PHOTOS = 3


def draw_earlier_splits(
    photos: pd.DataFrame,
    query_fraction: float,
    gallery_fraction: float,
    seed: int,
    landmarks: int | None = None,
) -> NDArray[np.object_]:
    """Draw "train", "query" or "gallery" for each photo (N,), as version 0.1 did.

    Args:
        photos: N photos with `landmark_id`, in the order in which the run read them.
        query_fraction: Fraction of a landmark's photos that became queries.
        gallery_fraction: Fraction that became gallery.
        seed: Seed of the draw.
        landmarks: Number of landmarks that were split. Defaults to all landmarks.

    Example:
        >>> photos = pd.DataFrame({"landmark_id": ["arch"] * 5 + ["tower"] * 2})
        >>> draw_earlier_splits(photos, 0.2, 0.4, seed=0).tolist()
        ['train', 'gallery', 'gallery', 'query', 'train', 'train', 'train']
    """
    codes, names = pd.factorize(photos["landmark_id"])
    counts = np.bincount(codes)
    queries = _share(counts, query_fraction, counts - 2)
    gallery = _share(counts, gallery_fraction, counts - 1 - queries)
    if landmarks is not None and len(codes):
        large = np.flatnonzero(counts >= _MIN_PHOTOS)
        number = min(landmarks, max(1, len(names) // 10), len(large))
        chosen = np.random.default_rng(seed).choice(large, number, replace=False)
        others = np.setdiff1d(np.arange(len(names)), chosen)
        queries[others] = gallery[others] = 0
    order = np.lexsort((np.random.default_rng(seed).random(len(codes)), codes))
    positions = np.empty(len(codes), np.int64)
    positions[order] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.select(
        [positions < queries[codes], positions < (queries + gallery)[codes]],
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
