"""SuperGlobal re-ranking: refine the top results by each other, and the query by them."""

from typing import Annotated

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from landmark.error import UserError
from landmark.rerank.expansion import descriptors_of
from landmark.rerank.parallel import across_ranks
from landmark.rerank.ranking import shift_below
from landmark.rerank.retrieval import Retrieval
from landmark.search.top_k import best_in_order
from landmark.settings import checked

_BLOCK_VALUES = 2**23  # of descriptors, or of cosines between results: 32 MB


class SuperGlobal:
    """Re-ranking with global features only (Shao et al. 2023, ICCV, arXiv 2308.06954).

    Each of a query's top m results is refined to the weighted mean of itself (weight 1) and its k
    nearest neighbours among them (weight beta times the cosine). The refined query is the
    element-wise maximum of the k + 1 refined results nearest to the query. The m results are sorted
    by the mean of their inner products with both queries; as in the released code, refined
    descriptors are not normalised. The other results keep their order.

    Args:
        m: Number of results to re-rank.
        k: Neighbours per result, excluding the result itself.
        beta: Weight of the neighbours.

    Example:
        >>> from landmark.search import Flat
        >>> angles = np.radians([0, 20, -25, 40])
        >>> photos = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        >>> retrieval = Retrieval.from_search(photos[:1], photos[1:], k=3, search=Flat())
        >>> retrieval.rows.tolist(), SuperGlobal(m=3, k=1, beta=1)(retrieval).rows.tolist()
        ([[0, 1, 2]], [[0, 2, 1]])
    """

    @checked
    def __init__(
        self,
        m: PositiveInt = 400,
        k: NonNegativeInt = 9,
        beta: Annotated[float, Field(ge=0, le=1000)] = 0.15,
    ) -> None:
        self.m = m
        self.k = k
        self.beta = beta

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Re-rank the top m results; replaces rows and scores.

        Raises:
            UserError: The ranking is shorter than `m` although the gallery is not.
        """
        length, photos = retrieval.rows.shape[1], len(retrieval.gallery)
        if length < min(self.m, photos):
            raise UserError(
                f"rerank.superglobal.m={self.m} is more than the k={length} results per query. "
                f"Pass k={self.m} or more, or rerank.superglobal.m={length}."
            )
        m = min(self.m, length)

        def reranked(part: slice) -> tuple[np.ndarray, np.ndarray]:
            rows, previous = retrieval.rows[part].astype(np.int32), retrieval.scores[part]
            new = self._scores(retrieval.query[part], retrieval.gallery, rows[:, :m])
            top_rows, top_scores = best_in_order([(rows[:, :m], new)], m)
            rows[:, :m], scores = top_rows, previous.astype(np.float32)
            scores[:, :m] = top_scores
            scores[:, m:] = shift_below(top_scores, scores[:, m:], gap=1)
            return rows, scores

        block_size = _BLOCK_VALUES // (m * max(retrieval.gallery.shape[1], m))
        rows, scores = across_ranks(len(retrieval.query), reranked, block_size)
        return retrieval.with_ranking(rows, scores)

    def _scores(self, query: np.ndarray, gallery: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the new scores (B, m) of the results (B, m) of B queries; -inf at the pads."""
        is_ranked = rows >= 0
        results = descriptors_of(gallery, rows)  # (B, m, D)
        results[~is_ranked] = 0
        cosines = results @ results.transpose(0, 2, 1)  # (B, m, m)
        cosines[np.broadcast_to(~is_ranked[:, None], cosines.shape)] = -np.inf
        refined = self._refined(results, cosines)

        first = np.einsum("bd,bmd->bm", np.asarray(query, np.float32), refined)
        first[~is_ranked] = -np.inf
        nearest = np.argsort(-first, axis=1, kind="stable")[:, : self.k + 1]
        best = np.take_along_axis(refined, nearest[:, :, None], 1)  # (B, k + 1, D)
        best[~np.take_along_axis(is_ranked, nearest, 1)] = -np.inf
        second = best.max(axis=1)
        second[~is_ranked.any(axis=1)] = 0
        return (first + np.einsum("bd,bmd->bm", second, refined)) / 2

    def _refined(self, results: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        """Refine the results (B, m, D) with their k nearest by the cosines (B, m, m)."""
        batch = np.arange(len(results))[:, None]
        own = np.arange(results.shape[1])
        cosines[:, own, own] = np.inf  # the result itself first, regardless of rounding
        near = _largest(cosines, self.k + 1)
        weights = np.take_along_axis(cosines, near, 2)
        weights = np.where(np.isfinite(weights), weights, 0) * np.float32(self.beta)
        weights[near == own[:, None]] = 1
        refined = np.zeros_like(results)
        for rank in range(near.shape[2]):
            refined += weights[:, :, rank, None] * results[batch, near[:, :, rank]]
        return refined / weights.sum(axis=2, keepdims=True)


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the positions of the largest values on the last axis, (B, m, count), unordered."""
    if count >= values.shape[2]:
        return np.broadcast_to(np.arange(values.shape[2]), values.shape)
    return np.argpartition(-values, count - 1, axis=2)[:, :, :count]
