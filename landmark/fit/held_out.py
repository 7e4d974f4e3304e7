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
_MOST_PHOTOS = 10000
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

    @property
    def score(self) -> float:
        """The sum of both: what is to be highest."""
        return self.map + self.nearest

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
    codes = codes_of(store, "to learn from. Pass fit=pca.")
    counts = np.bincount(codes[codes >= 0])
    enough = int((counts >= LEAST_PHOTOS).sum())
    if enough < 2:
        raise UserError(
            f"{store.path}: {enough} of {len(counts):,} landmarks have {LEAST_PHOTOS} photos or "
            "more, and fit=linear needs two. Fit on more photos, or pass fit=whitening or fit=pca."
        )
    return codes


def codes_of(store: DescriptorStore, why: str) -> NDArray[np.int64]:
    """Number the landmarks of all photos, (N,); -1 if unknown.

    Args:
        store: N photos.
        why: What needs the landmarks, and what to do, for the message.

    Raises:
        UserError: No photo has a landmark.
    """
    landmark_ids = store.landmark_ids
    if landmark_ids is None or not (landmark_ids != "").any():
        raise UserError(f"{store.path} has no landmark_id {why}")
    codes, _ = pd.factorize(pd.Series(landmark_ids).replace("", None))
    return codes.astype(np.int64)


def held_out(codes: NDArray[np.int64], seed: int, fold: int) -> Held:
    """Hold out a third of the landmarks, and a third of the photos of the others.

    A landmark that is held out completely or in part has `LEAST_PHOTOS` photos or more, and at
    least two of them are held out, so that each finds another one of its landmark. Of large stores
    only so many landmarks are taken as have about 10,000 photos.

    Args:
        codes: (N,) landmark of each photo; -1 for none.
        seed: Seed of the order of landmarks and photos.
        fold: Number of the fold. Three consecutive ones hold out each landmark completely once.

    Example:
        >>> codes = np.repeat([0, 1, 2], 6)
        >>> np.bincount(codes[held_out(codes, seed=0, fold=0).rows]).tolist()
        [2, 2, 6]
    """
    random = np.random.default_rng([seed, 1])
    counts = np.bincount(codes[codes >= 0])
    landmarks = random.permutation(np.flatnonzero(counts >= LEAST_PHOTOS))
    photos_before = np.cumsum(counts[landmarks]) - counts[landmarks]
    landmarks = landmarks[photos_before < _MOST_PHOTOS]
    thirds = np.array_split(landmarks, 3)
    quota = np.zeros(len(counts), np.int64)
    quota[landmarks] = np.maximum(2, counts[landmarks] // 3)
    if len(landmarks) >= 3:
        complete = thirds[fold % 3]
        quota[complete] = counts[complete]

    order = random.permutation(np.flatnonzero(codes >= 0))
    order = order[np.argsort(codes[order], kind="stable")]
    of_row = codes[order]
    position = np.arange(len(order)) - (np.cumsum(counts) - counts)[of_row]
    # A landmark gives other photos in each fold.
    is_held = (position - fold * quota[of_row]) % counts[of_row] < quota[of_row]
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
