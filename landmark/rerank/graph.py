"""The graph of mutual neighbours that diffusion runs on."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

_BLOCK_COMPARISONS = 2**22


@dataclass(frozen=True, eq=False)
class Graph:
    """A symmetric, sparse (N, N) matrix: at most k entries a row.

    Attributes:
        columns: (N, k) int32, N where there is no entry.
        weights: (N, k) float32, 0 there.
    """

    columns: np.ndarray
    weights: np.ndarray

    @cached_property
    def components(self) -> np.ndarray:
        """Number of each row's component, (N,) int32: equal where entries connect them."""
        return connected_components(self.csr(), directed=False)[1]

    def csr(self) -> sparse.csr_matrix:
        """The matrix in the form that multiplies."""
        present = self.columns < len(self.columns)
        starts = np.concatenate([[0], np.cumsum(present.sum(axis=1))])
        size = (len(self.columns), len(self.columns))
        return sparse.csr_matrix((self.weights[present], self.columns[present], starts), shape=size)


def transition_graph(rows: np.ndarray, cosines: np.ndarray, gamma: float, alpha: float) -> Graph:
    """The normalised affinity of mutual neighbours, times alpha.

    The affinity of mutual neighbours is max(cosine, 0)^gamma, of others 0; it is divided by the
    square roots of the degrees of both (Iscen et al. 2017, arXiv 1611.05113). The roundings to
    float32 are those of the code released for arXiv 1811.10907.

    Args:
        rows: Neighbours of each photo, (N, k); -1 is none. The photo itself does not count.
        cosines: Theirs with the photo, (N, k).
        gamma: Exponent of the affinity.
        alpha: Factor.

    Example:
        >>> rows, cosines = np.array([[0, 1], [1, 0], [2, 1]]), np.array([[1, 0.8]] * 3)
        >>> transition_graph(rows, cosines, gamma=3, alpha=0.5).csr().toarray().tolist()
        [[0.0, 0.5, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    columns = np.empty(rows.shape, np.int32)
    weights = np.empty(rows.shape, np.float32)
    root = np.empty(len(rows), np.float32)
    all_mutual = mutual_neighbours(rows)
    for part in _parts(rows):
        mutual = all_mutual[part]
        columns[part] = np.where(mutual, rows[part], len(rows))
        affinity = np.maximum(cosines[part], np.float32(0)) ** np.float32(gamma)
        weights[part] = np.where(mutual, affinity, 0)
        root[part] = (weights[part].sum(axis=1, dtype=np.float64) + 1e-12) ** -0.5
    root_of = np.append(root, np.float32(0))
    for part in _parts(rows):
        weights[part] = root[part, None] * weights[part] * root_of[columns[part]]
        weights[part] *= np.float32(alpha)
    return Graph(columns, weights)


def _parts(rows: np.ndarray) -> list[slice]:
    block_size = max(1, _BLOCK_COMPARISONS // max(1, rows.shape[1] ** 2))
    return [slice(first, first + block_size) for first in range(0, len(rows), block_size)]


def mutual_neighbours(rows: np.ndarray) -> np.ndarray:
    """Where a photo's neighbour has the photo among its own neighbours, (N, k) bool.

    Args:
        rows: Neighbours of each photo, (N, k); -1 is none. The photo itself does not count.

    Example:
        >>> mutual_neighbours(np.array([[0, 1], [1, 0], [2, 1]])).tolist()
        [[False, True], [False, True], [False, False]]
    """
    mutual = np.empty(rows.shape, bool)
    for part in _parts(rows):
        near = rows[part]
        own = np.arange(part.start, part.start + len(near))[:, None]
        theirs = rows[np.maximum(near, 0)]  # (B, k, k)
        mutual[part] = (theirs == own[:, :, None]).any(axis=2) & (near >= 0) & (near != own)
    return mutual
