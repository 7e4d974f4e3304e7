"""The graph of mutual neighbours that diffusion runs on, and a solver for its linear systems."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from landmark.artifact.vectors import row_blocks

_BLOCK_COMPARISONS = 2**22


@dataclass(frozen=True, eq=False)
class Graph:
    """A symmetric, sparse (N, N) matrix with at most k entries per row.

    Attributes:
        columns: (N, k) int32; N pads.
        weights: (N, k) float32; 0 at the pads.

    Example:
        >>> graph = Graph(np.array([[1], [0], [3]]), np.array([[0.5], [0.5], [0]], np.float32))
        >>> graph.csr().toarray().tolist()
        [[0.0, 0.5, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]
        >>> graph.components.tolist()
        [0, 0, 1]
    """

    columns: np.ndarray
    weights: np.ndarray

    @cached_property
    def components(self) -> np.ndarray:
        """Connected component of each row, (N,) int32."""
        return connected_components(self.csr(), directed=False)[1]

    def csr(self) -> sparse.csr_matrix:
        """Return the graph as a sparse matrix."""
        present = self.columns < len(self.columns)
        return sparse_rows(self.columns, self.weights, present, len(self.columns))


def sparse_rows(
    columns: np.ndarray, values: np.ndarray, present: np.ndarray, width: int
) -> sparse.csr_matrix:
    """Return the entries (B, k) that are present as a sparse matrix (B, width).

    Example:
        >>> columns, values = np.array([[1, 0], [0, 9]]), np.array([[5, 6], [7, 8]])
        >>> sparse_rows(columns, values, columns < 2, width=2).toarray().tolist()
        [[6, 5], [7, 0]]
    """
    starts = np.concatenate([[0], np.cumsum(present.sum(axis=1))])
    shape = (len(columns), width)
    return sparse.csr_matrix((values[present], columns[present], starts), shape=shape)


def transition_graph(rows: np.ndarray, cosines: np.ndarray, gamma: float, alpha: float) -> Graph:
    """Return alpha times the normalised affinity of mutual neighbours.

    The affinity of mutual neighbours is max(cosine, 0)^gamma, of other pairs 0; it is divided by
    the square roots of both degrees (Iscen et al. 2017, arXiv 1611.05113). Values are rounded to
    float32 where the code released for arXiv 1811.10907 rounds them.

    Args:
        rows: Neighbours of each photo, (N, k); -1 pads. The photo itself is ignored.
        cosines: Cosines of the neighbours, (N, k).
        gamma: Exponent of the cosines.
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
    for part in _blocks(rows):
        mutual = all_mutual[part]
        columns[part] = np.where(mutual, rows[part], len(rows))
        affinity = np.maximum(cosines[part], np.float32(0)) ** np.float32(gamma)
        weights[part] = np.where(mutual, affinity, 0)
        root[part] = (weights[part].sum(axis=1, dtype=np.float64) + 1e-12) ** -0.5
    root_of = np.append(root, np.float32(0))
    for part in _blocks(rows):
        weights[part] = root[part, None] * weights[part] * root_of[columns[part]]
        weights[part] *= np.float32(alpha)
    return Graph(columns, weights)


def _blocks(rows: np.ndarray) -> Iterator[slice]:
    return row_blocks(len(rows), _BLOCK_COMPARISONS // max(1, rows.shape[1] ** 2))


def mutual_neighbours(rows: np.ndarray) -> np.ndarray:
    """Return where a photo is also a neighbour of its neighbour, (N, k) bool.

    Args:
        rows: Neighbours of each photo, (N, k); -1 pads. The photo itself is ignored.

    Example:
        >>> mutual_neighbours(np.array([[0, 1], [1, 0], [2, 1]])).tolist()
        [[False, True], [False, True], [False, False]]
    """
    mutual = np.empty(rows.shape, bool)
    for part in _blocks(rows):
        near = rows[part]
        own = np.arange(part.start, part.stop)[:, None]
        theirs = rows[np.maximum(near, 0)]  # (B, k, k)
        mutual[part] = (theirs == own[:, :, None]).any(axis=2) & (near >= 0) & (near != own)
    return mutual


def conjugate_gradients(
    matrix: sparse.csr_matrix,
    right: np.ndarray,
    iterations: int,
    rtol: float,
    dot: Callable[[np.ndarray, np.ndarray], np.ndarray],
    spread: Callable[[np.ndarray], np.ndarray] = lambda values: values,
) -> np.ndarray:
    """Solve (I - matrix) f = y for several systems together, from f = 0.

    Args:
        matrix: (R, R), symmetric.
        right: y of all systems, (R,) or (R, B).
        iterations: Maximum number of steps.
        rtol: Residual, relative to y, at which a system is solved.
        dot: Inner product per system of two arrays shaped like `right`, (B,).
        spread: Broadcasts one value per system, (B,), to the shape of `right`. Defaults to one
            system per column.

    Returns:
        f, shaped like `right`, float64.

    Example:
        >>> matrix, right = sparse.csr_matrix([[0, 0.5], [0.5, 0]]), np.array([[1.0], [0.0]])
        >>> dot = lambda a, b: np.einsum("rb,rb->b", a, b)
        >>> conjugate_gradients(matrix, right, 20, 1e-6, dot).round(2).tolist()
        [[1.33], [0.67]]
    """
    solution, residual, direction = np.zeros_like(right), right.copy(), right.copy()
    buffer = np.empty_like(right)
    square = dot(residual, residual)
    enough = rtol**2 * square
    for _ in range(iterations):
        unsolved = square > enough
        if not unsolved.any():
            break
        product = matrix @ direction
        np.subtract(direction, product, out=product)
        curvature = dot(direction, product)
        step = spread(np.where(unsolved, square / np.where(unsolved, curvature, 1), 0))
        solution += np.multiply(step, direction, out=buffer)
        residual -= np.multiply(step, product, out=buffer)
        previous, square = square, dot(residual, residual)
        direction *= spread(np.where(unsolved, square / np.where(unsolved, previous, 1), 0))
        direction += residual
    return solution
