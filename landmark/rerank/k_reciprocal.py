"""Re-ranking by k-reciprocal encoding: compare photos by the neighbours they share."""

from typing import Annotated

import numpy as np
from pydantic import Field, PositiveInt
from scipy import sparse

from landmark.artifact.stacked import StackedVectors
from landmark.artifact.vectors import row_blocks
from landmark.processes import gather_objects, shard
from landmark.rerank.graph import mutual_neighbours, sparse_rows
from landmark.rerank.neighbours import all_neighbours, lowest_cosines, pair_cosines, twins_of
from landmark.rerank.parallel import in_parallel
from landmark.rerank.ranking import Best, Triplets, listed_in, others
from landmark.rerank.retrieval import Retrieval
from landmark.search.blocks import Vectors
from landmark.search.flat import Flat
from landmark.search.sharded import merge_ranks, shard_search
from landmark.search.top_k import best_in_order
from landmark.settings import checked

_ENCODED_ROWS, _COMPARED_ROWS = 512, 256  # photos per block
_LEAST_DISTANCE = np.float32(1e-12)  # avoids division by 0 if all photos are identical


class KReciprocal:
    """k-reciprocal encoding (Zhong et al. 2017, arXiv 1701.08398).

    Queries and gallery form one set. Each photo is encoded by its k1-reciprocal neighbours and
    those of its neighbours, weighted by exp(-distance), and averaged over its k2 nearest photos.
    The gallery is ranked by (1 - lambda_value) times the Jaccard distance of the encodings plus
    lambda_value times the original distance. Distances are squared Euclidean, divided by the
    photo's largest, as in the released code. That code stores all N × N distances; here they are
    computed when needed, with the same result.

    The queries are searched again; the previous ranking only sets the length. The largest distances
    need an exact search, so neighbours are always exact, on the device of the index. The scores are
    1 minus the distance. Under a launcher each rank searches, encodes and compares a shard of the
    photos.

    Args:
        k1: Number of neighbours considered for reciprocity.
        k2: Nearest photos to average over, including the photo itself; 1 means no averaging.
        lambda_value: Weight of the original distance.

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
        """Encode every photo and compare; replaces rows and scores."""
        photos = StackedVectors([retrieval.query, retrieval.gallery], np.float32)
        queries, k = len(retrieval.query), min(max(self.k1 + 1, self.k2), len(photos))
        twins = twins_of(retrieval.own_rows, len(photos))
        index = shard_search(Flat(retrieval.index.device)).build(photos)
        near, _ = all_neighbours([index], k, scored=1, twins=twins)
        farthest = np.maximum(2 - 2 * lowest_cosines(index), _LEAST_DISTANCE)
        encoding = Encoding(photos, near, farthest, self.k1, self.k2)
        of_queries = encoding.averaged(slice(0, queries)).T.tocsr()  # (Q + N, Q)
        best = Best(*retrieval.rows.shape)
        gallery = shard(len(retrieval.gallery))

        def compared(part: slice) -> Triplets:
            encoded = encoding.averaged(slice(queries + part.start, queries + part.stop))
            shared = overlaps(encoded, of_queries).tocoo()
            jaccard = 1 - shared.data / (2 - shared.data)
            # The distance only lowers the score, so most pairs are rejected without computing it.
            results = Triplets(
                shared.col, shared.row + part.start, 1 - (1 - self.lambda_value) * jaccard
            )
            bounds = best.better(*others(results, retrieval.own_rows))
            cosines = pair_cosines(photos, bounds.query, bounds.rows + queries)
            distances = self._distances(cosines, farthest[bounds.query])
            return best.better(
                bounds.query, bounds.rows, bounds.scores - self.lambda_value * distances
            )

        blocks = row_blocks(gallery.stop, _COMPARED_ROWS, gallery.start)
        for better in in_parallel(compared, blocks):
            best.add(better)
        rows, scores = merge_ranks(*best.result())
        return retrieval.with_ranking(*self._with_nearest(rows, scores, retrieval, farthest))

    def _distances(self, cosines: np.ndarray, farthest: np.ndarray) -> np.ndarray:
        """Return squared distances divided by the largest."""
        return np.maximum(2 - 2 * cosines, 0) / farthest

    def _with_nearest(
        self, rows: np.ndarray, scores: np.ndarray, retrieval: Retrieval, farthest: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Add the nearest photos without shared neighbours, whose Jaccard distance is 1."""
        length = rows.shape[1]
        near, cosines = retrieval.index.search_others(retrieval.query, length, retrieval.own_rows)
        distances = self._distances(np.where(near < 0, 0, cosines), farthest[: len(near), None])
        absent = (near >= 0) & ~listed_in(near, rows)
        added = np.where(absent, self.lambda_value * (1 - distances), -np.inf).astype(np.float32)
        return best_in_order([(rows, scores), (np.where(absent, near, -1), added)], length)


class Encoding:
    """The k-reciprocal encodings of all photos (Zhong et al. 2017, arXiv 1701.08398).

    Args:
        photos: Descriptors, (N, D).
        near: Neighbours of each photo, the photo itself first, (N, k) with k at least k1 + 1 and
            k2, or N; -1 pads.
        farthest: Largest squared distance of each photo, (N,).
        k1: Number of neighbours considered for reciprocity.
        k2: Nearest photos to average over.

    Example:
        >>> photos = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
        >>> near = np.array([[0, 1], [1, 2], [2, 1]])
        >>> encoding = Encoding(photos, near, np.full(3, 2, np.float32), k1=1, k2=1)
        >>> encoding.averaged(slice(0, 2)).toarray().round(2).astype(str).tolist()
        [['1.0', '0.0', '0.0'], ['0.0', '0.55', '0.45']]
    """

    def __init__(
        self, photos: Vectors, near: np.ndarray, farthest: np.ndarray, k1: int, k2: int
    ) -> None:
        self._photos, self._near, self._farthest, self._k2 = photos, near, farthest, k2
        reciprocal = _reciprocal(near[:, : k1 + 1])
        # numpy rounds half to even, as the released code does.
        half = _reciprocal(near[:, : int(np.around(k1 / 2)) + 1])
        sizes = np.diff(half.indptr)
        own_photos = shard(len(near))

        def encoded(part: slice) -> sparse.csr_matrix:
            return self._weighted(part.start, _expanded(reciprocal[part], half, sizes))

        blocks = row_blocks(own_photos.stop, _ENCODED_ROWS, own_photos.start)
        own = list(in_parallel(encoded, blocks))
        parts = [part for parts in gather_objects(own) for part in parts]
        self._encoded = sparse.vstack(parts, format="csr")

    def averaged(self, photos: slice) -> sparse.csr_matrix:
        """Return the encodings of photos, each the mean over its k2 nearest, (B, N) float32."""
        near = self._near[photos, : self._k2]
        present = near >= 0
        share = np.broadcast_to(1 / present.sum(axis=1, keepdims=True), near.shape)
        share = share.astype(np.float32)
        return sparse_rows(near, share, present, len(self._near)) @ self._encoded

    def _weighted(self, first: int, members: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return weights exp(-distance) of the members of each set, with sum 1, (B, N) float32."""
        photos = first + np.repeat(np.arange(members.shape[0]), np.diff(members.indptr))
        cosines = pair_cosines(self._photos, photos, members.indices)
        # A photo's distance to itself is 0, even if half precision has rounded its length.
        distances = np.where(photos == members.indices, 0, np.maximum(2 - 2 * cosines, 0))
        weights = np.exp(-distances / self._farthest[photos]).astype(np.float32)
        total = np.add.reduceat(weights, members.indptr[:-1])
        weights /= np.repeat(total, np.diff(members.indptr))
        return sparse.csr_matrix((weights, members.indices, members.indptr), shape=members.shape)


def overlaps(encoded: sparse.csr_matrix, of_queries: sparse.csr_matrix) -> sparse.csr_matrix:
    """Sum min(weight of the photo, weight of the query) over all neighbours, (B, Q) float32.

    Args:
        encoded: Encodings of B photos, (B, N).
        of_queries: Transposed encodings of the queries, (N, Q).

    Example:
        >>> of_queries = sparse.csr_matrix([[0.25], [0.75]])
        >>> overlaps(sparse.csr_matrix([[0.5, 0.5]]), of_queries).toarray().tolist()
        [[0.75]]
    """
    photos = np.repeat(np.arange(encoded.shape[0], dtype=np.int32), np.diff(encoded.indptr))
    matches = np.diff(of_queries.indptr)[encoded.indices]  # queries with the same neighbour
    ends = np.cumsum(matches)
    at = np.arange(ends[-1] if len(ends) else 0) + np.repeat(
        of_queries.indptr[encoded.indices] - ends + matches, matches
    )
    smaller = np.minimum(np.repeat(encoded.data, matches), of_queries.data[at])
    return sparse.csr_matrix(
        (smaller, (np.repeat(photos, matches), of_queries.indices[at])),
        shape=(encoded.shape[0], of_queries.shape[1]),
    )


def _reciprocal(near: np.ndarray) -> sparse.csr_matrix:
    """Return ones where two photos are mutual neighbours, and on the diagonal, (N, N)."""
    mutual = mutual_neighbours(near)
    mutual[:, 0] = True  # the photo itself
    ones = np.broadcast_to(np.float32(1), near.shape)
    return sparse_rows(near, ones, mutual, len(near))


def _expanded(
    reciprocal: sparse.csr_matrix, half: sparse.csr_matrix, sizes: np.ndarray
) -> sparse.csr_matrix:
    """Add to each reciprocal set (B, N) the half sets (N, N) of which it holds over two thirds."""
    # The half sets are symmetric, so the product counts the members shared with each half set.
    shared = (reciprocal @ half).multiply(reciprocal).tocsr()
    enough = shared.data > 2 / 3 * sizes[shared.indices]
    shared.data = enough.astype(np.float32)
    shared.eliminate_zeros()
    return (reciprocal + shared @ half).tocsr()
