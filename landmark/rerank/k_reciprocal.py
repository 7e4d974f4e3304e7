"""Re-ranking by k-reciprocal encoding: photos compared by the neighbours they share."""

from typing import Annotated

import numpy as np
from pydantic import Field, PositiveInt
from scipy import sparse

from landmark.artifact.stacked import StackedVectors
from landmark.artifact.vectors import row_blocks
from landmark.processes import gather_objects, shard
from landmark.rerank.all_pairs import nearest_and_lowest
from landmark.rerank.graph import mutual_neighbours, sparse_rows
from landmark.rerank.neighbours import pair_cosines
from landmark.rerank.parallel import in_parallel
from landmark.rerank.ranking import Best, Triplets, listed_in
from landmark.rerank.retrieval import Retrieval
from landmark.search.blocks import Vectors
from landmark.search.sharded import merge_ranks
from landmark.search.top_k import best_in_order
from landmark.settings import checked

_ENCODED_ROWS, _COMPARED_ROWS = 512, 256  # photos of a block
_LEAST_DISTANCE = np.float32(1e-12)  # where all photos are the same


class KReciprocal:
    """k-reciprocal encoding (Zhong et al. 2017, arXiv 1701.08398).

    Among queries and gallery together, each photo is encoded by its k1-reciprocal neighbours,
    expanded by theirs, weighted by exp(-distance) and averaged over its k2 nearest. The gallery is
    ranked by (1 - lambda_value) times the Jaccard distance of the encodings plus lambda_value times
    the distance; a distance is the squared Euclidean one, divided by the photo's largest, as in the
    released code. That code holds all distances of all photos; here they are computed when needed,
    with the same result.

    The queries are searched again: the former ranking sets the length, nothing else. The largest
    distances need all pairs of photos, so the neighbours are exact, whatever the index; they are
    computed on its device. The scores are 1 minus the distance. Under a launcher each rank computes
    a share of the pairs, and encodes and compares a part of the photos.

    Args:
        k1: Neighbours that can be reciprocal.
        k2: Nearest photos averaged, itself among them; 1: none.
        lambda_value: Share of the original distance.

    Example:
        >>> from landmark.search import Flat
        >>> angles = np.radians([0, 22, 42, 60, -35, -40, -45])
        >>> photos = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        >>> retrieval = Retrieval.from_search(photos[:1], photos[1:], k=6, search=Flat("cpu"))
        >>> retrieval.rows.tolist(), KReciprocal(k1=2, k2=1)(retrieval).rows.tolist()
        ([[0, 3, 4, 1, 5, 2]], [[0, 1, 3, 4, 5, 2]])
    """

    @checked
    def __init__(
        self,
        k1: PositiveInt = 20,
        k2: PositiveInt = 6,
        lambda_value: Annotated[float, Field(ge=0, lt=1)] = 0.3,
    ) -> None:
        self.k1 = k1
        self.k2 = k2
        self.lambda_value = lambda_value

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Encode every photo and compare; rows and scores are new."""
        photos = StackedVectors([retrieval.query, retrieval.gallery], np.float32)
        queries, wide = len(retrieval.query), min(max(self.k1 + 1, self.k2), len(photos))
        near, lowest = nearest_and_lowest(photos, wide, retrieval.index.device)
        farthest = np.maximum(2 - 2 * lowest, _LEAST_DISTANCE)
        encoding = Encoding(photos, near, farthest, self.k1, self.k2)
        of_queries = encoding.averaged(slice(0, queries)).T.tocsr()  # (Q + N, Q)
        best = Best(*retrieval.rows.shape)
        gallery = shard(len(retrieval.gallery))

        def compared(part: slice) -> Triplets:
            encoded = encoding.averaged(slice(queries + part.start, queries + part.stop))
            shared = overlaps(encoded, of_queries).tocoo()
            jaccard = 1 - shared.data / (2 - shared.data)
            likely = best.better(
                shared.col, shared.row + part.start, 1 - (1 - self.lambda_value) * jaccard
            )
            cosines = pair_cosines(photos, likely.query, likely.rows + queries)
            distances = self._distances(cosines, farthest[likely.query])
            return best.better(
                likely.query, likely.rows, likely.scores - self.lambda_value * distances
            )

        blocks = row_blocks(gallery.stop, _COMPARED_ROWS, gallery.start)
        for better in in_parallel(compared, blocks):
            best.add(better)
        rows, scores = merge_ranks(*best.result())
        return retrieval.with_ranking(*self._with_nearest(rows, scores, retrieval, farthest))

    def _distances(self, cosines: np.ndarray, farthest: np.ndarray) -> np.ndarray:
        """Squared distances over the largest."""
        return np.maximum(2 - 2 * cosines, 0) / farthest

    def _with_nearest(
        self, rows: np.ndarray, scores: np.ndarray, retrieval: Retrieval, farthest: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bring in the nearest photos that share nothing: of them only the distance counts."""
        kept = rows.shape[1]
        near, cosines = retrieval.index.search(retrieval.query, kept)
        distances = self._distances(np.where(near < 0, 0, cosines), farthest[: len(near), None])
        absent = (near >= 0) & ~listed_in(near, rows)
        alone = np.where(absent, self.lambda_value * (1 - distances), -np.inf).astype(np.float32)
        return best_in_order([(rows, scores), (np.where(absent, near, -1), alone)], kept)


class Encoding:
    """The k-reciprocal encodings of all photos (Zhong et al. 2017, arXiv 1701.08398).

    Args:
        photos: Descriptors, (N, D).
        near: Nearest of each photo, itself first, (N, at least k1 + 1 and k2, or N); -1 is none.
        farthest: Largest squared distance of each photo, (N,).
        k1: Neighbours that can be reciprocal.
        k2: Nearest photos averaged.
    """

    def __init__(
        self, photos: Vectors, near: np.ndarray, farthest: np.ndarray, k1: int, k2: int
    ) -> None:
        self._photos, self._near, self._farthest, self._k2 = photos, near, farthest, k2
        reciprocal = _reciprocal(near[:, : k1 + 1])
        # numpy rounds halves to even, as the released code does.
        half = _reciprocal(near[:, : int(np.around(k1 / 2)) + 1])
        sizes = np.diff(half.indptr)
        shared = shard(len(near))

        def encoded(part: slice) -> sparse.csr_matrix:
            return self._weighted(part.start, _expanded(reciprocal[part], half, sizes))

        own = list(in_parallel(encoded, row_blocks(shared.stop, _ENCODED_ROWS, shared.start)))
        parts = [part for parts in gather_objects(own) for part in parts]
        self._encoded = sparse.vstack(parts, format="csr")

    def averaged(self, photos: slice) -> sparse.csr_matrix:
        """Encodings of some photos, each the mean over its k2 nearest, (B, N) float32."""
        near = self._near[photos, : self._k2]
        present = near >= 0
        share = np.broadcast_to(1 / present.sum(axis=1, keepdims=True), near.shape)
        share = share.astype(np.float32)
        return sparse_rows(near, share, present, len(self._near)) @ self._encoded

    def _weighted(self, first: int, members: sparse.csr_matrix) -> sparse.csr_matrix:
        """Weights exp(-distance) of the members of each photo's set, of sum 1, (B, N) float32."""
        photos = first + np.repeat(np.arange(members.shape[0]), np.diff(members.indptr))
        cosines = pair_cosines(self._photos, photos, members.indices)
        # A photo's distance to itself is 0, also where half precision has rounded its length.
        distances = np.where(photos == members.indices, 0, np.maximum(2 - 2 * cosines, 0))
        weights = np.exp(-distances / self._farthest[photos]).astype(np.float32)
        total = np.add.reduceat(weights, members.indptr[:-1])
        weights /= np.repeat(total, np.diff(members.indptr))
        return sparse.csr_matrix((weights, members.indices, members.indptr), shape=members.shape)


def overlaps(encoded: sparse.csr_matrix, of_queries: sparse.csr_matrix) -> sparse.csr_matrix:
    """Sum over the neighbours of the smaller of both weights, (B, Q) float32.

    Args:
        encoded: Encodings of B photos, (B, N).
        of_queries: Encodings of the queries by neighbour, (N, Q).

    Example:
        >>> of_queries = sparse.csr_matrix([[0.25], [0.75]])
        >>> overlaps(sparse.csr_matrix([[0.5, 0.5]]), of_queries).toarray().tolist()
        [[0.75]]
    """
    photos = np.repeat(np.arange(encoded.shape[0], dtype=np.int32), np.diff(encoded.indptr))
    meeting = np.diff(of_queries.indptr)[encoded.indices]  # queries that meet each weight
    ends = np.cumsum(meeting)
    at = np.arange(ends[-1] if len(ends) else 0) + np.repeat(
        of_queries.indptr[encoded.indices] - ends + meeting, meeting
    )
    smaller = np.minimum(np.repeat(encoded.data, meeting), of_queries.data[at])
    return sparse.csr_matrix(
        (smaller, (np.repeat(photos, meeting), of_queries.indices[at])),
        shape=(encoded.shape[0], of_queries.shape[1]),
    )


def _reciprocal(near: np.ndarray) -> sparse.csr_matrix:
    """Which photos have one another among their nearest, or are the same, (N, N) of ones."""
    mutual = mutual_neighbours(near)
    mutual[:, 0] = True  # the photo itself
    ones = np.broadcast_to(np.float32(1), near.shape)
    return sparse_rows(near, ones, mutual, len(near))


def _expanded(
    reciprocal: sparse.csr_matrix, half: sparse.csr_matrix, sizes: np.ndarray
) -> sparse.csr_matrix:
    """Reciprocal sets (B, N), with those half sets (N, N), of which they hold over two thirds."""
    # A half set is symmetric: this counts the members that a set shares with each half set.
    shared = (reciprocal @ half).multiply(reciprocal).tocsr()
    enough = shared.data > 2 / 3 * sizes[shared.indices]
    shared.data = enough.astype(np.float32)
    shared.eliminate_zeros()
    return (reciprocal + shared @ half).tocsr()
