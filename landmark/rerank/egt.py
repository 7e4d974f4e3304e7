"""Explore-exploit graph traversal: from photo to photo along the strongest edges."""

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

    A query's k nearest gallery photos are its candidates, by their cosines. Exploit: all candidates
    above the threshold are ranked, the best first; where there is none, the best alone. Explore:
    the k nearest of the photos just ranked become candidates; one that is a candidate already keeps
    the higher cosine. In turn until the ranking is full. Cosines below 0 count as 0, and of equal
    candidates the one seen first is ranked first, as in the code released with arXiv 2003.11211.
    Where the candidates run out, photos follow in the order they had.

    The queries are searched again: the former ranking sets the length and that order, nothing else.
    The neighbours of gallery photos are looked up when the traversal reaches them. Under a launcher
    each rank traverses from its share of the queries, and all ranks look neighbours up together, in
    the index that they share. A photo's score is the lowest cosine ranked up to it.

    Args:
        threshold: Cosine above which candidates are ranked together; 0.42 as released for ROxford.
        k: Edges of a photo, for a gallery photo itself among them; 250 as released for ROxford.

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
        """Traverse from every query; rows and scores are new."""
        queries, kept = retrieval.rows.shape
        photos = len(retrieval.gallery)
        k = min(self.k, photos)
        near, cosines = retrieval.index.search(retrieval.query, k)
        neighbours = GalleryNeighbours(retrieval.index, k, expected=queries * kept)

        def traversed(part: slice) -> tuple[np.ndarray, np.ndarray]:
            rows, scores = traverse(
                near[part], cosines[part], neighbours.of, photos, kept, self.threshold
            )
            neighbours.finish()
            return filled_up(rows, scores, retrieval.rows[part], retrieval.scores[part])

        rows, scores = across_ranks(queries, traversed)
        return retrieval.with_ranking(rows, scores)
