"""Online diffusion: each query solved on the graph of the whole gallery."""

import numpy as np
from scipy import sparse

from landmark.rerank.filling import filled
from landmark.rerank.graph import transition_graph
from landmark.rerank.neighbours import all_neighbours
from landmark.rerank.parallel import in_parallel
from landmark.rerank.retrieval import Retrieval
from landmark.rerank.setting import number, whole_number

_VALUES_AT_ONCE = 2**23  # of one vector of all systems solved together: 64 MB
_MOST_QUERIES_AT_ONCE = 256


class OnlineDiffusion:
    """Diffusion with a global descriptor (Iscen et al. 2017, arXiv 1611.05113).

    The gallery is a graph of mutual neighbours with the weights max(cosine, 0)^gamma, S its
    affinity normalised by the degrees. A query starts from its kq nearest with such weights, y, and
    (I - alpha S) f = y is solved by conjugate gradients; f ranks the gallery. Photos out of reach
    follow in the order they had.

    The queries look again: the former ranking sets the length and that order, nothing else. No
    truncation: a step costs the edges of the whole graph for each query, so for many queries
    `diffusion` is the method.

    Args:
        kd: Neighbours in the graph, the photo itself among them.
        kq: Gallery photos that a query starts from.
        gamma: Exponent of the cosines.
        alpha: Probability to walk on.
        iterations: Steps of conjugate gradients at most.
        rtol: Residual, relative to y, at which they end.

    Raises:
        UserError: A setting is out of its range.
    """

    def __init__(
        self,
        kd: int = 50,
        kq: int = 10,
        gamma: float = 3.0,
        alpha: float = 0.99,
        iterations: int = 20,
        rtol: float = 1e-6,
    ) -> None:
        self.kd = whole_number("rerank.online_diffusion.kd", kd, 2)
        self.kq = whole_number("rerank.online_diffusion.kq", kq, 1)
        self.gamma = number("rerank.online_diffusion.gamma", gamma, 0)
        self.alpha = number("rerank.online_diffusion.alpha", alpha, 0, below=1)
        self.iterations = whole_number("rerank.online_diffusion.iterations", iterations, 1)
        self.rtol = number("rerank.online_diffusion.rtol", rtol, 0)

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Diffuse from every query; rows and scores are new."""
        gallery, photos = retrieval.gallery, len(retrieval.gallery)
        near, cosines = all_neighbours([gallery], retrieval.search, min(self.kd, photos))
        graph = transition_graph(near, cosines, self.gamma, self.alpha).csr().astype(np.float64)
        start, cosines = retrieval.search(retrieval.query, gallery, min(self.kq, photos))
        weights = np.where(start >= 0, np.maximum(cosines, 0).astype(np.float64) ** self.gamma, 0)

        asked, kept = retrieval.rows.shape
        rows = np.full((asked, kept), -1, np.int32)
        scores = np.full((asked, kept), -np.inf, np.float32)

        def diffuse(first: int) -> None:
            part = slice(first, first + at_once)
            solution = self._solution(graph, start[part], weights[part])
            for query, values in enumerate(solution.T.astype(np.float32), start=first):
                best = _largest(values, kept)
                rows[query, : len(best)], scores[query, : len(best)] = best, values[best]

        at_once = max(1, min(_MOST_QUERIES_AT_ONCE, _VALUES_AT_ONCE // photos))
        for _ in in_parallel(diffuse, range(0, asked, at_once)):
            pass
        return retrieval.with_ranking(*filled(rows, scores, retrieval.rows, retrieval.scores))

    def _solution(
        self, graph: sparse.csr_matrix, start: np.ndarray, weights: np.ndarray
    ) -> np.ndarray:
        """Solve (I - graph) f = y for some queries, (N, B).

        Args:
            graph: alpha S, (N, N).
            start: Photos that a query starts from, (B, kq); -1 is none.
            weights: Of those, (B, kq); 0 at -1.
        """
        solution = np.zeros((graph.shape[0], len(start)))
        residual = np.zeros_like(solution)
        np.add.at(residual, (np.maximum(start, 0), np.arange(len(start))[:, None]), weights)
        direction = residual.copy()
        square = np.einsum("nb,nb->b", residual, residual)
        enough = self.rtol**2 * square
        for _ in range(self.iterations):
            going = square > enough
            if not going.any():
                break
            product = direction - graph @ direction
            curvature = np.einsum("nb,nb->b", direction, product)
            step = np.where(going, square / np.where(going, curvature, 1), 0)
            solution += step * direction
            residual -= step * product
            before, square = square, np.einsum("nb,nb->b", residual, residual)
            direction *= np.where(going, square / np.where(going, before, 1), 0)
            direction += residual
        return solution


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Places of the k largest positive values, falling, of equal ones the lower place."""
    if k < len(values):
        least = -np.partition(-values, k - 1)[k - 1]
        above, equal = np.flatnonzero(values > least), np.flatnonzero(values == least)
        places = np.sort(np.concatenate([above, equal[: k - len(above)]]))
    else:
        places = np.arange(len(values))
    places = places[values[places] > 0]
    return places[np.argsort(-values[places], kind="stable")]
