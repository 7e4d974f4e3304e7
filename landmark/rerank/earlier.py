"""Rankings made before: by an earlier step of the chain, or read from a folder."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from landmark.artifact.rankings import Rankings
from landmark.error import UserError
from landmark.rerank.retrieval import Retrieval


class Ranking(NamedTuple):
    """Rows (Q, K) best first, -1 pads, and their scores (Q, K)."""

    rows: np.ndarray
    scores: np.ndarray

    def of(self, queries: slice) -> "Ranking":
        """The ranking of some of the queries."""
        return Ranking(self.rows[queries], self.scores[queries])


def ranking_of_folder(folder: str, retrieval: Retrieval) -> Ranking:
    """A ranking that rerank.py wrote, its queries and rows in the order of a retrieval.

    Raises:
        UserError: The folder holds no rankings, lacks one of the queries, or ranks a photo that
            the gallery lacks; or the retrieval does not know its ids.
    """
    if retrieval.query_ids is None or retrieval.gallery_ids is None:
        raise UserError(f"{folder}: these queries and photos have no ids to match it by")
    stored = Rankings.open(folder)
    at = pd.Index(stored.query_ids).get_indexer(pd.Index(retrieval.query_ids))
    if (at < 0).any():
        lacking = retrieval.query_ids[at.argmin()]
        raise UserError(
            f"{folder}: has no ranking of the query {str(lacking)!r}: fuse rankings alike"
        )
    rows = stored.rows[at]
    here = pd.Index(retrieval.gallery_ids).get_indexer(pd.Index(stored.gallery_ids))
    found = rows >= 0
    placed = np.where(found, here[np.maximum(rows, 0)], -1)
    if (placed[found] < 0).any():
        lacking = stored.gallery_ids[rows[found & (placed < 0)][0]]
        raise UserError(
            f"{folder}: ranks {str(lacking)!r}, which the gallery lacks: fuse rankings alike"
        )
    return Ranking(placed.astype(np.int32), stored.scores[at])
