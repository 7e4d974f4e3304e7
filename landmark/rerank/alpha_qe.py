"""Alpha query expansion: ask again with what was found."""

from landmark.mistake import UserMistake
from landmark.rerank.expansion import expand
from landmark.rerank.retrieval import Retrieval


class AlphaQE:
    """Alpha-weighted query expansion (Radenović, Tolias, Chum 2018, arXiv 1711.02512, section 3).

    Each query q becomes q + the sum over its n best gallery descriptors x of max(q . x, 0)^alpha x,
    of unit length, and the gallery is searched again. alpha = 0 is average query expansion.

    Args:
        n: Gallery photos added.
        alpha: Exponent of the weights; 3 as in the paper.

    Raises:
        UserMistake: A setting is out of its range.
    """

    def __init__(self, n: int = 10, alpha: float = 3.0) -> None:
        if n < 1:
            raise UserMistake(f"rerank.alpha_qe.n={n} must be 1 or more")
        if alpha < 0:
            raise UserMistake(f"rerank.alpha_qe.alpha={alpha} must be 0 or more")
        self.n = n
        self.alpha = alpha

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Expand the queries and search again; queries, rows and scores are new.

        Raises:
            UserMistake: The ranking is shorter than `n`, though the gallery is not.
        """
        kept = retrieval.rows.shape[1]
        if kept < min(self.n, len(retrieval.gallery)):
            raise UserMistake(
                f"rerank.alpha_qe.n={self.n} looks further than the k={kept} results kept: "
                f"choose k={self.n} or more"
            )
        nearest = retrieval.rows[:, : self.n]
        query = expand(retrieval.query, retrieval.gallery, nearest, self.alpha, include=True)
        return retrieval.searched(query=query)
