"""Rank fusion: merge several rankings of the same queries into one."""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field

from landmark.artifact.rankings import Rankings
from landmark.error import UserError
from landmark.rerank.parallel import across_ranks
from landmark.rerank.retrieval import Retrieval
from landmark.search.top_k import pads, without_rows
from landmark.settings import checked

_BLOCK_RESULTS = 2**20


class Ranking(NamedTuple):
    """A ranking of Q queries.

    Attributes:
        rows: Gallery rows, best first, (Q, K); -1 pads.
        scores: Scores of the rows, (Q, K).

    Example:
        >>> ranking = Ranking(np.array([[1, 0], [0, 1]]), np.array([[0.9, 0.8], [0.7, 0.6]]))
        >>> ranking.of(slice(1, 2)).rows.tolist()
        [[0, 1]]
    """

    rows: np.ndarray
    scores: np.ndarray

    def of(self, queries: slice) -> "Ranking":
        """Return the ranking of a slice of the queries."""
        return Ranking(self.rows[queries], self.scores[queries])


class RankFusion:
    """Fuse the ranking with those of earlier steps of the chain, or of ranking folders.

    `reciprocal_rank`: a photo's score is the sum over the rankings of 1 / (constant + rank), with
    ranks from 1 (Cormack, Clarke, Büttcher 2009, "Reciprocal rank fusion outperforms Condorcet and
    individual rank learning methods"). `score_sum`: a photo's score is the sum of its scores, after
    min-max scaling to 0 … 1 per query and ranking (CombSUM: Fox and Shaw 1994; the scaling: Lee
    1997). A ranking without the photo adds 0. Ties are ordered by the first ranking that contains
    each photo, then by rank in it. The ranking keeps its length.

    The order of the rankings is: steps, folders, current ranking of the chain. Folders are matched
    by the ids of queries and gallery photos, in any order.

    Args:
        rankings: Folders that rerank.py wrote for the same queries.
        steps: Names of earlier steps of the chain, `search` or a re-ranker. Defaults to all of
            them, or to none if `rankings` is set.
        method: `reciprocal_rank` or `score_sum`.
        constant: Constant of `reciprocal_rank`; 60 as in the paper.

    Example:
        >>> photos = np.eye(3, dtype=np.float32)
        >>> earlier = {"a": (np.array([[2, 0, 1]]), np.array([[0.9, 0.8, 0.1]]))}
        >>> rows, scores = np.array([[1, 0, 2]]), np.array([[0.9, 0.8, 0.7]])
        >>> earlier["b"] = rows, scores
        >>> retrieval = Retrieval(photos[:1], photos, rows, scores, earlier=earlier)
        >>> RankFusion(method="score_sum")(retrieval).rows.tolist()
        [[0, 2, 1]]
    """

    needs_earlier = True

    @checked
    def __init__(
        self,
        rankings: Sequence[str] = (),
        steps: Sequence[str] | None = None,
        method: Literal["reciprocal_rank", "score_sum"] = "reciprocal_rank",
        constant: Annotated[float, Field(ge=0, le=1e6)] = 60.0,
    ) -> None:
        self.rankings = list(rankings)
        self.steps = None if steps is None else list(steps)
        self.method = method
        self.constant = constant

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Fuse the rankings; replaces rows and scores.

        Raises:
            UserError: There is nothing to fuse, a step is not in the chain, or a folder ranks
                other queries or photos that are not in the gallery.
        """
        rankings = [self._step(retrieval, name) for name in self._names(retrieval)]
        rankings += [
            _without_own(ranking_of_folder(folder, retrieval), retrieval.own_rows)
            for folder in self.rankings
        ]
        if not rankings:
            raise UserError(
                "rerank.rank_fusion has nothing to fuse. Pass rerank.rank_fusion.rankings=[DIR,…], "
                "or put it after other re-rankers."
            )
        rankings.append(Ranking(retrieval.rows, retrieval.scores))
        length = retrieval.rows.shape[1]
        block_size = _BLOCK_RESULTS // sum(ranking.rows.shape[1] for ranking in rankings)
        rows, scores = across_ranks(
            len(retrieval.rows),
            lambda part: self._fused([ranking.of(part) for ranking in rankings], length),
            block_size,
        )
        return retrieval.with_ranking(rows, scores)

    def _names(self, retrieval: Retrieval) -> list[str]:
        """Return the steps to fuse, without the last one: its ranking is the retrieval's own."""
        earlier = list(retrieval.earlier)
        if self.steps is None:
            return [] if self.rankings else earlier[:-1]
        return [name for name in self.steps if [name] != earlier[-1:]]

    def _step(self, retrieval: Retrieval, name: str) -> Ranking:
        if name not in retrieval.earlier:
            raise UserError(
                f"rerank.rank_fusion.steps: {name} is not an earlier step. Pass some of "
                f"{', '.join(retrieval.earlier) or 'the steps of a chain'}."
            )
        return Ranking(*retrieval.earlier[name])

    def _fused(self, rankings: list[Ranking], length: int) -> tuple[np.ndarray, np.ndarray]:
        """Fuse the rankings of B queries to rows (B, length) and scores (B, length)."""
        queries = len(rankings[0].rows)
        rows = np.concatenate([ranking.rows for ranking in rankings], axis=1).astype(np.int64)
        points = np.concatenate([self._points(ranking) for ranking in rankings], axis=1)
        is_ranked = rows >= 0
        stride = rows.max(initial=0) + 1
        keys = (rows + np.arange(queries)[:, None] * stride)[is_ranked]
        photos, first, which = np.unique(keys, return_index=True, return_inverse=True)
        total = np.zeros(len(photos))
        np.add.at(total, which, points[is_ranked])  # in the order of the rankings
        query, row = np.divmod(photos, stride)
        order = np.lexsort((first, -total, query))
        query, row, total = query[order], row[order], total[order]
        rank = np.arange(len(query)) - np.searchsorted(query, query)
        good = rank < length
        fused, scores = pads(queries, length)
        fused[query[good], rank[good]] = row[good]
        scores[query[good], rank[good]] = total[good]
        return fused, scores

    def _points(self, ranking: Ranking) -> np.ndarray:
        """Return what each result adds to its photo's score, (B, K) float64."""
        if self.method == "reciprocal_rank":
            ranks = np.arange(1, ranking.rows.shape[1] + 1, dtype=np.float64)
            return np.broadcast_to(1 / (self.constant + ranks), ranking.rows.shape)
        is_ranked = ranking.rows >= 0
        scores = ranking.scores.astype(np.float64)
        low = np.where(is_ranked, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
        high = np.where(is_ranked, scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
        with np.errstate(invalid="ignore", divide="ignore"):
            scaled = (scores - low) / (high - low)
        return np.where(high > low, scaled, 1)


def _without_own(ranking: Ranking, own_rows: np.ndarray | None) -> Ranking:
    """Drop each query's own photo, which a folder may rank, from a ranking (Q, K)."""
    if own_rows is None or not (ranking.rows == own_rows[:, None])[own_rows >= 0].any():
        return ranking
    rows, scores = (np.pad(values, ((0, 0), (0, 1)), constant_values=-1) for values in ranking)
    return Ranking(*without_rows(rows, scores.astype(np.float32), own_rows))


def ranking_of_folder(folder: str, retrieval: Retrieval) -> Ranking:
    """Read a ranking that rerank.py wrote, in the order of a retrieval's queries and gallery.

    Raises:
        UserError: The folder contains no rankings, a query is missing, a ranked photo is not in the
            gallery, or the retrieval has no ids.

    Example:
        >>> import tempfile, pathlib
        >>> rows, scores, folder = np.array([[1, 0]]), np.array([[0.9, 0.2]]), tempfile.mkdtemp()
        >>> queries, photos = np.array(["q"]), np.array(["a", "b"])
        >>> Rankings(rows, scores, queries, photos).write_into(pathlib.Path(folder))
        >>> ids = {"query_ids": queries, "gallery_ids": photos[::-1]}
        >>> retrieval = Retrieval(np.eye(2)[:1], np.eye(2), rows, scores, **ids)
        >>> ranking_of_folder(folder, retrieval).rows.tolist()
        [[0, 1]]
    """
    if retrieval.query_ids is None or retrieval.gallery_ids is None:
        raise UserError(
            f"{folder} is matched by ids, but the retrieval has none. Pass query_ids and "
            "gallery_ids."
        )
    stored = Rankings.open(folder)
    at = pd.Index(stored.query_ids).get_indexer(pd.Index(retrieval.query_ids))
    if (at < 0).any():
        missing = str(retrieval.query_ids[at.argmin()])
        raise UserError(
            f"{folder}: no ranking for query {missing!r}. Fuse rankings of the same queries."
        )
    rows = stored.rows[at]
    gallery_row = pd.Index(retrieval.gallery_ids).get_indexer(pd.Index(stored.gallery_ids))
    is_ranked = rows >= 0
    gallery_rows = np.where(is_ranked, gallery_row[np.maximum(rows, 0)], -1)
    if (gallery_rows[is_ranked] < 0).any():
        missing = str(stored.gallery_ids[rows[is_ranked & (gallery_rows < 0)][0]])
        raise UserError(
            f"{folder} ranks {missing!r}, which is not in the gallery. Fuse rankings of the same "
            "gallery."
        )
    return Ranking(gallery_rows.astype(np.int32), stored.scores[at])
