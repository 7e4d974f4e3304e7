"""Rank fusion: several rankings of the same queries made one."""

from collections.abc import Sequence

import numpy as np

from landmark.error import UserError
from landmark.rerank.earlier import Ranking, ranking_of_folder
from landmark.rerank.retrieval import Retrieval
from landmark.rerank.setting import number

_RESULTS_AT_ONCE = 2**20
_METHODS = ("reciprocal_rank", "score_sum")


class RankFusion:
    """Fuse the ranking with those of earlier steps of the chain, or of ranking folders.

    `reciprocal_rank`: a photo's score is the sum over the rankings of 1 / (constant + its place),
    places from 1 (Cormack, Clarke, Büttcher 2009, "Reciprocal rank fusion outperforms Condorcet and
    individual rank learning methods"). `score_sum`: the sum of its scores, those of each ranking
    moved and scaled to 0 ... 1 for each query (CombSUM: Fox and Shaw 1994; the scaling: Lee 1997).
    A ranking that lacks the photo adds 0. Of equal photos the one that comes first in the first
    ranking that has it comes first. The ranking keeps its length.

    The rankings are, in this order: the steps, the folders, and what the chain gave last. Folders
    are matched by the ids of queries and gallery, in any order.

    Args:
        rankings: Folders that rerank.py wrote for the same queries.
        steps: Names of earlier steps of the chain, `search` or a re-ranker; none: all of them, or
            none where folders are given.
        method: `reciprocal_rank` or `score_sum`.
        constant: Of `reciprocal_rank`; 60 as in the paper.

    Raises:
        UserError: A setting is out of its range.
    """

    needs_earlier = True

    def __init__(
        self,
        rankings: Sequence[str] = (),
        steps: Sequence[str] | None = None,
        method: str = "reciprocal_rank",
        constant: float = 60.0,
    ) -> None:
        if method not in _METHODS:
            raise UserError(f"rerank.rank_fusion.method={method} must be {' or '.join(_METHODS)}")
        for key, value in (("rankings", rankings), ("steps", steps)):
            if isinstance(value, str):
                raise UserError(f"rerank.rank_fusion.{key}={value} must be a list: [{value}]")
        self.rankings = list(rankings)
        self.steps = None if steps is None else list(steps)
        self.method = method
        self.constant = number("rerank.rank_fusion.constant", constant, 0)

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Fuse; rows and scores are new.

        Raises:
            UserError: There is nothing to fuse, a step is not in the chain, or a folder is of
                other queries or of photos that the gallery lacks.
        """
        rankings = [self._step(retrieval, name) for name in self._names(retrieval)]
        rankings += [ranking_of_folder(folder, retrieval) for folder in self.rankings]
        if not rankings:
            raise UserError(
                "rerank.rank_fusion: has nothing to fuse; name folders with "
                "rerank.rank_fusion.rankings=[DIR,…], or put it after other re-rankers"
            )
        rankings.append(Ranking(retrieval.rows, retrieval.scores))
        kept = retrieval.rows.shape[1]
        rows = np.empty(retrieval.rows.shape, np.int32)
        scores = np.empty(retrieval.rows.shape, np.float32)
        at_once = max(1, _RESULTS_AT_ONCE // sum(ranking.rows.shape[1] for ranking in rankings))
        for first in range(0, len(rows), at_once):
            part = slice(first, first + at_once)
            rows[part], scores[part] = self._fused([r.of(part) for r in rankings], kept)
        return retrieval.with_ranking(rows, scores)

    def _names(self, retrieval: Retrieval) -> list[str]:
        """Steps to fuse besides the last one, whose ranking the retrieval holds."""
        earlier = list(retrieval.earlier)
        if self.steps is None:
            return [] if self.rankings else earlier[:-1]
        return [name for name in self.steps if [name] != earlier[-1:]]

    def _step(self, retrieval: Retrieval, name: str) -> Ranking:
        if name not in retrieval.earlier:
            raise UserError(
                f"rerank.rank_fusion.steps: {name} is no earlier step; choose of "
                f"{', '.join(retrieval.earlier) or 'a chain'}"
            )
        return Ranking(*retrieval.earlier[name])

    def _fused(self, rankings: list[Ranking], kept: int) -> tuple[np.ndarray, np.ndarray]:
        """Fuse the rankings of some queries: rows (B, kept) and scores (B, kept)."""
        queries = len(rankings[0].rows)
        rows = np.concatenate([ranking.rows for ranking in rankings], axis=1).astype(np.int64)
        points = np.concatenate([self._points(ranking) for ranking in rankings], axis=1)
        found = rows >= 0
        beyond = rows.max(initial=0) + 1
        keys = (rows + np.arange(queries)[:, None] * beyond)[found]
        photos, first, which = np.unique(keys, return_index=True, return_inverse=True)
        total = np.zeros(len(photos))
        np.add.at(total, which, points[found])  # in the order of the rankings
        query, row = np.divmod(photos, beyond)
        order = np.lexsort((first, -total, query))
        query, row, total = query[order], row[order], total[order]
        place = np.arange(len(query)) - np.searchsorted(query, query)
        good = place < kept
        fused = np.full((queries, kept), -1, np.int32)
        scores = np.full((queries, kept), -np.inf, np.float32)
        fused[query[good], place[good]] = row[good]
        scores[query[good], place[good]] = total[good]
        return fused, scores

    def _points(self, ranking: Ranking) -> np.ndarray:
        """What each place of a ranking adds, (B, K) float64."""
        if self.method == "reciprocal_rank":
            places = 1 / (self.constant + np.arange(1, ranking.rows.shape[1] + 1, dtype=np.float64))
            return np.broadcast_to(places, ranking.rows.shape)
        found = ranking.rows >= 0
        scores = ranking.scores.astype(np.float64)
        low = np.where(found, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
        high = np.where(found, scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
        with np.errstate(invalid="ignore", divide="ignore"):
            scaled = (scores - low) / (high - low)
        return np.where(high > low, scaled, 1)
