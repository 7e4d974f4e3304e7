"""Offline diffusion: photos compared by what they reach in the graph of mutual neighbours."""

from collections.abc import Iterator
from typing import Annotated

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt
from scipy import sparse

from landmark.artifact.vectors import row_blocks
from landmark.processes import gather_objects, shard
from landmark.rerank.graph import Graph, conjugate_gradients, sparse_rows, transition_graph
from landmark.rerank.neighbours import all_neighbours
from landmark.rerank.parallel import in_parallel
from landmark.rerank.ranking import Best, Triplets, filled_up
from landmark.rerank.retrieval import Retrieval
from landmark.search.sharded import merge_ranks
from landmark.settings import checked

_BLOCK_ROWS = 128
_SYSTEMS = 32  # solved side by side
_PLACES = 2**23  # 32 MB


class Diffusion:
    """Efficient diffusion, decoupled from the query (Yang et al. 2019, arXiv 1811.10907).

    Queries and gallery are one graph of mutual neighbours with the weights max(cosine, 0)^gamma.
    From each photo, restricted to its n_trunc nearest, a random walk with restart is solved. The
    new descriptor of a photo is its solution, of unit length; the gallery is ranked by its product
    with the query's, as in the released code. Photos that share nothing with a query follow in the
    order they had.

    The queries are searched again: the former ranking sets the length and that order, nothing else.
    Memory grows with the photos; the gallery's solutions are used up as they come. Under a launcher
    each rank solves and compares a part of the photos.

    Args:
        n_trunc: Photos of a truncated gallery, itself among them.
        kd: Neighbours in the graph, itself among them.
        gamma: Exponent of the cosines.
        alpha: Probability to walk on.
        iterations: Most steps of conjugate gradients.
        rtol: Residual at which they end.

    Example:
        >>> from landmark.search import Flat
        >>> angles = np.radians([0, 22, 42, 60, -35, -40, -45])  # a chain, and photos beside it
        >>> photos = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        >>> retrieval = Retrieval.from_search(photos[:1], photos[1:], k=6, search=Flat())
        >>> retrieval.rows.tolist(), Diffusion(kd=3)(retrieval).rows.tolist()
        ([[0, 3, 4, 1, 5, 2]], [[0, 1, 2, 3, 4, 5]])
    """

    @checked
    def __init__(
        self,
        n_trunc: PositiveInt = 1000,
        kd: Annotated[int, Field(ge=2)] = 50,
        gamma: NonNegativeFloat = 3.0,
        alpha: Annotated[float, Field(ge=0, lt=1)] = 0.99,
        iterations: PositiveInt = 20,
        rtol: NonNegativeFloat = 1e-6,
    ) -> None:
        self.n_trunc = n_trunc
        self.kd = kd
        self.gamma = gamma
        self.alpha = alpha
        self.iterations = iterations
        self.rtol = rtol

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Diffuse from every photo and compare; rows and scores are new."""
        graph, neighbours = self.graph(*self._neighbours(retrieval))
        queries, kept = retrieval.rows.shape
        own = [normalised(part) for part in self.solutions(graph, neighbours[shard(queries)])]
        parts = [part for parts in gather_objects(own) for part in parts]
        reaching = sparse.vstack(parts).T.tocsr()  # (Q + N, Q): which queries reach a photo
        best = Best(queries, kept)
        gallery = shard(len(retrieval.gallery))

        def compared(part: slice) -> Triplets:
            solution = self._solution(graph, neighbours[queries + part.start : queries + part.stop])
            pairs = (normalised(solution) @ reaching).tocoo()
            return best.better(pairs.col, pairs.row + part.start, pairs.data)

        for better in in_parallel(compared, row_blocks(gallery.stop, _BLOCK_ROWS, gallery.start)):
            best.add(better)
        rows, scores = merge_ranks(*best.result())
        return retrieval.with_ranking(*filled_up(rows, scores, retrieval.rows, retrieval.scores))

    def offline(self, retrieval: Retrieval) -> sparse.csr_matrix:
        """The solutions of all photos, queries then gallery, (Q + N, Q + N) float32.

        n_trunc values a photo: to look at the method; the ranking never holds them all.
        """
        graph, neighbours = self.graph(*self._neighbours(retrieval))
        return sparse.vstack(list(self.solutions(graph, neighbours)), format="csr")

    def graph(self, rows: np.ndarray, cosines: np.ndarray) -> tuple[Graph, np.ndarray]:
        """The graph of all photos and the neighbourhoods (N, n_trunc), by their neighbours (N, k).

        Args:
            rows: Neighbours of each photo, itself first, k at least kd and n_trunc or all; -1 is
                none.
            cosines: Theirs with the photo.
        """
        graph = transition_graph(rows[:, : self.kd], cosines[:, : self.kd], self.gamma, self.alpha)
        return graph, rows[:, : self.n_trunc]

    def solutions(self, graph: Graph, neighbours: np.ndarray) -> Iterator[sparse.csr_matrix]:
        """The solutions of some photos, in parts (B, N) float32.

        Args:
            graph: The graph of all N photos.
            neighbours: Neighbourhoods of those photos, (P, n_trunc), the photo first.
        """
        blocks = row_blocks(len(neighbours), _BLOCK_ROWS)
        return in_parallel(lambda block: self._solution(graph, neighbours[block]), blocks)

    def _neighbours(self, retrieval: Retrieval) -> tuple[np.ndarray, np.ndarray]:
        indexes = (retrieval.index.settings.build(retrieval.query), retrieval.index)
        photos = len(retrieval.query) + len(retrieval.gallery)
        return all_neighbours(indexes, min(max(self.n_trunc, self.kd), photos), scored=self.kd)

    def _solution(self, graph: Graph, neighbours: np.ndarray) -> sparse.csr_matrix:
        """The solutions of some photos with their neighbours (B, n), (B, Q + N) float32."""
        values = truncated_diffusion(graph, neighbours, self.iterations, self.rtol)
        return sparse_rows(neighbours, values, values != 0, len(graph.columns))


def normalised(rows: sparse.csr_matrix) -> sparse.csr_matrix:
    """Rows of unit length; every row has an entry.

    Example:
        >>> normalised(sparse.csr_matrix([[3.0, 4.0]])).toarray().round(1).tolist()[0][0] > 0.59
        True
    """
    lengths = np.sqrt(np.add.reduceat(np.square(rows.data, dtype=np.float64), rows.indptr[:-1]))
    values = (rows.data / np.repeat(lengths, np.diff(rows.indptr))).astype(np.float32)
    return sparse.csr_matrix((values, rows.indices, rows.indptr), shape=rows.shape)


def truncated_diffusion(
    graph: Graph, neighbourhoods: np.ndarray, iterations: int, rtol: float
) -> np.ndarray:
    """Diffuse from the first photo of each neighbourhood over the photos of that neighbourhood.

    Solves (I - graph restricted to the neighbourhood) f = e_1 by conjugate gradients from f = 0
    (Yang et al. 2019, arXiv 1811.10907).

    Args:
        graph: alpha times the normalised affinity of all N photos.
        neighbourhoods: Photos of each neighbourhood, (B, n), each once; -1 is none.
        iterations: Most steps.
        rtol: A system is solved when its residual is below this.

    Returns:
        f, (B, n) float32; 0 at -1.

    Example:
        >>> graph = Graph(np.array([[1], [0]]), np.array([[0.5], [0.5]], np.float32))
        >>> truncated_diffusion(graph, np.array([[0, 1]]), 20, 1e-6).round(2).astype(str).tolist()
        [['1.33', '0.67']]
    """
    scores = np.zeros(neighbourhoods.shape, np.float32)
    columns = len(graph.columns) + 1  # the last one is for no photo
    block_size = max(1, min(_SYSTEMS, len(neighbourhoods), _PLACES // columns))
    place = np.zeros((block_size, columns), np.int32)
    inside = np.zeros((block_size, columns), bool)
    for part in row_blocks(len(neighbourhoods), block_size):
        matrix, unknowns, starts = _systems(graph, neighbourhoods[part], place, inside)
        scores[part].ravel()[unknowns] = _solve_blocks(matrix, starts, iterations, rtol)
    return scores


def _systems(
    graph: Graph, neighbourhoods: np.ndarray, place: np.ndarray, inside: np.ndarray
) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
    """Look up every edge of the photos of each neighbourhood, keep those that stay within it.

    Photos of another component than the first are left out: the diffusion never reaches them.

    Args:
        graph: The graph of N photos.
        neighbourhoods: (B, n); -1 is none.
        place: (at least B, N + 1), for the number of a photo in its neighbourhood.
        inside: (at least B, N + 1) of False, restored at the end: what is in a neighbourhood. It
            is small, so that most look-ups need not go to `place`.

    Returns:
        The systems of all photos as one block-diagonal matrix (R, R) float64; the places (R,) of
        their unknowns in the flattened neighbourhoods, ascending; and where those of each photo
        begin, (B,).
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
    return matrix, unknowns, starts


def _solve_blocks(
    matrix: sparse.csr_matrix, starts: np.ndarray, iterations: int, rtol: float
) -> np.ndarray:
    """Solve (I - matrix) f = b, (R,), for diagonal blocks, b the first unit vector of each."""
    first = np.zeros(matrix.shape[0])
    first[starts] = 1
    block = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(first)))
    buffer = np.empty_like(first)

    def dot(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.multiply(left, right, out=buffer), starts)

    return conjugate_gradients(
        matrix, first, iterations, rtol, dot=dot, spread=lambda values: values.take(block)
    )
