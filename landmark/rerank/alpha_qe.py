"""Alpha query expansion: add the top results to the query and search again."""

from typing import Annotated

from pydantic import Field, PositiveInt

from landmark.rerank.expansion import alpha_weights, expanded_search
from landmark.rerank.retrieval import Retrieval
from landmark.settings import checked


class AlphaQE:
    """Alpha-weighted query expansion (Radenović, Tolias, Chum 2018, arXiv 1711.02512, section 3).

    Each query q becomes q + the sum over its top n gallery descriptors x of max(q . x, 0)^alpha x,
    normalised to unit length, and the gallery is searched again. alpha = 0 is average query
    expansion.

    Args:
        n: Number of gallery photos to add.
        alpha: Exponent of the weights; 3 as in the paper.

    Example:
        >>> import numpy as np
        >>> from landmark.search import Flat
        >>> angles = np.radians([0, 20, -25, 40])
        >>> photos = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        >>> retrieval = Retrieval.from_search(photos[:1], photos[1:], k=3, search=Flat())
        >>> retrieval.rows.tolist(), AlphaQE(n=1)(retrieval).rows.tolist()
        ([[0, 1, 2]], [[0, 2, 1]])
    """

    @checked
    def __init__(
        self, n: PositiveInt = 10, alpha: Annotated[float, Field(ge=0, le=1000)] = 3.0
    ) -> None:
        self.n = n
        self.alpha = alpha

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Expand the queries and search again; replaces queries, rows and scores.

        Raises:
            UserError: The ranking is shorter than `n` although the gallery is not.
        """
        return expanded_search(retrieval, "alpha_qe", self.n, alpha_weights(self.alpha))
