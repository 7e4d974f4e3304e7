"""Offline diffusion: compare photos by their random walks on the graph of mutual neighbours."""

from collections.abc import Iterator
from typing import Annotated

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt
from scipy import sparse

from landmark.artifact.vectors import row_blocks
from landmark.processes import gather_objects, shard
from landmark.rerank.graph import Graph, conjugate_gradients, sparse_rows, transition_graph
from landmark.rerank.neighbours import all_neighbours, twins_of
from landmark.rerank.parallel import in_parallel
from landmark.rerank.ranking import Best, Triplets, filled_up, others
from landmark.rerank.retrieval import Retrieval
from landmark.search.sharded import merge_ranks
from landmark.settings import checked

_BLOCK_ROWS = 128
_MOST_SYSTEMS = 32  # solved together
_TABLE_ENTRIES = 2**23  # of the look-up table: 32 MB


class Diffusion:
    """Efficient diffusion, decoupled from the query (Yang et al. 2019, arXiv 1811.10907).

    Queries and gallery form one graph of mutual neighbours with the weights max(cosine, 0)^gamma.
    A random walk with restart is solved for each photo, truncated to its n_trunc nearest. The
    solution, normalised to unit length, is the photo's new descriptor, and the gallery is ranked by
    its inner product with the query's, as in the released code. Photos with a product of 0 follow
    in their previous order.

    The queries are searched again; the previous ranking only sets the length and that order. Memory
    grows linearly with the number of photos; the solutions of the gallery are not stored. Under a
    launcher each rank solves and compares a shard of the photos.

    Args:
        n_trunc: Photos per truncated system, including the photo itself.
        kd: Neighbours per photo in the graph, including the photo itself.
        gamma: Exponent of the cosines.
        alpha: Probability of continuing the walk.
        iterations: Maximum number of conjugate gradient steps.
        rtol: Relative residual at which a system is solved.

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
        gamma: Annotated[float, Field(ge=0, le=1000)] = 3.0,
        alpha: Annotated[float, Field(ge=0, lt=1)] = 0.99,
        iterations: Annotated[int, Field(ge=1, le=100_000)] = 20,
        rtol: NonNegativeFloat = 1e-6,
    ) -> None:
        self.n_trunc = n_trunc
        self.kd = kd
        self.gamma = gamma
        self.alpha = alpha
        self.iterations = iterations
        self.rtol = rtol

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Diffuse from every photo and compare; replaces rows and scores."""
        graph, neighbours = self.graph(*self._neighbours(retrieval))
        queries, length = retrieval.rows.shape
        own = [normalised(part) for part in self.solutions(graph, neighbours[shard(queries)])]
        parts = [part for parts in gather_objects(own) for part in parts]
        of_queries = sparse.vstack(parts).T.tocsr()  # (Q + N, Q)
        best = Best(queries, length)
        gallery = shard(len(retrieval.gallery))

        def compared(part: slice) -> Triplets:
            solution = self._solution(graph, neighbours[queries + part.start : queries + part.stop])
            pairs = (normalised(solution) @ of_queries).tocoo()
            results = Triplets(pairs.col, pairs.row + part.start, pairs.data)
            return best.better(*others(results, retrieval.own_rows))

        for better in in_parallel(compared, row_blocks(gallery.stop, _BLOCK_ROWS, gallery.start)):
            best.add(better)
        rows, scores = merge_ranks(*best.result())
        return retrieval.with_ranking(*filled_up(rows, scores, retrieval.rows, retrieval.scores))

    def offline(self, retrieval: Retrieval) -> sparse.csr_matrix:
        """Return the solutions of all photos, queries then gallery, (Q + N, Q + N) float32.

        It holds n_trunc values per photo; ranking does not need them all in memory.
        """
        graph, neighbours = self.graph(*self._neighbours(retrieval))
        return sparse.vstack(list(self.solutions(graph, neighbours)), format="csr")

    def graph(self, rows: np.ndarray, cosines: np.ndarray) -> tuple[Graph, np.ndarray]:
        """Return the graph of all photos, and their truncated neighbourhoods (N, n_trunc).

        Args:
            rows: Neighbours of each photo, the photo itself first, (N, k) with k at least kd and
                n_trunc, or N; -1 pads.
            cosines: Cosines of the neighbours, (N, at least kd).
        """
        graph = transition_graph(rows[:, : self.kd], cosines[:, : self.kd], self.gamma, self.alpha)
        return graph, rows[:, : self.n_trunc]

    def solutions(self, graph: Graph, neighbours: np.ndarray) -> Iterator[sparse.csr_matrix]:
        """Yield the solutions of P photos in blocks (B, N) float32.

        Args:
            graph: Graph of all N photos.
            neighbours: Neighbourhoods of the P photos, (P, n_trunc), the photo itself first.
        """
        blocks = row_blocks(len(neighbours), _BLOCK_ROWS)
        return in_parallel(lambda block: self._solution(graph, neighbours[block]), blocks)

    def _neighbours(self, retrieval: Retrieval) -> tuple[np.ndarray, np.ndarray]:
        indexes = (retrieval.index.settings.build(retrieval.query), retrieval.index)
        photos = len(retrieval.query) + len(retrieval.gallery)
        twins = twins_of(retrieval.own_rows, photos)
        k = min(max(self.n_trunc, self.kd), photos)
        return all_neighbours(indexes, k, scored=self.kd, twins=twins)

    def _solution(self, graph: Graph, neighbours: np.ndarray) -> sparse.csr_matrix:
        """Return the solutions (B, Q + N) float32 of photos with the neighbours (B, n)."""
        values = truncated_diffusion(graph, neighbours, self.iterations, self.rtol)
        return sparse_rows(neighbours, values, values != 0, len(graph.columns))


def normalised(rows: sparse.csr_matrix) -> sparse.csr_matrix:
    """Normalise rows to unit length; every row must have an entry.

    Example:
        >>> normalised(sparse.csr_matrix([[3.0, 4.0]])).toarray().astype("f8").round(4).tolist()
        [[0.6, 0.8]]
    """
    lengths = np.sqrt(np.add.reduceat(np.square(rows.data, dtype=np.float64), rows.indptr[:-1]))
    values = (rows.data / np.repeat(lengths, np.diff(rows.indptr))).astype(np.float32)
    return sparse.csr_matrix((values, rows.indices, rows.indptr), shape=rows.shape)


def truncated_diffusion(
    graph: Graph, neighbourhoods: np.ndarray, iterations: int, rtol: float
) -> np.ndarray:
    """Diffuse within each neighbourhood, starting from its first photo.

    Solve (I - graph restricted to the neighbourhood) f = e_1 by conjugate gradients from f = 0
    (Yang et al. 2019, arXiv 1811.10907).

    Args:
        graph: alpha times the normalised affinity of all N photos.
        neighbourhoods: Distinct photos of each neighbourhood, (B, n); -1 pads.
        iterations: Maximum number of steps.
        rtol: Relative residual at which a system is solved.

    Returns:
        f, (B, n) float32; 0 at the pads.

    Example:
        >>> graph = Graph(np.array([[1], [0]]), np.array([[0.5], [0.5]], np.float32))
        >>> truncated_diffusion(graph, np.array([[0, 1]]), 20, 1e-6).round(2).astype(str).tolist()
        [['1.33', '0.67']]
    """
    scores = np.zeros(neighbourhoods.shape, np.float32)
    columns = len(graph.columns) + 1  # the last one is for pads
    block_size = max(1, min(_MOST_SYSTEMS, len(neighbourhoods), _TABLE_ENTRIES // columns))
    place = np.zeros((block_size, columns), np.int32)
    inside = np.zeros((block_size, columns), bool)
    for part in row_blocks(len(neighbourhoods), block_size):
        matrix, unknowns, starts = _systems(graph, neighbourhoods[part], place, inside)
        scores[part].ravel()[unknowns] = _solve_blocks(matrix, starts, iterations, rtol)
    return scores


def _systems(
    graph: Graph, neighbourhoods: np.ndarray, place: np.ndarray, inside: np.ndarray
) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
    """Assemble the linear systems from the edges within each neighbourhood.

    Photos outside the connected component of the first photo are dropped: their solution is 0.

    Args:
        graph: Graph of N photos.
        neighbourhoods: (B, n); -1 pads.
        place: Scratch array (at least B, N + 1): the unknown of each photo.
        inside: Scratch array (at least B, N + 1) of False, restored on return: whether a photo is
            in a neighbourhood. It is small, so that most look-ups need not access `place`.

    Returns:
        One block-diagonal matrix (R, R) float64 of all systems; the positions (R,) of the unknowns
        in the flattened neighbourhoods, ascending; and the first unknown of each system, (B,).
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
    """Solve (I - matrix) f = b, (R,), where b is the first unit vector of each diagonal block."""
    first = np.zeros(matrix.shape[0])
    first[starts] = 1
    block = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(first)))
    buffer = np.empty_like(first)

    def dot(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.multiply(left, right, out=buffer), starts)

    return conjugate_gradients(
        matrix, first, iterations, rtol, dot=dot, spread=lambda values: values.take(block)
    )
