"""Explore-exploit graph traversal: from photo to photo along the strongest edges."""

from landmark.rerank.filling import filled
from landmark.rerank.neighbours import GalleryNeighbours
from landmark.rerank.retrieval import Retrieval
from landmark.rerank.setting import number, whole_number
from landmark.rerank.traversal import traverse


class EGT:
    """Explore-exploit graph traversal (Chang et al. 2019, CVPR).

    A query's k nearest gallery photos are its candidates, by their cosines. Exploit: all candidates
    above the threshold are ranked, the best first; where there is none, the best alone. Explore:
    the k nearest of the photos just ranked become candidates; one that is a candidate already keeps
    the higher cosine. In turn until the ranking is full. Cosines below 0 count as 0, and of equal
    candidates the one seen first is ranked first, as in the code released with arXiv 2003.11211.
    Where the candidates run out, photos follow in the order they had.

    The queries look again: the former ranking sets the length and that order, nothing else. The
    neighbours of gallery photos are looked up as the traversal comes to them. A photo's score is
    the lowest cosine ranked up to it.

    Args:
        threshold: Cosine above which candidates are ranked together; 0.42 as released for ROxford.
        k: Edges of a photo, for a gallery photo itself among them; 250 as released for ROxford.

    Raises:
        UserError: A setting is out of its range.
    """

    def __init__(self, threshold: float = 0.42, k: int = 250) -> None:
        self.threshold = number("rerank.egt.threshold", threshold, -1)
        self.k = whole_number("rerank.egt.k", k, 1)

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Traverse from every query; rows and scores are new."""
        asked, kept = retrieval.rows.shape
        k = min(self.k, len(retrieval.gallery))
        near, cosines = retrieval.search(retrieval.query, retrieval.gallery, k)
        neighbours = GalleryNeighbours(retrieval, k, expected=asked * kept)
        photos = len(retrieval.gallery)
        rows, scores = traverse(near, cosines, neighbours.of, photos, kept, self.threshold)
        return retrieval.with_ranking(*filled(rows, scores, retrieval.rows, retrieval.scores))
