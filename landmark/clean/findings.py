"""What verified pairs show beyond the photos to keep: copies, wrong labels, several places."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from landmark.clean.pairs import Pairs
from landmark.clean.selection import Photos, Selection

_FEWEST_OF_A_PLACE = 3  # photos
_LEAST_SHARE_OF_A_PLACE = 0.1  # of the photos of the landmark that any pair connects


class Mislabels(NamedTuple):
    """Photos that probably show another landmark, most surely first.

    Attributes:
        rows: (M,) the photos.
        labels: (M,) number of the landmark that each shows.
        verified: (M,) verified neighbours of that landmark.
        shares: (M,) share of the nearest neighbours with that landmark; NaN if another landmark is
            more frequent among them.
    """

    rows: NDArray[np.intp]
    labels: NDArray[np.int32]
    verified: NDArray[np.int32]
    shares: NDArray[np.float32]


class Places(NamedTuple):
    """Landmarks whose photos form several groups without a verified pair between them.

    Attributes:
        labels: (L,) number of each such landmark, that with the largest second group first.
        sizes: (L,) tuples of the sizes of its groups, descending.
        members: (L,) tuples of three rows of each of its groups.
    """

    labels: NDArray[np.int32]
    sizes: list[tuple[int, ...]]
    members: list[tuple[tuple[int, ...], ...]]


def near_duplicates(
    pairs: Pairs, min_cosine: float, is_verified: NDArray[np.bool_] | None
) -> NDArray[np.intp]:
    """Return the pairs whose photos are nearly the same, highest cosine first.

    Args:
        pairs: The pairs.
        min_cosine: Least cosine of a near-duplicate.
        is_verified: (P,) whether each pair is verified, which a near-duplicate must be. None means
            that the cosine alone counts.
    """
    is_near = pairs.cosine >= min_cosine
    if is_verified is not None:
        is_near &= is_verified
    rows = np.flatnonzero(is_near)
    return rows[np.argsort(-pairs.cosine[rows], kind="stable")]


def likely_mislabels(pairs: Pairs, photos: Photos, selection: Selection) -> Mislabels:
    """Find photos with more evidence for another landmark than for their own.

    A photo that the rule does not keep is listed if it has more verified neighbours of another
    landmark than of its own, or if at least half of its nearest neighbours are of one other
    landmark.
    """
    count = int(photos.labels.max(initial=0)) + 1
    across = np.flatnonzero(selection.is_verified & ~photos.is_same(pairs))
    photo = np.concatenate([pairs.a[across], pairs.b[across]]).astype(np.int64)
    other = photos.labels[np.concatenate([pairs.b[across], pairs.a[across]])]
    keys, votes = np.unique(photo * count + other, return_counts=True)
    best = np.lexsort((votes, keys // count))  # ascending: the last of a photo is its best
    best = best[np.append(keys[best][1:] // count != keys[best][:-1] // count, True)[: len(best)]]
    by_votes = np.zeros(len(photos.labels), np.int32)
    labels = photos.rivals.copy()
    found = keys[best] // count
    by_votes[found], labels[found] = votes[best], keys[best] % count
    more = by_votes > selection.neighbours
    labels = np.where(more, labels, photos.rivals).astype(np.int32)
    by_votes[~more] = 0
    shares = np.where(labels == photos.rivals, photos.rival_shares, np.nan).astype(np.float32)
    is_listed = ~selection.passes & (photos.labels >= 0) & (labels >= 0)
    is_listed &= more | (photos.rival_shares >= 0.5)
    rows = np.flatnonzero(is_listed)
    order = np.lexsort((rows, -np.nan_to_num(shares[rows]), -by_votes[rows]))
    rows = rows[order]
    return Mislabels(rows, labels[rows], by_votes[rows], shares[rows])


def several_places(pairs: Pairs, photos: Photos, selection: Selection) -> Places:
    """Find landmarks whose verified pairs connect at least two groups of photos to no other.

    A group counts with at least three photos and a tenth of the landmark's photos in any group.
    """
    counted = selection.is_verified & photos.is_same(pairs)
    count = len(photos.labels)
    edges = (np.ones(int(counted.sum()), bool), (pairs.a[counted], pairs.b[counted]))
    number, group = connected_components(coo_array(edges, shape=(count, count)), directed=False)
    sizes = np.bincount(group, minlength=number)
    first = np.zeros(number, np.intp)
    first[group[::-1]] = np.arange(count)[::-1]
    labels = photos.labels[first]
    connected = np.bincount(np.maximum(labels, 0), np.where((sizes > 1) & (labels >= 0), sizes, 0))
    is_place = (labels >= 0) & (sizes >= _FEWEST_OF_A_PLACE)
    is_place &= sizes >= _LEAST_SHARE_OF_A_PLACE * connected[np.maximum(labels, 0)]
    places = np.flatnonzero(is_place)
    places = places[np.lexsort((places, -sizes[places], labels[places]))]
    starts = np.flatnonzero(np.diff(labels[places], prepend=-1))
    ends = np.append(starts, len(places))[1:]
    several = [(s, e) for s, e in zip(starts.tolist(), ends.tolist(), strict=True) if e - s > 1]
    several.sort(key=lambda part: -sizes[places[part[0] + 1]])
    by_group = np.argsort(group, kind="stable")
    begins = np.concatenate([[0], np.cumsum(sizes)])
    groups = [places[s:e] for s, e in several]
    return Places(
        np.array([labels[of[0]] for of in groups], np.int32),
        [tuple(sizes[of].tolist()) for of in groups],
        [tuple(tuple(by_group[begins[g] : begins[g] + 3].tolist()) for g in of) for of in groups],
    )
