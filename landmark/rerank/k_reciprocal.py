"""Re-ranking by k-reciprocal encoding: photos compared by the neighbours they share."""

import numpy as np

from landmark.rerank.all_pairs import nearest_and_lowest
from landmark.rerank.best import Best, Triplets
from landmark.rerank.filling import listed_in
from landmark.rerank.neighbours import pair_cosines
from landmark.rerank.parallel import in_parallel
from landmark.rerank.reciprocal import Encoding, overlaps
from landmark.rerank.retrieval import Retrieval
from landmark.rerank.setting import number, whole_number

_PHOTOS_AT_ONCE = 256
_LEAST_DISTANCE = np.float32(1e-12)  # where all photos are the same


class KReciprocal:
    """k-reciprocal encoding (Zhong et al. 2017, arXiv 1701.08398).

    Among queries and gallery together, each photo is encoded by its k1-reciprocal neighbours,
    expanded by theirs, weighted by exp(-distance) and averaged over its k2 nearest. The gallery is
    ranked by (1 - lambda_value) times the Jaccard distance of the encodings plus lambda_value times
    the distance; a distance is the squared Euclidean one, divided by the photo's largest, as in the
    released code. That code holds all distances of all photos;
    here they are computed as they are needed, to the same answer.

    The queries look again: the former ranking sets the length, nothing else. The largest distances
    need all pairs of photos, so the neighbours are exact, whatever the search. The scores are 1
    minus the distance.

    Args:
        k1: Neighbours that can be reciprocal.
        k2: Nearest photos averaged, itself among them; 1: none.
        lambda_value: Share of the original distance.

    Raises:
        UserError: A setting is out of its range.
    """

    def __init__(self, k1: int = 20, k2: int = 6, lambda_value: float = 0.3) -> None:
        self.k1 = whole_number("rerank.k_reciprocal.k1", k1, 1)
        self.k2 = whole_number("rerank.k_reciprocal.k2", k2, 1)
        self.lambda_value = number("rerank.k_reciprocal.lambda_value", lambda_value, 0, below=1)

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Encode every photo and compare; rows and scores are new."""
        sets = (retrieval.query, retrieval.gallery)
        asked, photos = len(retrieval.query), sum(map(len, sets))
        wide = min(max(self.k1 + 1, self.k2), photos)
        near, lowest = nearest_and_lowest(sets, wide)
        farthest = np.maximum(2 - 2 * lowest, _LEAST_DISTANCE)
        encoding = Encoding(sets, near, farthest, self.k1, self.k2)
        asking = encoding.averaged(0, asked).T.tocsr()  # (Q + N, Q)
        best = Best(*retrieval.rows.shape)

        def compared(first: int) -> Triplets:
            encoded = encoding.averaged(first, min(first + _PHOTOS_AT_ONCE, photos))
            shared = overlaps(encoded, asking).tocoo()
            jaccard = 1 - shared.data / (2 - shared.data)
            likely = best.better(
                shared.col, shared.row + first, 1 - (1 - self.lambda_value) * jaccard
            )
            cosines = pair_cosines(sets, likely.query, likely.rows)
            distances = self._distances(cosines, farthest[likely.query])
            return best.better(
                likely.query, likely.rows - asked, likely.scores - self.lambda_value * distances
            )

        for better in in_parallel(compared, range(asked, photos, _PHOTOS_AT_ONCE)):
            best.add(better)
        return retrieval.with_ranking(*self._with_nearest(*best.result(), retrieval, farthest))

    def _distances(self, cosines: np.ndarray, farthest: np.ndarray) -> np.ndarray:
        """Squared distances over the largest."""
        return np.maximum(2 - 2 * cosines, 0) / farthest

    def _with_nearest(
        self, rows: np.ndarray, scores: np.ndarray, retrieval: Retrieval, farthest: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bring in the nearest photos that share nothing: of them only the distance counts."""
        kept = rows.shape[1]
        near, cosines = retrieval.search(retrieval.query, retrieval.gallery, kept)
        distances = self._distances(np.where(near < 0, 0, cosines), farthest[: len(near), None])
        absent = (near >= 0) & ~listed_in(near, rows)
        alone = np.where(absent, self.lambda_value * (1 - distances), -np.inf).astype(np.float32)
        both = np.concatenate([rows, np.where(absent, near, -1)], axis=1)
        values = np.concatenate([scores, alone], axis=1)
        order = np.argsort(-values, axis=1, kind="stable")[:, :kept]
        return np.take_along_axis(both, order, 1), np.take_along_axis(values, order, 1)
