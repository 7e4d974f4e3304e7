"""Diffusion from each photo within its own neighbourhood, many photos at a time."""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from landmark.rerank.graph import Graph

_PHOTOS_AT_ONCE = 32
_PLACES = 2**23  # 32 MB


def truncated_diffusion(
    graph: Graph, neighbourhoods: np.ndarray, iterations: int, rtol: float
) -> np.ndarray:
    """Diffuse from the first photo of each neighbourhood over the photos of that neighbourhood.

    Solves (I - graph restricted to the neighbourhood) f = e_1 by conjugate gradients from f = 0
    (Yang et al. 2019, arXiv 1811.10907).

    Args:
        graph: alpha times the normalised affinity of all N photos.
        neighbourhoods: Photos of each neighbourhood, (B, n), each once; -1 is none.
        iterations: Steps at most.
        rtol: A system is solved when its residual is below this.

    Returns:
        f, (B, n) float32; 0 at -1.
    """
    scores = np.zeros(neighbourhoods.shape, np.float32)
    columns = len(graph.columns) + 1  # the last one is for no photo
    at_once = min(_PHOTOS_AT_ONCE, len(neighbourhoods), max(1, _PLACES // columns))
    place = np.zeros((at_once, columns), np.int32)
    inside = np.zeros((at_once, columns), bool)
    for first in range(0, len(neighbourhoods), max(1, at_once)):
        some = neighbourhoods[first : first + at_once]
        systems = _systems(graph, some, place, inside)
        values = conjugate_gradients(systems.matrix, systems.starts, iterations, rtol)
        scores[first : first + len(some)].ravel()[systems.unknowns] = values
    return scores


class _Systems(NamedTuple):
    """The systems of some photos side by side.

    Attributes:
        matrix: (R, R) float64, block-diagonal.
        unknowns: (R,) where they stand in the flattened (B, n) neighbourhoods, ascending.
        starts: (B,) where each photo's unknowns begin.
    """

    matrix: sparse.csr_matrix
    unknowns: np.ndarray
    starts: np.ndarray


def _systems(
    graph: Graph, neighbourhoods: np.ndarray, place: np.ndarray, inside: np.ndarray
) -> _Systems:
    """Look up every edge of the photos of each neighbourhood, keep those that stay within it.

    Photos of another component than the first are left out: the diffusion never comes to them.

    Args:
        graph: Of N photos.
        neighbourhoods: (B, n); -1 is none.
        place: (at least B, N + 1), for the numbers of the photos of each neighbourhood.
        inside: (at least B, N + 1) of False, left as it is found: what is in a neighbourhood. It
            is small, so that most look-ups need not go to `place`.
    """
    component = graph.components.take(neighbourhoods)
    near = (component == component[:, :1]) & (neighbourhoods >= 0)
    unknowns = np.flatnonzero(near)
    photos = neighbourhoods.ravel().take(unknowns)
    shift = np.arange(len(neighbourhoods), dtype=np.int32) * np.int32(place.shape[1])
    shift = np.repeat(shift, np.count_nonzero(near, axis=1))
    place.ravel()[shift + photos] = np.arange(len(photos))
    inside.ravel()[shift + photos] = True
    to = graph.columns.take(photos, axis=0)  # (R, k)
    to += shift[:, None]
    edges = np.flatnonzero(inside.ravel().take(to, mode="clip"))
    inside.ravel()[shift + photos] = False
    weights = graph.weights.take(photos, axis=0).ravel().take(edges).astype(np.float64)
    targets = place.ravel().take(to.ravel().take(edges))
    ends = np.searchsorted(edges, np.arange(len(photos) + 1) * to.shape[1]).astype(np.int32)
    matrix = sparse.csr_matrix((weights, targets, ends), shape=(len(photos), len(photos)))
    starts = np.searchsorted(unknowns, np.arange(len(near)) * near.shape[1])
    return _Systems(matrix, unknowns, starts)


def conjugate_gradients(
    matrix: sparse.csr_matrix, starts: np.ndarray, iterations: int, rtol: float
) -> np.ndarray:
    """Solve (I - matrix) f = b for blocks side by side, b the first unit vector of each.

    Args:
        matrix: (R, R), block-diagonal and symmetric.
        starts: (B,) row at which each block begins.
        iterations: Steps at most.
        rtol: A block is done when its residual is below this.

    Returns:
        f, (R,) float64.
    """
    size = matrix.shape[0]
    block = np.repeat(np.arange(len(starts)), np.diff(starts, append=size))
    solution, residual, buffer = np.zeros(size), np.zeros(size), np.empty(size)
    residual[starts] = 1
    direction = residual.copy()
    square = np.ones(len(starts))

    def dot(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.multiply(left, right, out=buffer), starts)

    for _ in range(iterations):
        going = square >= rtol**2
        if not going.any():
            break
        product = matrix @ direction
        np.subtract(direction, product, out=product)
        curvature = dot(direction, product)
        step = np.where(going, square / np.where(going, curvature, 1), 0).take(block)
        solution += np.multiply(step, direction, out=buffer)
        residual -= np.multiply(step, product, out=buffer)
        before, square = square, dot(residual, residual)
        direction *= np.where(going, square / np.where(going, before, 1), 0).take(block)
        direction += residual
    return solution
