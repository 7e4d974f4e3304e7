"""Alpha query expansion: ask again with what was found."""

from landmark.rerank.expansion import alpha_weights, expanded_search
from landmark.rerank.retrieval import Retrieval
from landmark.rerank.setting import number, whole_number


class AlphaQE:
    """Alpha-weighted query expansion (Radenović, Tolias, Chum 2018, arXiv 1711.02512, section 3).

    Each query q becomes q + the sum over its n best gallery descriptors x of max(q . x, 0)^alpha x,
    of unit length, and the gallery is searched again. alpha = 0 is average query expansion.

    Args:
        n: Gallery photos added.
        alpha: Exponent of the weights; 3 as in the paper.

    Raises:
        UserError: A setting is out of its range.
    """

    def __init__(self, n: int = 10, alpha: float = 3.0) -> None:
        self.n = whole_number("rerank.alpha_qe.n", n, 1)
        self.alpha = number("rerank.alpha_qe.alpha", alpha, 0)

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Expand the queries and search again; queries, rows and scores are new.

        Raises:
            UserError: The ranking is shorter than `n`, though the gallery is not.
        """
        return expanded_search(retrieval, "alpha_qe", self.n, alpha_weights(self.alpha))
