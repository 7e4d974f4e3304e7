"""Photos encoded by their k-reciprocal neighbours."""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from landmark.rerank.graph import mutual_neighbours
from landmark.rerank.neighbours import pair_cosines
from landmark.rerank.parallel import in_parallel

_PHOTOS_AT_ONCE = 512


class Encoding:
    """The k-reciprocal encodings of all photos (Zhong et al. 2017, arXiv 1701.08398).

    Args:
        sets: Descriptors, each (N_i, D), N in all.
        near: Nearest of each photo, itself first, (N, at least k1 + 1 and k2, or N); -1 is none.
        farthest: Largest squared distance of each photo, (N,).
        k1: Neighbours that can be reciprocal.
        k2: Nearest photos averaged.
    """

    def __init__(
        self,
        sets: Sequence[np.ndarray],
        near: np.ndarray,
        farthest: np.ndarray,
        k1: int,
        k2: int,
    ) -> None:
        self._sets, self._near, self._farthest, self._k2 = sets, near, farthest, k2
        reciprocal = _reciprocal(near[:, : k1 + 1])
        # numpy rounds halves to even, as the released code does.
        half = _reciprocal(near[:, : int(np.around(k1 / 2)) + 1])
        sizes = np.diff(half.indptr)
        parts = in_parallel(
            lambda first: self._weighted(
                first, _expanded(reciprocal[first : first + _PHOTOS_AT_ONCE], half, sizes)
            ),
            range(0, len(near), _PHOTOS_AT_ONCE),
        )
        self._encoded = sparse.vstack(list(parts), format="csr")

    def averaged(self, first: int, end: int) -> sparse.csr_matrix:
        """Encodings of some photos, each the mean over its k2 nearest, (B, N) float32."""
        near = self._near[first:end, : self._k2]
        present = near >= 0
        starts = np.concatenate([[0], np.cumsum(present.sum(axis=1))])
        share = np.repeat(1 / np.diff(starts), np.diff(starts)).astype(np.float32)
        shape = (end - first, len(self._near))
        return sparse.csr_matrix((share, near[present], starts), shape=shape) @ self._encoded

    def _weighted(self, first: int, members: sparse.csr_matrix) -> sparse.csr_matrix:
        """Weights exp(-distance) of the members of each photo's set, of sum 1, (B, N) float32."""
        photos = first + np.repeat(np.arange(members.shape[0]), np.diff(members.indptr))
        cosines = pair_cosines(self._sets, photos, members.indices)
        # Of its own length, rounded in half precision, a photo is not a distance away.
        distances = np.where(photos == members.indices, 0, np.maximum(2 - 2 * cosines, 0))
        weights = np.exp(-distances / self._farthest[photos]).astype(np.float32)
        total = np.add.reduceat(weights, members.indptr[:-1])
        weights /= np.repeat(total, np.diff(members.indptr))
        return sparse.csr_matrix((weights, members.indices, members.indptr), shape=members.shape)


def overlaps(encoded: sparse.csr_matrix, asking: sparse.csr_matrix) -> sparse.csr_matrix:
    """Sum over the neighbours of the smaller of both weights, (B, Q) float32.

    Args:
        encoded: Encodings of B photos, (B, N).
        asking: Encodings of the queries by neighbour, (N, Q).
    """
    photos = np.repeat(np.arange(encoded.shape[0], dtype=np.int32), np.diff(encoded.indptr))
    asked = np.diff(asking.indptr)[encoded.indices]  # queries that meet each weight
    ends = np.cumsum(asked)
    at = np.arange(ends[-1] if len(ends) else 0) + np.repeat(
        asking.indptr[encoded.indices] - ends + asked, asked
    )
    smaller = np.minimum(np.repeat(encoded.data, asked), asking.data[at])
    return sparse.csr_matrix(
        (smaller, (np.repeat(photos, asked), asking.indices[at])),
        shape=(encoded.shape[0], asking.shape[1]),
    )


def _reciprocal(near: np.ndarray) -> sparse.csr_matrix:
    """Which photos have one another among their nearest, or are the same, (N, N) of ones."""
    photos = len(near)
    mutual = mutual_neighbours(near)
    mutual[:, 0] = True  # the photo itself
    starts = np.concatenate([[0], np.cumsum(mutual.sum(axis=1))])
    ones = np.ones(starts[-1], np.float32)
    return sparse.csr_matrix((ones, near[mutual], starts), shape=(photos, photos))


def _expanded(
    reciprocal: sparse.csr_matrix, half: sparse.csr_matrix, sizes: np.ndarray
) -> sparse.csr_matrix:
    """Reciprocal sets, with the half sets of those members that share more than two thirds.

    Args:
        reciprocal: Of some photos, (B, N).
        half: Reciprocal sets of half as many neighbours, (N, N).
        sizes: Their sizes, (N,).

    Returns:
        (B, N), an entry for each member.
    """
    # A half set is symmetric: this counts the members that a set shares with each half set.
    shared = (reciprocal @ half).multiply(reciprocal).tocsr()
    enough = shared.data > 2 / 3 * sizes[shared.indices]
    shared.data = enough.astype(np.float32)
    shared.eliminate_zeros()
    return (reciprocal + shared @ half).tocsr()
