"""Explore-exploit graph traversal: follow the strongest edges from photo to photo."""

from typing import Annotated

import numpy as np
from pydantic import Field, PositiveInt

from landmark.rerank.neighbours import GalleryNeighbours
from landmark.rerank.parallel import across_ranks
from landmark.rerank.ranking import filled_up
from landmark.rerank.retrieval import Retrieval
from landmark.rerank.traversal import traverse
from landmark.settings import checked


class EGT:
    """Explore-exploit graph traversal (Chang et al. 2019, CVPR).

    A query's k nearest gallery photos are its first candidates, weighted by their cosines. Exploit:
    rank all candidates above the threshold, highest cosine first, else only the best candidate.
    Explore: the k nearest neighbours of the photos just ranked become candidates; a photo that is
    already a candidate keeps the higher cosine. The two alternate until the ranking is full.
    Negative cosines count as 0, and ties are ranked in the order of discovery, as in the code
    released with arXiv 2003.11211. If the candidates run out, the remaining photos follow in their
    previous order.

    The queries are searched again; the previous ranking only sets the length and that order. The
    neighbours of a gallery photo are searched when the traversal reaches it. Under a launcher each
    rank traverses from its shard of the queries, and all ranks search neighbours together in the
    sharded index. A photo's score is the lowest cosine ranked up to and including it.

    Args:
        threshold: Cosine above which candidates are ranked together; 0.42 as released for ROxford.
        k: Neighbours per photo, a gallery photo itself included; 250 as released for ROxford.

    Example:
        >>> from landmark.search import Flat
        >>> angles = np.radians([0, 22, 42, 60, -35, -40, -45])  # a chain, and photos beside it
        >>> photos = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        >>> retrieval = Retrieval.from_search(photos[:1], photos[1:], k=6, search=Flat())
        >>> retrieval.rows.tolist(), EGT(threshold=0.9, k=2)(retrieval).rows.tolist()
        ([[0, 3, 4, 1, 5, 2]], [[0, 1, 2, 3, 4, 5]])
    """

    @checked
    def __init__(
        self, threshold: Annotated[float, Field(ge=-1)] = 0.42, k: PositiveInt = 250
    ) -> None:
        self.threshold = threshold
        self.k = k

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Traverse from every query; replaces rows and scores."""
        queries, length = retrieval.rows.shape
        photos = len(retrieval.gallery)
        k = min(self.k, photos)
        near, cosines = retrieval.index.search_others(retrieval.query, k, retrieval.own_rows)
        neighbours = GalleryNeighbours(retrieval.index, k, expected=queries * length)

        def traversed(part: slice) -> tuple[np.ndarray, np.ndarray]:
            own_rows = None if retrieval.own_rows is None else retrieval.own_rows[part]
            rows, scores = traverse(
                near[part], cosines[part], neighbours.of, photos, length, self.threshold, own_rows
            )
            neighbours.finish()
            return filled_up(rows, scores, retrieval.rows[part], retrieval.scores[part])

        rows, scores = across_ranks(queries, traversed)
        return retrieval.with_ranking(rows, scores)
