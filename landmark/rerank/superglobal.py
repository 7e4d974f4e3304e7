"""SuperGlobal re-ranking: the first results refined by one another, then by their common query."""

import numpy as np
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from landmark.error import UserError
from landmark.rerank.expansion import descriptors_of
from landmark.rerank.parallel import across_ranks
from landmark.rerank.retrieval import Retrieval
from landmark.search.top_k import best_in_order
from landmark.settings import checked

_BLOCK_VALUES = 2**23  # of descriptors, or of cosines of one another: 32 MB


class SuperGlobal:
    """Global features only, re-ranking (Shao et al. 2023, ICCV, arXiv 2308.06954).

    Each of a query's m first results becomes the weighted mean of itself (weight 1) and of its k
    nearest among them (weights beta times the cosine). A second query is the maximum, dimension
    by dimension, of the k + 1 refined results nearest to the first. The m results are sorted by the
    mean of their products with both queries; as in the released code refined vectors are not
    brought to unit length. The other results follow as they were.

    Args:
        m: Results that are re-ranked.
        k: Neighbours of a result, without the result itself.
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
        self, m: PositiveInt = 400, k: NonNegativeInt = 9, beta: NonNegativeFloat = 0.15
    ) -> None:
        self.m = m
        self.k = k
        self.beta = beta

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Sort the first m results again; rows and scores are new.

        Raises:
            UserError: The ranking is shorter than `m`, though the gallery is not.
        """
        kept, photos = retrieval.rows.shape[1], len(retrieval.gallery)
        if kept < min(self.m, photos):
            raise UserError(
                f"rerank.superglobal.m={self.m} re-ranks more than the k={kept} results of a "
                f"query. Pass k={self.m} or more, or rerank.superglobal.m={kept}."
            )
        m = min(self.m, kept)

        def sorted_again(part: slice) -> tuple[np.ndarray, np.ndarray]:
            rows, former = retrieval.rows[part].astype(np.int32), retrieval.scores[part]
            new = self._scores(retrieval.query[part], retrieval.gallery, rows[:, :m])
            first = best_in_order([(rows[:, :m], new)], m)
            rows[:, :m], scores = first[0], former.astype(np.float32)
            scores[:, :m] = first[1]
            scores[:, m:] += _below(first[1], former[:, m : m + 1])
            return rows, scores

        block_size = _BLOCK_VALUES // (m * max(retrieval.gallery.shape[1], m))
        rows, scores = across_ranks(len(retrieval.query), sorted_again, block_size)
        return retrieval.with_ranking(rows, scores)

    def _scores(self, query: np.ndarray, gallery: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Scores (B, m) of the results (B, m) of some queries; -inf at -1."""
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
        """Weighted means of the results (B, m, D) and their k nearest by the cosines (B, m, m)."""
        batch = np.arange(len(results))[:, None]
        own = np.arange(results.shape[1])
        cosines[:, own, own] = np.inf  # itself first, whatever the rounding
        near = _largest(cosines, self.k + 1)
        weights = np.take_along_axis(cosines, near, 2)
        weights = np.where(np.isfinite(weights), weights, 0) * np.float32(self.beta)
        weights[near == own[:, None]] = 1
        refined = np.zeros_like(results)
        for place in range(near.shape[2]):
            refined += weights[:, :, place, None] * results[batch, near[:, :, place]]
        return refined / weights.sum(axis=2, keepdims=True)


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Places of the largest values along the last axis, (B, m, count), in any order."""
    if count >= values.shape[2]:
        return np.broadcast_to(np.arange(values.shape[2]), values.shape)
    return np.argpartition(-values, count - 1, axis=2)[:, :, :count]


def _below(scores: np.ndarray, next_score: np.ndarray) -> np.ndarray:
    """What to add to the later scores so that they are below the m scores, (B, 1)."""
    lowest = np.where(np.isfinite(scores), scores, np.inf).min(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        shift = lowest - next_score - 1
    return np.where(np.isfinite(shift), np.minimum(shift, 0), 0)
