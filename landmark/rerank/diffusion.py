"""Offline diffusion: photos compared by what they reach in the graph of mutual neighbours."""

from collections.abc import Iterator

import numpy as np
from scipy import sparse

from landmark.rerank.best import Best, Triplets
from landmark.rerank.filling import filled
from landmark.rerank.graph import Graph, transition_graph
from landmark.rerank.neighbours import all_neighbours
from landmark.rerank.parallel import in_parallel
from landmark.rerank.retrieval import Retrieval
from landmark.rerank.setting import number, whole_number
from landmark.rerank.truncated import truncated_diffusion

_PHOTOS_AT_ONCE = 128


class Diffusion:
    """Efficient diffusion, decoupled from the query (Yang et al. 2019, arXiv 1811.10907).

    Queries and gallery are one graph of mutual neighbours with the weights max(cosine, 0)^gamma.
    From each photo, alone with its n_trunc nearest, a random walk with restart is solved. The
    new descriptor of a photo is its solution, of unit length; the gallery is ranked by its product
    with the query's, as in the released code. Photos that share nothing with a query follow in the
    order they had.

    The queries look again: the former ranking sets the length and that order, nothing else.
    Memory grows with the photos; the gallery's solutions are used up as they come.

    Args:
        n_trunc: Photos of a truncated gallery, itself among them.
        kd: Neighbours in the graph, itself among them.
        gamma: Exponent of the cosines.
        alpha: Probability to walk on.
        iterations: Steps of conjugate gradients at most.
        rtol: Residual at which they end.

    Raises:
        UserError: A setting is out of its range.
    """

    def __init__(
        self,
        n_trunc: int = 1000,
        kd: int = 50,
        gamma: float = 3.0,
        alpha: float = 0.99,
        iterations: int = 20,
        rtol: float = 1e-6,
    ) -> None:
        self.n_trunc = whole_number("rerank.diffusion.n_trunc", n_trunc, 1)
        self.kd = whole_number("rerank.diffusion.kd", kd, 2)
        self.gamma = number("rerank.diffusion.gamma", gamma, 0)
        self.alpha = number("rerank.diffusion.alpha", alpha, 0, below=1)
        self.iterations = whole_number("rerank.diffusion.iterations", iterations, 1)
        self.rtol = number("rerank.diffusion.rtol", rtol, 0)

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Diffuse from every photo and compare; rows and scores are new."""
        graph, neighbours = self.graph(*self._neighbours(retrieval))
        asked, kept = retrieval.rows.shape
        reaching = sparse.vstack(  # (Q + N, Q): which queries reach a photo
            [normalised(part) for part in self.solutions(graph, neighbours[:asked])]
        ).T.tocsr()
        best = Best(asked, kept)

        def compared(first: int) -> Triplets:
            solution = self._solution(graph, neighbours[first : first + _PHOTOS_AT_ONCE])
            pairs = (normalised(solution) @ reaching).tocoo()
            return best.better(pairs.col, pairs.row + (first - asked), pairs.data)

        for better in in_parallel(compared, range(asked, len(neighbours), _PHOTOS_AT_ONCE)):
            best.add(better)
        rows, scores = best.result()
        return retrieval.with_ranking(*filled(rows, scores, retrieval.rows, retrieval.scores))

    def offline(self, retrieval: Retrieval) -> sparse.csr_matrix:
        """The solutions of all photos, queries then gallery, (Q + N, Q + N) float32.

        n_trunc values a photo: for a look at the method, the ranking never holds them all.
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
            graph: Of all N photos.
            neighbours: Neighbourhoods of those photos, (P, n_trunc), the photo first.
        """
        parts = (
            neighbours[first : first + _PHOTOS_AT_ONCE]
            for first in range(0, len(neighbours), _PHOTOS_AT_ONCE)
        )
        return in_parallel(lambda part: self._solution(graph, part), parts)

    def _neighbours(self, retrieval: Retrieval) -> tuple[np.ndarray, np.ndarray]:
        sets = (retrieval.query, retrieval.gallery)
        wide = min(max(self.n_trunc, self.kd), sum(map(len, sets)))
        return all_neighbours(sets, retrieval.search, wide, scored=self.kd)

    def _solution(self, graph: Graph, neighbours: np.ndarray) -> sparse.csr_matrix:
        """The solutions of some photos with their neighbours (B, n), (B, Q + N) float32."""
        values = truncated_diffusion(graph, neighbours, self.iterations, self.rtol)
        reached = values != 0
        starts = np.concatenate([[0], np.cumsum(reached.sum(axis=1))])
        shape = (len(neighbours), len(graph.columns))
        return sparse.csr_matrix((values[reached], neighbours[reached], starts), shape=shape)


def normalised(rows: sparse.csr_matrix) -> sparse.csr_matrix:
    """Rows of unit length; every row has an entry."""
    lengths = np.sqrt(np.add.reduceat(np.square(rows.data, dtype=np.float64), rows.indptr[:-1]))
    values = (rows.data / np.repeat(lengths, np.diff(rows.indptr))).astype(np.float32)
    return sparse.csr_matrix((values, rows.indices, rows.indptr), shape=rows.shape)
