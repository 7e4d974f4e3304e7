"""Triplets of photos for pair models: an anchor, a photo of its landmark, one of another."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.vectors import create_vectors, open_array, row_blocks
from landmark.disk.temporary import temporary_array
from landmark.error import UserError
from landmark.search import Flat

_QUERY_ROWS = 1 << 16  # searched together
_COUNTED_ROWS = 1 << 12  # whose neighbours are counted together
_POWER = 3  # of the similarity


class Near(NamedTuple):
    """The nearest photos of some photos.

    Attributes:
        rows: (R,) rows of the photos, ascending.
        neighbours: (R, K) rows of their nearest photos, best first; -1 pads.
        similarities: (R, K) float32 inner products.
    """

    rows: NDArray[np.int64]
    neighbours: NDArray[np.int32]
    similarities: NDArray[np.float32]


def nearest_photos(
    store: DescriptorStore,
    rows: NDArray[np.int64],
    k: int,
    folder: Path | None = None,
    device: str = "auto",
) -> Near:
    """Search the store for the `k` nearest photos of some of its photos, without themselves.

    Args:
        store: Descriptors.
        rows: (R,) rows, ascending.
        k: Number of neighbours; fewer if the store has fewer other photos.
        folder: Folder that keeps the neighbours for the next call. None means that they are kept
            nowhere; above 256 MiB they are mapped to a temporary file.
        device: Device of the search.

    Raises:
        UserError: The neighbours do not fit on the disk.
    """
    shape = (len(rows), min(k, len(store) - 1) + 1)  # a photo also finds itself
    files = None if folder is None else (folder / "neighbours.npy", folder / "similarities.npy")
    if files is not None and all(file.is_file() for file in files):
        return Near(rows, *(open_array(file) for file in files))
    neighbours = _array(files and files[0], shape, "int32")
    similarities = _array(files and files[1], shape, "float32")
    index = Flat(device=device).build(store.vectors)
    blocks = list(row_blocks(len(rows), _QUERY_ROWS))
    for block in tqdm(blocks, "neighbours", unit="block", leave=False, disable=None):
        own = rows[block]
        found, scores = index.search(np.asarray(store.vectors[own], np.float32), shape[1])
        neighbours[block] = np.where(found == own[:, None], -1, found)
        similarities[block] = scores
    for file, array in zip(files or (), (neighbours, similarities), strict=False):
        array.flush()  # type: ignore[attr-defined] # mapped to the file
        _unfinished(file).rename(file)
    return Near(rows, neighbours, similarities)


def _array(file: Path | None, shape: tuple[int, int], dtype: str) -> NDArray:
    if file is None:
        return temporary_array(shape, dtype)
    return create_vectors(_unfinished(file), *shape, dtype, file)


def _unfinished(file: Path) -> Path:
    return file.with_name(f"{file.name}.unfinished")


class Triplets:
    """Draws for anchors one photo of the same landmark and one of another.

    Both are among the nearest photos of the anchor, drawn with a probability proportional to
    similarity³. An anchor has at least `min_positives` and `min_negatives` of them.

    Args:
        near: The nearest photos.
        codes: (N,) landmark of each photo of the store; -1 for photos that are not used.
        min_positives: Photos of the same landmark.
        min_negatives: Photos of other landmarks.

    Attributes:
        anchors: (A,) indices into `near`.

    Source:
        Suma et al.: ELViS. ICLR 2026, arXiv 2603.28603, training.

    Example:
        >>> near = Near(np.arange(2), np.array([[1, 2], [0, 2]]), np.full((2, 2), 0.5))
        >>> triplets = Triplets(near, np.array([0, 0, 1]), 1, 1)
        >>> positives, negatives = triplets.draw(triplets.anchors, np.random.default_rng(0))
        >>> positives.tolist(), negatives.tolist()
        ([1, 0], [2, 2])
    """

    def __init__(
        self, near: Near, codes: NDArray[np.int64], min_positives: int, min_negatives: int
    ) -> None:
        self._near, self._codes = near, codes
        enough = np.zeros(len(near.rows), bool)
        for block in row_blocks(len(near.rows), _COUNTED_ROWS):
            same, other = self._kinds(block)
            enough[block] = (same.sum(1) >= min_positives) & (other.sum(1) >= min_negatives)
        self.anchors = np.flatnonzero(enough)

    def draw(
        self, anchors: NDArray[np.int64], random: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw rows of the store for some of the anchors: positives (T,), negatives (T,)."""
        neighbours = self._near.neighbours[anchors]
        weights = np.maximum(self._near.similarities[anchors].astype(np.float64), 0) ** _POWER
        drawn = (_drawn(neighbours, weights, kind, random) for kind in self._kinds(anchors))
        return next(drawn), next(drawn)

    def rows(self, anchors: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows (T,) of anchors in the store."""
        return self._near.rows[anchors]

    def landmarks(self) -> int:
        """Return the number of landmarks that the anchors show."""
        return len(np.unique(self._codes[self.rows(self.anchors)]))

    def _kinds(
        self, photos: slice | NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which neighbours (T, K) show the same landmark, and which another."""
        neighbours = self._near.neighbours[photos]
        theirs = np.where(neighbours >= 0, self._codes[neighbours], -1)
        same = theirs == self._codes[self._near.rows[photos]][:, None]
        return same, (theirs >= 0) & ~same


def _drawn(
    rows: NDArray[np.int32],
    weights: NDArray[np.float64],
    allowed: NDArray[np.bool_],
    random: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw one of the allowed rows (T, K) by weight; evenly where all weights are 0: (T,)."""
    weights = weights * allowed
    weights = np.where(weights.any(axis=1, keepdims=True), weights, allowed)
    total = weights.cumsum(axis=1)
    thresholds = random.random(len(rows)) * total[:, -1]
    # The product may be rounded up to the total.
    thresholds = np.minimum(thresholds, np.nextafter(total[:, -1], 0))
    places = (total <= thresholds[:, None]).sum(axis=1)
    return rows[np.arange(len(rows)), places].astype(np.int64)


def check_anchors(
    triplets: Triplets, path: Path, min_positives: int, min_negatives: int, neighbours: int
) -> None:
    """Check that there is an anchor.

    Raises:
        UserError: No photo has enough photos of both kinds among its nearest.
    """
    if not len(triplets.anchors):
        raise UserError(
            f"{path}: no photo has {min_positives} photos of its landmark and {min_negatives} of "
            f"others among its {neighbours} nearest, outside the held-out landmarks. Pass a "
            "smaller fit.min_positives or fit.min_negatives, or fit on more photos."
        )
