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
    (Yang et al. 2019, arXiv 1811.10907, section 3).

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
    for first in range(0, len(neighbourhoods), max(1, at_once)):
        some = neighbourhoods[first : first + at_once]
        systems = _systems(graph, some, place)
        values = conjugate_gradients(systems.matrix, systems.starts, iterations, rtol)
        scores[first : first + len(some)].ravel()[systems.unknowns] = values
    return scores


class _Systems(NamedTuple):
    """The systems of some photos side by side.

    Attributes:
        matrix: (R, R) float64, block-diagonal, the graph without what is out of reach.
        unknowns: (R,) where they stand in the flattened (B, n) neighbourhoods, ascending.
        starts: (B,) where each photo's unknowns begin.
    """

    matrix: sparse.csr_matrix
    unknowns: np.ndarray
    starts: np.ndarray


def _systems(graph: Graph, neighbourhoods: np.ndarray, place: np.ndarray) -> _Systems:
    """Walk from each first photo through its neighbourhood, and note the edges on the way.

    The diffusion never leaves what can be reached from where it starts, often a small part.

    Args:
        graph: Of N photos.
        neighbourhoods: (B, n); -1 is none.
        place: (at least B, N + 1) of 0, left as it is found: where a photo stands in the flattened
            neighbourhoods, from 1.
    """
    blocks, wide = neighbourhoods.shape
    block_of = np.arange(blocks)[:, None]
    photos = neighbourhoods.ravel()
    place[block_of, neighbourhoods] = np.arange(1, photos.size + 1).reshape(blocks, wide)
    place[:, -1] = 0
    starts = np.arange(0, photos.size, wide)
    reached = np.zeros(photos.size, bool)
    reached[starts] = True
    frontier, visited, targets, weights, ends = starts, [starts], [], [], [np.zeros(1, np.int64)]
    shift = np.arange(0, blocks * place.shape[1], place.shape[1])
    while len(frontier):
        degree = int(graph.degrees[photos[frontier]].max())
        near = graph.columns[photos[frontier], :degree]  # (F, degree)
        to = place.ravel().take(near + shift[frontier // wide, None], mode="clip")
        edges = np.flatnonzero(to > 0)
        targets.append(to.ravel().take(edges) - 1)
        weights.append(graph.weights[photos[frontier], :degree].ravel().take(edges))
        ends.append(np.searchsorted(edges, degree * np.arange(1, len(frontier) + 1)) + ends[-1][-1])
        new = np.zeros(photos.size, bool)
        new[targets[-1]] = True
        new &= ~reached
        reached |= new
        frontier = np.flatnonzero(new)
        visited.append(frontier)
    place[block_of, neighbourhoods] = 0

    order = np.argsort(np.concatenate(visited))
    unknowns = np.flatnonzero(reached)
    number = np.empty(photos.size, np.int32)
    number[unknowns] = np.arange(len(unknowns))
    values = np.concatenate(weights).astype(np.float64)
    columns = number[np.concatenate(targets)]
    as_visited = sparse.csr_matrix(
        (values, columns, np.concatenate(ends)), shape=(len(unknowns), len(unknowns))
    )
    return _Systems(as_visited[order], unknowns, number[starts])


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
    sizes = np.diff(starts, append=matrix.shape[0])
    solution = np.zeros(matrix.shape[0])
    residual = np.zeros(matrix.shape[0])
    residual[starts] = 1
    direction = residual.copy()
    square = np.ones(len(starts))
    for _ in range(iterations):
        going = square >= rtol**2
        if not going.any():
            break
        product = direction - matrix @ direction
        curvature = np.add.reduceat(direction * product, starts)
        step = np.where(going, square / np.where(going, curvature, 1), 0)
        step = np.repeat(step, sizes)
        solution += step * direction
        residual -= step * product
        before, square = square, np.add.reduceat(residual * residual, starts)
        turn = np.where(going, square / np.where(going, before, 1), 0)
        direction = residual + np.repeat(turn, sizes) * direction
    return solution
