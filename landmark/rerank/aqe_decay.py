"""Average query expansion with decay: ask again with what was found, the nearer the more."""

import numpy as np

from landmark.rerank.expansion import expanded_search
from landmark.rerank.retrieval import Retrieval
from landmark.rerank.setting import whole_number


class AQEDecay:
    """Average query expansion with decay, AQEwD (Gordo et al. 2017, arXiv 1610.07940).

    Each query q becomes the sum over itself, place 0, and its n best gallery descriptors, places 1
    to n, with the weights (n - place) / n, of unit length, and the gallery is searched again. The
    cosines do not count. (As written down by Gordo, Radenović, Berg 2020, arXiv 2007.08019.)

    Args:
        n: Places of the decay: the last one's weight is 0.

    Raises:
        UserError: A setting is out of its range.
    """

    def __init__(self, n: int = 10) -> None:
        self.n = whole_number("rerank.aqe_decay.n", n, 1)

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Expand the queries and search again; queries, rows and scores are new.

        Raises:
            UserError: The ranking is shorter than `n`, though the gallery is not.
        """
        return expanded_search(retrieval, "aqe_decay", self.n, self._weights)

    def _weights(self, cosines: np.ndarray) -> np.ndarray:
        places = np.arange(1, cosines.shape[1] + 1, dtype=np.float32)
        return np.broadcast_to((self.n - places) / self.n, cosines.shape)
