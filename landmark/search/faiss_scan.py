"""Exact search with faiss: its best rows of each block, scored in float64."""

import sys

import numpy as np

from landmark.artifact.vectors import row_blocks
from landmark.error import UserError
from landmark.search import gpu
from landmark.search.top_k import best_in_order

_MORE = 8  # results beyond k, which may be as good as the k-th in float64
_WIDER_RESULTS = 2**24  # per step, where more are needed
_PAIR_VALUES = 2**21  # float64 values of the pairs scored together by numpy: 16 MB
_WIDE_VALUES = 2**25  # float64 values of the vectors of pairs scored by torch: 256 MB
_TORCH_PAIRS = 10**6  # more are worth the import of torch


class FaissScan:
    """The k best gallery rows of queries, while a gallery is scanned block by block with faiss.

    Candidates are all rows whose float32 product is not below the k-th best score by more than the
    error of float32 (see `product_errors`); they are scored in float64.

    Args:
        query: (Q, D) float32, C order.
        k: Results per query.
        gpus: GPUs that search; empty means the CPU.

    Example:
        >>> gallery = np.eye(3, dtype=np.float32)
        >>> scan = FaissScan(gallery[:1], k=2)
        >>> scan.scan(gallery, first=0)
        >>> scan.result()[0].tolist()
        [[0, 1]]
    """

    def __init__(self, query: np.ndarray, k: int, gpus: list[int] | None = None) -> None:
        self._query, self._k = query, k
        self._gpus = gpus if gpus and k + _MORE <= gpu.MOST_NEIGHBOURS else []
        self._norms = np.sqrt(_largest_squares(query))
        self._uses_torch = "torch" in sys.modules or len(query) * k > _TORCH_PAIRS
        self._rows = np.full((len(query), k), -1, np.int64)
        self._scores = np.full((len(query), k), -np.inf)

    def scan(self, block: np.ndarray, first: int) -> None:
        """Search the gallery rows `first`, first + 1, …: block (n, D) float32, n >= 1."""
        norm = np.sqrt(_largest_squares(block).max())
        errors = _errors(self._norms, norm, block.shape[1])
        queries, k = np.arange(len(self._query)), self._k + _MORE
        while len(queries):
            open_queries = []
            k = min(k, len(block))
            step = max(1, _WIDER_RESULTS // k) if k > self._k + _MORE else len(queries)
            for part in row_blocks(len(queries), step):
                some = queries[part]
                is_complete = self._scan(some, block, first, k, errors[some])
                open_queries.append(some[~is_complete])
            queries, k = np.concatenate(open_queries), 4 * k

    def _scan(
        self, queries: np.ndarray, block: np.ndarray, first: int, k: int, errors: np.ndarray
    ) -> np.ndarray:
        """Add the best rows of a block; return whether no other row can be among the k best."""
        query = self._query if len(queries) == len(self._query) else self._query[queries]
        rows, products = knn(query, block, k, self._gpus)
        kth = self._scores[queries, -1]
        if k >= self._k:
            kth = np.maximum(kth, products[:, self._k - 1] - errors)
        is_candidate = ~(products < (kth - errors)[:, None])
        is_complete = (k == len(block)) | ~is_candidate[:, -1]
        is_candidate &= is_complete[:, None]
        order = np.argsort(rows, axis=1)
        rows, products, is_candidate = (
            np.take_along_axis(values, order, axis=1) for values in (rows, products, is_candidate)
        )
        at, column = np.nonzero(is_candidate)
        scores = np.full(rows.shape, -np.inf)
        scores[at, column] = self._exact(query, block, at, rows[at, column])
        _check(products[at, column], scores[at, column], errors[at])
        rows = np.where(is_candidate, rows + first, -1)
        best = best_in_order(
            [(self._rows[queries], self._scores[queries]), (rows, scores)], self._k
        )
        self._rows[queries], self._scores[queries] = best
        return is_complete

    def _exact(
        self, query: np.ndarray, block: np.ndarray, queries: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """Return the products of pairs in float64, (P,)."""
        scores, dim = np.empty(len(rows)), max(1, query.shape[1])
        together = (_WIDE_VALUES if self._uses_torch else _PAIR_VALUES) // dim
        if self._uses_torch and len(query) + len(block) <= together:
            together = len(rows)  # all vectors are converted once
        for part in row_blocks(len(rows), together):
            at, row = queries[part], rows[part]
            if self._uses_torch:
                scores[part] = _torch_products(query, block, at, row)
            else:
                left, right = query[at].astype(np.float64), block[row].astype(np.float64)
                scores[part] = np.einsum("pd,pd->p", left, right)
        return np.nan_to_num(scores, copy=False, nan=-np.inf, posinf=np.inf, neginf=-np.inf)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (Q, k) int64, -1 pads, and scores (Q, k) float64 by descending score."""
        return self._rows, self._scores


def knn(
    query: np.ndarray, block: np.ndarray, k: int, gpus: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k rows of a block with the largest float32 products, on GPUs or the CPU.

    Example:
        >>> eye = np.eye(2, dtype=np.float32)
        >>> knn(eye, eye, k=1, gpus=[])[0].tolist()
        [[0], [1]]
    """
    import faiss

    if gpus and k <= gpu.MOST_NEIGHBOURS:
        return gpu.knn(query, block, k, gpus)
    scores, rows = faiss.knn(query, block, k, metric=faiss.METRIC_INNER_PRODUCT)
    return rows, scores


def _torch_products(
    query: np.ndarray, block: np.ndarray, queries: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    import torch

    from landmark.search.pair_products import pair_products

    used_queries, at = np.unique(queries, return_inverse=True)
    used_rows, row = np.unique(rows, return_inverse=True)
    wide = [torch.from_numpy(query[used_queries]), torch.from_numpy(block[used_rows])]
    pairs = torch.from_numpy(at), torch.from_numpy(row)
    return pair_products(wide[0].double(), wide[1].double(), *pairs).numpy()


def _largest_squares(vectors: np.ndarray) -> np.ndarray:
    """Return upper bounds of the squared norms of vectors (N, D), float64 (N,)."""
    import faiss

    squares = np.empty(len(vectors), np.float32)
    if vectors.size:
        vectors = np.ascontiguousarray(vectors)
        faiss.fvec_norms_L2sqr(  # type: ignore[attr-defined]
            faiss.swig_ptr(squares), faiss.swig_ptr(vectors), vectors.shape[1], len(vectors)
        )
    # Squares of values below 2^-63 are below the range of float32.
    return squares.astype(np.float64) * 1.001 + vectors.shape[1] * 2.0**-126


def _errors(query_norms: np.ndarray, norm: float, dim: int) -> np.ndarray:
    """Bound the error of float32 products for each query; see `product_errors`."""
    terms = (dim + 2) * 2.0**-24
    bound = terms / (1 - terms) * query_norms * norm
    bound += 2.0**-125 * (dim + dim**0.5 * (query_norms + norm))
    return np.where(query_norms * norm < 2.0**120, bound, np.inf)


def _check(products: np.ndarray, scores: np.ndarray, errors: np.ndarray) -> None:
    """Check faiss's products against float64: some kernels of old BLAS libraries are wrong.

    Raises:
        UserError: A product is wrong by more than rounding explains.
    """
    with np.errstate(invalid="ignore"):
        wrong = np.abs(products - scores) > 1.01 * errors
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"faiss computed an inner product of {products[at]:.7g} that is {scores[at]:.7g}: its "
            "BLAS is wrong on this processor. Unset OPENBLAS_CORETYPE, or pass search.engine=torch."
        )
