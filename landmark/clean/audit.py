"""Audit: photos and landmarks of a train set that a test set contains too."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.artifact.vectors import row_blocks
from landmark.clean.findings import near_duplicates
from landmark.clean.pairs import Pairs
from landmark.disk.temporary import temporary_array
from landmark.search.blocks import Vectors
from landmark.search.index import Index

_BLOCK_ROWS = 4096


def nearest_train_photos(index: Index, test: Vectors, k: int) -> NDArray[np.int32]:
    """Return pairs (P, 2) of a train row and a test row: the k nearest train photos of each.

    Under a launcher the search is collective and every rank gets all pairs.

    Example:
        >>> from landmark.search import Flat
        >>> photos = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8]], np.float32)
        >>> nearest_train_photos(Flat().build(photos), photos[2:], k=2).tolist()
        [[2, 0], [1, 0]]
    """
    k = min(k, len(index.gallery))
    pairs = temporary_array((len(test), k, 2), np.int32)
    for block in row_blocks(len(test), _BLOCK_ROWS):
        pairs[block, :, 0], _ = index.search(test[block], k)
        pairs[block, :, 1] = np.arange(block.start, block.stop)[:, None]
    pairs = pairs.reshape(-1, 2)
    return pairs[pairs[:, 0] >= 0]


class Overlap(NamedTuple):
    """What a train set and a test set have in common.

    Attributes:
        duplicates: Pairs whose photos are nearly the same, highest cosine first.
        same_place: Other pairs that are verified, highest score first.
        photos: (N,) bool, train photos in any of these pairs.
        landmarks: Numbers of the train landmarks to leave out, ascending.
        test_photos: Number of test photos in any of these pairs.
    """

    duplicates: NDArray[np.intp]
    same_place: NDArray[np.intp]
    photos: NDArray[np.bool_]
    landmarks: NDArray[np.intp]
    test_photos: int


def find_overlap(
    pairs: Pairs,
    labels: NDArray[np.int32],
    is_verified: NDArray[np.bool_],
    min_cosine: float,
    min_pairs: int,
    geometry: bool = True,
) -> Overlap:
    """Find the train photos and landmarks that a test set shows.

    A landmark is one of the test set if a near-duplicate, or `min_pairs` verified pairs, say so.

    Args:
        pairs: Pairs of a train photo `a` and a test photo `b`.
        labels: (N,) number of each train photo's landmark, -1 if unknown.
        is_verified: (P,) whether each pair shows the same place.
        min_cosine: Least cosine of a near-duplicate.
        min_pairs: Verified pairs of a landmark of the test set.
        geometry: Whether the pairs were verified; otherwise near-duplicates are found by the
            cosine alone.
    """
    duplicates = near_duplicates(pairs, min_cosine, is_verified if geometry else None)
    is_near = np.zeros(len(pairs), bool)
    is_near[duplicates] = True
    rows = np.flatnonzero(is_verified & ~is_near)
    same_place = rows[np.argsort(-pairs.scores[rows], kind="stable")]
    found = is_near | is_verified
    photos = np.zeros(len(labels), bool)
    photos[pairs.a[found]] = True
    of_pairs = labels[pairs.a]
    count = int(labels.max(initial=-1)) + 1
    votes = np.bincount(of_pairs[found & (of_pairs >= 0)], minlength=count)
    has_copy = np.bincount(of_pairs[is_near & (of_pairs >= 0)], minlength=count) > 0
    landmarks = np.flatnonzero(has_copy | (votes >= min_pairs))
    return Overlap(duplicates, same_place, photos, landmarks, len(np.unique(pairs.b[found])))


def exclusion_table(
    overlap: Overlap,
    pairs: Pairs,
    labels: NDArray[np.int32],
    names: NDArray[np.str_],
    train_ids: NDArray[np.str_],
    test_ids: NDArray[np.str_],
) -> pd.DataFrame:
    """Return the list for data.exclude: landmarks, then photos of other landmarks.

    Columns: `id` and `landmark_id`, one of which is empty, `reason`, and `test_id`, the test photo
    of the strongest pair.
    """
    order = np.concatenate([overlap.duplicates, overlap.same_place])
    reasons = np.repeat(
        ["near-duplicate", "same place"], [len(overlap.duplicates), len(overlap.same_place)]
    )
    photo, of_label = pairs.a[order], labels[pairs.a[order]]
    in_landmark = np.isin(of_label, overlap.landmarks) & (of_label >= 0)
    frame = pd.DataFrame(
        {
            "id": np.where(in_landmark, None, train_ids[photo].astype(object)),
            "landmark_id": np.where(in_landmark, names[of_label].astype(object), None),
            "reason": reasons,
            "test_id": test_ids[pairs.b[order]],
        }
    )
    frame = frame.drop_duplicates(["id", "landmark_id"])
    is_landmark = frame["id"].isna()
    return pd.concat([frame[is_landmark], frame[~is_landmark]], ignore_index=True)
