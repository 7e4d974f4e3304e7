"""Photos held out of a fit, and how well a matrix retrieves them."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.vectors import row_blocks
from landmark.error import UserError
from landmark.metric import gldv2
from landmark.metric.relevance import hits_by_label

LEAST_PHOTOS = 5  # of a landmark: two to hold out, three to fit to
_K = 100
_MOST_HELD_OUT = 6000
_QUERY_ROWS = 1024


class Held(NamedTuple):
    """The photos of one fold.

    Attributes:
        rows: Held-out rows, ascending.
        fitted: The other rows with a landmark, ascending.
    """

    rows: NDArray[np.int64]
    fitted: NDArray[np.int64]


@dataclass(frozen=True)
class Quality:
    """How held-out photos find each other after an epoch.

    Attributes:
        epoch: Number of epochs.
        map: mAP@100, each photo against all others.
        nearest: Share of the photos whose nearest other photo shows the same landmark.
    """

    epoch: int
    map: float
    nearest: float

    @classmethod
    def mean(cls, epoch: int, of_folds: list[tuple[float, float]]) -> "Quality":
        """Return the mean of (mAP, 1-nn) over the folds."""
        precision, nearest = np.mean(of_folds, axis=0)
        return cls(epoch, float(precision), float(nearest))

    def recorded(self) -> dict[str, float]:
        """Return the point of the curve for fit.yaml."""
        return {
            "epoch": self.epoch,
            "map_at_100": round(self.map, 6),
            "nearest": round(self.nearest, 6),
        }


def landmark_codes(store: DescriptorStore) -> NDArray[np.int64]:
    """Number the landmarks of all photos, (N,); -1 if unknown.

    Raises:
        UserError: Fewer than two landmarks have `LEAST_PHOTOS` photos.
    """
    landmark_ids = store.landmark_ids
    if landmark_ids is None or not (landmark_ids != "").any():
        raise UserError(f"{store.path} has no landmark_id to learn from. Pass fit=pca.")
    codes, names = pd.factorize(pd.Series(landmark_ids).replace("", None))
    enough = int((np.bincount(codes[codes >= 0]) >= LEAST_PHOTOS).sum())
    if enough < 2:
        raise UserError(
            f"{store.path}: {enough} of {len(names):,} landmarks have {LEAST_PHOTOS} photos or "
            "more, and fit=linear needs two. Fit on more photos, or pass fit=whitening or fit=pca."
        )
    return codes.astype(np.int64)


def held_out(codes: NDArray[np.int64], seed: int, fold: int) -> Held:
    """Hold out a third of the landmarks, and a third of the photos of the others.

    Only landmarks with `LEAST_PHOTOS` photos are held out or give photos, at least two each, so that
    each held-out photo has another one of its landmark; and only as many as give about 6,000 photos.

    Args:
        codes: (N,) landmark of each photo; -1 for none.
        seed: Seed of the order of landmarks and photos.
        fold: Number of the fold; consecutive ones hold out other landmarks.

    Example:
        >>> held = held_out(np.repeat([0, 1, 2], 6), seed=0, fold=0)
        >>> np.bincount(np.repeat([0, 1, 2], 6)[held.rows]).tolist()
        [6, 2, 2]
    """
    random = np.random.default_rng([seed, 1])
    counts = np.bincount(codes[codes >= 0])
    landmarks = random.permutation(np.flatnonzero(counts >= LEAST_PHOTOS))
    whole = len(landmarks) // 3
    landmarks = np.roll(landmarks, -fold * whole)
    is_whole = np.arange(len(landmarks)) < whole
    given = np.where(is_whole, counts[landmarks], np.maximum(2, counts[landmarks] // 3))
    # In turns, so that those that are kept are a third of the landmarks too.
    turns = np.argsort(
        np.concatenate([np.arange(whole) * 3, np.arange(len(landmarks) - whole) * 1.5])
    )
    turns = turns[np.cumsum(given[turns]) - given[turns] < _MOST_HELD_OUT]
    quota = np.zeros(len(counts), np.int64)
    quota[landmarks[turns]] = given[turns]

    order = random.permutation(np.flatnonzero(codes >= 0))
    order = order[np.argsort(codes[order], kind="stable")]
    starts = np.cumsum(counts) - counts
    position = np.arange(len(order)) - starts[codes[order]]
    # The photos of the next fold follow those of this one.
    position = (position - fold * quota[codes[order]]) % counts[codes[order]]
    is_held = position < quota[codes[order]]
    return Held(np.sort(order[is_held]), np.sort(order[~is_held]))


def quality(
    store: DescriptorStore, codes: NDArray[np.int64], rows: NDArray[np.int64], weight: Tensor
) -> tuple[float, float]:
    """Return mAP@100 and the accuracy of the nearest photo, each photo against the others.

    Args:
        store: Descriptors (D,).
        codes: (N,) landmark of each photo.
        rows: (V,) rows of the photos.
        weight: (d, D) matrix to multiply them by.
    """
    parts = [store.vectors[rows[block]] for block in row_blocks(len(rows))]
    vectors = torch.cat([_projected(part, weight) for part in parts])
    k = min(_K, len(rows) - 1)
    ranked = []
    for block in row_blocks(len(rows), _QUERY_ROWS):
        scores = vectors[block] @ vectors.T
        own = torch.arange(block.start, block.stop, device=scores.device)
        scores[torch.arange(len(own), device=scores.device), own] = -torch.inf
        ranked.append(scores.topk(k, dim=1).indices.cpu().numpy())
    labels = codes[rows]
    hits, relevant = hits_by_label(np.concatenate(ranked), labels, labels)
    return gldv2.map_at_k(hits, relevant - 1, _K), float(hits[:, 0].mean())


def _projected(vectors: NDArray[np.floating], weight: Tensor) -> Tensor:
    exact = torch.from_numpy(np.asarray(vectors, np.float32)).to(weight.device)
    return functional.normalize(exact @ weight.T, dim=1)
