"""Average query expansion with decay: add the top results, weighted by rank, to the query."""

import numpy as np
from pydantic import PositiveInt

from landmark.rerank.expansion import expanded_search
from landmark.rerank.retrieval import Retrieval
from landmark.settings import checked


class AQEDecay:
    """Average query expansion with decay, AQEwD (Gordo et al. 2017, arXiv 1610.07940).

    Each query becomes the weighted sum of itself, rank 0, and its top n gallery descriptors, ranks
    1 to n, with the weights (n - rank) / n, normalised to unit length, and the gallery is searched
    again. The cosines are not used. (As formulated by Gordo, Radenović, Berg 2020, arXiv
    2007.08019.)

    Args:
        n: Rank at which the weight reaches 0.

    Example:
        >>> from landmark.search import Flat
        >>> angles = np.radians([0, 20, -25, 40])
        >>> photos = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        >>> retrieval = Retrieval.from_search(photos[:1], photos[1:], k=3, search=Flat())
        >>> retrieval.rows.tolist(), AQEDecay(n=10)(retrieval).rows.tolist()
        ([[0, 1, 2]], [[0, 2, 1]])
    """

    @checked
    def __init__(self, n: PositiveInt = 10) -> None:
        self.n = n

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Expand the queries and search again; replaces queries, rows and scores.

        Raises:
            UserError: The ranking is shorter than `n` although the gallery is not.
        """
        return expanded_search(retrieval, "aqe_decay", self.n, self._weights)

    def _weights(self, cosines: np.ndarray) -> np.ndarray:
        ranks = np.arange(1, cosines.shape[1] + 1, dtype=np.float32)
        return np.broadcast_to((self.n - ranks) / self.n, cosines.shape)
