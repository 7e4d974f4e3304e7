"""Draw train, query and gallery photos of each landmark, by seed, and filter train photos.

What is drawn for a photo depends on its landmark, its id and the seed alone: adding or removing
other photos changes nothing but the few photos that minimum counts decide.
"""

from typing import Annotated, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from landmark.artifact.photo_paths import arrow_in_one_form
from landmark.disk.digest import digest_of
from landmark.error import UserError

Fraction = Annotated[float, Field(ge=0, lt=1)]
# Draws for different purposes are independent of each other.
Purpose = Literal["splits", "validation", "landmarks", "max_photos"]
_MIN_PHOTOS = 3  # one each for train, query and gallery
_BLOCK_ROWS = 1 << 18
_QUERY, _GALLERY, _TRAIN = range(3)
_NAMES = np.array(["query", "gallery", "train"], object)


class Draw(NamedTuple):
    """Drawn splits of N photos.

    Attributes:
        splits: "train", "query" or "gallery" for each photo, (N,).
        forced: Number of photos whose split a minimum count decided, not their own number.
    """

    splits: NDArray[np.object_]
    forced: int


def draw_splits(
    photos: pd.DataFrame,
    query_fraction: float,
    gallery_fraction: float,
    seed: int,
    landmarks: int | None = None,
    purpose: Purpose = "splits",
) -> Draw:
    """Draw "train", "query" or "gallery" for each photo.

    A photo becomes a query if its number in [0, 1), see `uniform`, is below `query_fraction`,
    gallery if it is below `query_fraction + gallery_fraction`, otherwise train. The shares are
    therefore those of the fractions in expectation. Minimum counts decide the rest: a landmark of
    at least three photos has at least one photo of train and of each split whose fraction is not 0,
    those with the nearest numbers; landmarks with fewer photos are only trained on.

    Args:
        photos: N photos with `id` and `landmark_id`.
        query_fraction: Expected fraction of the photos that become queries.
        gallery_fraction: Expected fraction that becomes gallery.
        seed: Seed of the draw.
        landmarks: Split this many landmarks, at most a tenth of all: those with the lowest numbers
            of their own. The others are only trained on. Defaults to all landmarks.
        purpose: What the splits are drawn for.

    Raises:
        UserError: The fractions leave no photos for training.

    Example:
        >>> photos = pd.DataFrame({"id": list("abcdefg"), "landmark_id": list("LLLLLMM")})
        >>> draw = draw_splits(photos, query_fraction=0.2, gallery_fraction=0.4, seed=0)
        >>> draw.splits.tolist(), draw.forced
        (['gallery', 'gallery', 'train', 'query', 'train', 'train', 'train'], 2)
    """
    _check_fractions(query_fraction, gallery_fraction)
    numbers = uniform(photos, seed, purpose)
    splits = _split_of(numbers, query_fraction, gallery_fraction)
    codes, names = pd.factorize(photos["landmark_id"])
    counts = np.bincount(codes, minlength=len(names))
    is_split = counts >= _MIN_PHOTOS
    if landmarks is not None and len(names):
        number = min(landmarks, max(1, len(names) // 10))
        is_split &= _lowest(pd.Series(names, dtype="str"), is_split, number, seed)
        splits[~is_split[codes]] = _TRAIN
    plain = splits.copy()
    by_number = [np.bincount(codes[splits == part], minlength=len(names)) for part in range(2)]
    queries = _clip(by_number[_QUERY], query_fraction, counts - 2, is_split)
    gallery = _clip(by_number[_GALLERY], gallery_fraction, counts - 1 - queries, is_split)
    is_decided = (queries != by_number[_QUERY]) | (gallery != by_number[_GALLERY])
    rows = np.flatnonzero(is_decided[codes])
    own = codes[rows]
    positions = _positions(own, numbers[rows])
    splits[rows] = np.select(
        [positions < queries[own], positions < (queries + gallery)[own]], [_QUERY, _GALLERY], _TRAIN
    )
    return Draw(_NAMES[splits], int((splits != plain).sum()))


def expected_splits(
    photos: pd.DataFrame,
    query_fraction: float,
    gallery_fraction: float,
    seed: int,
    purpose: Purpose = "splits",
) -> NDArray[np.object_]:
    """Draw the splits of photos (N,) as `draw_splits` does, without minimum counts."""
    _check_fractions(query_fraction, gallery_fraction)
    return _NAMES[_split_of(uniform(photos, seed, purpose), query_fraction, gallery_fraction)]


def _check_fractions(query_fraction: float, gallery_fraction: float) -> None:
    if min(query_fraction, gallery_fraction) < 0 or query_fraction + gallery_fraction >= 1:
        raise UserError(
            f"data.query_fraction={query_fraction} and data.gallery_fraction={gallery_fraction} "
            "leave no photos for training. Pass fractions >= 0 with a sum below 1."
        )


def _split_of(
    numbers: NDArray[np.float64], query_fraction: float, gallery_fraction: float
) -> NDArray[np.int8]:
    limits = (query_fraction, query_fraction + gallery_fraction)
    return np.sum([numbers >= limit for limit in limits], axis=0, dtype=np.int8)


def _clip(
    by_number: NDArray[np.int64],
    fraction: float,
    most: NDArray[np.int64],
    is_split: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Return how many photos of each landmark a split has: at least one, unless it has no share."""
    return np.where(is_split, np.minimum(np.maximum(by_number, int(fraction > 0)), most), 0)


def _lowest(
    names: pd.Series, is_candidate: NDArray[np.bool_], count: int, seed: int
) -> NDArray[np.bool_]:
    """Mark the `count` candidates with the lowest numbers of their own."""
    candidates = np.flatnonzero(is_candidate)
    numbers = _hash(names.iloc[candidates], seed, "landmarks")
    mask = np.zeros(len(names), bool)
    mask[candidates[np.argsort(numbers, kind="stable")[:count]]] = True
    return mask


def uniform(photos: pd.DataFrame, seed: int, purpose: Purpose) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each photo (N,), from its landmark, its id and the seed alone.

    The number is the same on every platform and in every version: the hash of landmark, NUL and id
    in UTF-8 and Unicode form NFC is SipHash-2-4, keyed by seed and purpose and mixed by the
    finaliser of SplitMix64.

    Args:
        photos: N photos with `id` and `landmark_id`.
        seed: Seed.
        purpose: What the numbers are for.

    Source:
        Aumasson and Bernstein, SipHash, INDOCRYPT 2012.
    """
    texts = photos["landmark_id"].astype("str") + "\0" + photos["id"].astype("str")
    return _hash(texts, seed, purpose)


def _hash(texts: pd.Series, seed: int, purpose: Purpose) -> NDArray[np.float64]:
    key = digest_of({"purpose": purpose, "seed": seed})
    numbers = np.empty(len(texts))
    for start in range(0, len(texts), _BLOCK_ROWS):
        block = arrow_in_one_form(texts.iloc[start : start + _BLOCK_ROWS]).to_numpy(
            zero_copy_only=False
        )
        hashes = pd.util.hash_array(block, hash_key=key, categorize=False)
        numbers[start : start + _BLOCK_ROWS] = (hashes >> np.uint64(11)) * 2.0**-53
    return numbers


def filter_photos(
    rows: pd.DataFrame,
    most_frequent: int | None = None,
    min_photos: int = 1,
    max_photos: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Filter train photos by the frequency of their landmarks, in the order of the arguments.

    Args:
        rows: Train photos with `id` and `landmark_id`.
        most_frequent: Keep this many landmarks, those with the most photos; ties go to the first.
            Defaults to all.
        min_photos: Keep landmarks with at least this many photos.
        max_photos: Keep at most this many photos of a landmark, those with the lowest numbers of
            `uniform`. Defaults to all.
        seed: Seed of the draw.

    Returns:
        The remaining rows, in order.

    Source:
        Ozaki and Yokoo, arXiv 1906.04087.

    Example:
        >>> rows = pd.DataFrame({"id": range(6), "landmark_id": ["arch"] * 3 + ["mill"] * 3})
        >>> filter_photos(rows, most_frequent=1, max_photos=2)["id"].tolist()
        [0, 2]
    """
    codes, names = pd.factorize(rows["landmark_id"])
    counts = np.bincount(codes, minlength=len(names))
    is_kept = counts >= min_photos
    if most_frequent is not None:
        is_kept[np.argsort(-counts, kind="stable")[most_frequent:]] = False
    mask = is_kept[codes]
    if max_photos is not None:
        above = np.flatnonzero(mask & (counts > max_photos)[codes])
        numbers = uniform(rows.iloc[above], seed, "max_photos")
        mask[above] = _positions(codes[above], numbers) < max_photos
    return rows[mask].reset_index(drop=True)


def _positions(codes: NDArray[np.int64], numbers: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return each photo's position in its landmark when ordered by number, (N,)."""
    counts = np.bincount(codes)
    order = np.lexsort((numbers, codes))
    positions = np.empty(len(codes), np.int64)
    positions[order] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return positions
