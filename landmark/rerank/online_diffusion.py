"""Online diffusion: each query solved on the graph of the complete gallery."""

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

_BLOCK_VALUES = 2**23  # of one vector of all systems solved together: 64 MB
_MOST_QUERIES = 256  # solved together


class OnlineDiffusion:
    """Diffusion with a global descriptor (Iscen et al. 2017, arXiv 1611.05113).

    The gallery is a graph of mutual neighbours with the weights max(cosine, 0)^gamma, S its
    affinity normalised by the degrees. A query starts from its kq nearest with such weights, y, and
    (I - alpha S) f = y is solved by conjugate gradients; f ranks the gallery. Photos out of reach
    follow in the order they had.

    The queries are searched again: the former ranking sets the length and that order, nothing else.
    Nothing is truncated: a step costs the edges of the complete graph for each query, so for many
    queries `diffusion` is the method.

    Args:
        kd: Neighbours in the graph, the photo itself among them.
        kq: Gallery photos that a query starts from.
        gamma: Exponent of the cosines.
        alpha: Probability to walk on.
        iterations: Most steps of conjugate gradients.
        rtol: Residual, relative to y, at which they end.

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
        gamma: NonNegativeFloat = 3.0,
        alpha: Annotated[float, Field(ge=0, lt=1)] = 0.99,
        iterations: PositiveInt = 20,
        rtol: NonNegativeFloat = 1e-6,
    ) -> None:
        self.kd = kd
        self.kq = kq
        self.gamma = gamma
        self.alpha = alpha
        self.iterations = iterations
        self.rtol = rtol

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Diffuse from every query; rows and scores are new."""
        photos = len(retrieval.gallery)
        near, cosines = all_neighbours([retrieval.index], min(self.kd, photos))
        graph = transition_graph(near, cosines, self.gamma, self.alpha).csr().astype(np.float64)
        start, cosines = retrieval.index.search(retrieval.query, min(self.kq, photos))
        weights = np.where(start >= 0, np.maximum(cosines, 0).astype(np.float64) ** self.gamma, 0)

        def diffused(part: slice) -> tuple[np.ndarray, np.ndarray]:
            former_rows, former_scores = retrieval.rows[part], retrieval.scores[part]
            rows, scores = pads(*former_rows.shape)
            solution = self._solution(graph, start[part], weights[part])
            for query, values in enumerate(solution.T.astype(np.float32)):
                best = _largest(values, rows.shape[1])
                rows[query, : len(best)], scores[query, : len(best)] = best, values[best]
            return filled_up(rows, scores, former_rows, former_scores)

        block_size = min(_MOST_QUERIES, _BLOCK_VALUES // photos)
        rows, scores = across_ranks(len(start), diffused, block_size, in_threads=True)
        return retrieval.with_ranking(rows, scores)

    def _solution(
        self, graph: sparse.csr_matrix, start: np.ndarray, weights: np.ndarray
    ) -> np.ndarray:
        """Solve (I - alpha S) f = y, (N, B), for queries that start from photos (B, kq)."""
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
    """Places of the k largest positive values, descending, ties by place."""
    if k < len(values):
        least = -np.partition(-values, k - 1)[k - 1]
        above, equal = np.flatnonzero(values > least), np.flatnonzero(values == least)
        places = np.sort(np.concatenate([above, equal[: k - len(above)]]))
    else:
        places = np.arange(len(values))
    places = places[values[places] > 0]
    return places[np.argsort(-values[places], kind="stable")]
