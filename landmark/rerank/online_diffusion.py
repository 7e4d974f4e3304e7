"""Online diffusion: solve each query on the graph of the complete gallery."""

from typing import Annotated

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt
from scipy import sparse

from landmark.rerank.graph import conjugate_gradients, transition_graph
from landmark.rerank.neighbours import all_neighbours
from landmark.rerank.parallel import across_ranks
from landmark.rerank.ranking import filled_up
from landmark.rerank.retrieval import Retrieval
from landmark.search.top_k import pads
from landmark.settings import checked

_BLOCK_VALUES = 2**23  # of the systems solved together: 64 MB per vector
_MOST_QUERIES = 256  # solved together


class OnlineDiffusion:
    """Diffusion with a global descriptor (Iscen et al. 2017, arXiv 1611.05113).

    The gallery forms a graph of mutual neighbours with the weights max(cosine, 0)^gamma; S is its
    affinity normalised by the degrees. The vector y holds the same weights for a query's kq nearest
    photos. (I - alpha S) f = y is solved by conjugate gradients, and f ranks the gallery. Photos
    that the walk does not reach follow in their previous order.

    The queries are searched again; the previous ranking only sets the length and that order.
    Nothing is truncated: each step visits every edge of the graph for each query, so `diffusion` is
    faster for many queries.

    Args:
        kd: Neighbours per photo in the graph, including the photo itself.
        kq: Gallery photos that a query starts from.
        gamma: Exponent of the cosines.
        alpha: Probability of continuing the walk.
        iterations: Maximum number of conjugate gradient steps.
        rtol: Residual, relative to y, at which a system is solved.

    Example:
        >>> from landmark.search import Flat
        >>> angles = np.radians([0, 22, 42, 60, -35, -40, -45])  # a chain, and photos beside it
        >>> photos = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        >>> retrieval = Retrieval.from_search(photos[:1], photos[1:], k=6, search=Flat())
        >>> retrieval.rows.tolist(), OnlineDiffusion(kd=3, kq=1)(retrieval).rows.tolist()
        ([[0, 3, 4, 1, 5, 2]], [[1, 0, 2, 3, 4, 5]])
    """

    @checked
    def __init__(
        self,
        kd: Annotated[int, Field(ge=2)] = 50,
        kq: PositiveInt = 10,
        gamma: Annotated[float, Field(ge=0, le=1000)] = 3.0,
        alpha: Annotated[float, Field(ge=0, lt=1)] = 0.99,
        iterations: Annotated[int, Field(ge=1, le=100_000)] = 20,
        rtol: NonNegativeFloat = 1e-6,
    ) -> None:
        self.kd = kd
        self.kq = kq
        self.gamma = gamma
        self.alpha = alpha
        self.iterations = iterations
        self.rtol = rtol

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Diffuse from every query; replaces rows and scores."""
        photos = len(retrieval.gallery)
        near, cosines = all_neighbours([retrieval.index], min(self.kd, photos))
        graph = transition_graph(near, cosines, self.gamma, self.alpha).csr().astype(np.float64)
        own_rows = retrieval.own_rows
        start, cosines = retrieval.index.search_others(
            retrieval.query, min(self.kq, photos), own_rows
        )
        weights = np.where(start >= 0, np.maximum(cosines, 0).astype(np.float64) ** self.gamma, 0)

        def diffused(part: slice) -> tuple[np.ndarray, np.ndarray]:
            previous_rows, previous_scores = retrieval.rows[part], retrieval.scores[part]
            rows, scores = pads(*previous_rows.shape)
            solution = self._solution(graph, start[part], weights[part])
            if own_rows is not None:
                is_own = own_rows[part] >= 0
                solution[own_rows[part][is_own], np.flatnonzero(is_own)] = 0  # never ranked
            for query, values in enumerate(solution.T.astype(np.float32)):
                best = _largest(values, rows.shape[1])
                rows[query, : len(best)], scores[query, : len(best)] = best, values[best]
            return filled_up(rows, scores, previous_rows, previous_scores)

        block_size = min(_MOST_QUERIES, _BLOCK_VALUES // photos)
        rows, scores = across_ranks(len(start), diffused, block_size, in_threads=True)
        return retrieval.with_ranking(rows, scores)

    def _solution(
        self, graph: sparse.csr_matrix, start: np.ndarray, weights: np.ndarray
    ) -> np.ndarray:
        """Solve (I - alpha S) f = y, (N, B), for B queries that start from photos (B, kq)."""
        right = np.zeros((graph.shape[0], len(start)))
        np.add.at(right, (np.maximum(start, 0), np.arange(len(start))[:, None]), weights)
        return conjugate_gradients(
            graph,
            right,
            self.iterations,
            self.rtol,
            dot=lambda left, right: np.einsum("nb,nb->b", left, right),
        )


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Return the positions of the k largest positive values, descending, ties by position."""
    if k < len(values):
        least = -np.partition(-values, k - 1)[k - 1]
        above, equal = np.flatnonzero(values > least), np.flatnonzero(values == least)
        positions = np.sort(np.concatenate([above, equal[: k - len(above)]]))
    else:
        positions = np.arange(len(values))
    positions = positions[values[positions] > 0]
    return positions[np.argsort(-values[positions], kind="stable")]
