"""Inverted lists with our own matrix products: cluster, add and search as faiss does.

faiss compares vectors with the centroids of the lists through its BLAS, which is several times too
slow on some processors (see `landmark.search.blas`). These functions replace those comparisons and
leave the rest to faiss: the codes, the lists and their scan. They also rotate vectors for an index
that does so before its lists. The clustering follows
`faiss.Clustering` step by step, so it differs by the rounding of the products only, as that of
faiss does from one machine to another.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from landmark.artifact.vectors import row_blocks
from landmark.device import Precision, has_bf16_products
from landmark.search import blas
from landmark.search.flat import Flat
from landmark.search.pair_products import tensor_of

if TYPE_CHECKING:
    from faiss import Index

_KINDS = ("IndexIVFFlat", "IndexIVFScalarQuantizer", "IndexIVFPQ", "IndexIVFRaBitQ")
_QUANTIZERS = ("IndexFlat", "IndexFlatIP")
_BLOCK_ROWS = 16384
_BLOCK_QUERIES = 2048  # centroids are few, so that more vectors fit the caches
# Of faiss, in Clustering.cpp and IndexIVF.cpp.
_SPLIT_SEED, _SAMPLE_SEED = 1234, 1234
_SPLIT = 1 / 1024
_PARALLEL_QUERIES = 3  # search_preassigned has one thread in the default mode


def nearest_centroids(
    vectors: np.ndarray, centroids: np.ndarray, k: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k centroids with the largest inner product with each vector.

    Args:
        vectors: (N, D) float32.
        centroids: (L, D) float32.
        k: Centroids per vector, at most L.

    Returns:
        Lists (N, k) int64 by descending product, ties by list; and products (N, k) float32.

    Example:
        >>> nearest_centroids(np.array([[0.6, 0.8]], np.float32), np.eye(2, dtype=np.float32))[0]
        array([[1]])
    """
    lists = np.empty((len(vectors), k), np.int64)
    products = np.empty((len(vectors), k), np.float32)
    precision: Precision = "bf16" if has_bf16_products() else "32"
    search = Flat("cpu", engine="torch", precision=precision, block_queries=_BLOCK_QUERIES)
    index = search.build(centroids)
    for block in row_blocks(len(vectors), _BLOCK_ROWS):
        lists[block], products[block] = index.search(vectors[block], k)
    return lists, products


def is_faster(index: "Index", vectors: int, times: int = 1) -> bool:
    """Whether our products are faster for comparing vectors with all centroids of an index.

    Args:
        index: Any faiss index. Only inverted lists with a flat coarse quantizer qualify, without a
            transform around them or with a random rotation.
        vectors: Number of vectors.
        times: Number of comparisons of each.

    Example:
        >>> import faiss
        >>> is_faster(faiss.index_factory(8, "IVF4,Flat", faiss.METRIC_INNER_PRODUCT), vectors=100)
        False
    """
    import faiss

    ivf = _opened(index)[1]
    if type(ivf).__name__ not in _KINDS or ivf.metric_type != faiss.METRIC_INNER_PRODUCT:
        return False
    if type(faiss.downcast_index(ivf.quantizer)).__name__ not in _QUANTIZERS:
        return False
    return blas.torch_is_faster(vectors * times * ivf.nlist * ivf.d)


def train(index: Any, sample: np.ndarray) -> None:  # noqa: ANN401 - several classes
    """Train inverted lists like `IndexIVF.train`, and the rotation before them.

    Args:
        index: Empty index, for inner products.
        sample: (N, D) float32 in C order, at least as many rows as lists.

    Raises:
        RuntimeError: faiss cannot train the index on these rows.

    Example:
        >>> import faiss
        >>> index = faiss.index_factory(2, "IVF2,Flat", faiss.METRIC_INNER_PRODUCT)
        >>> train(index, np.eye(2, dtype=np.float32))
        >>> index.is_trained
        True
    """
    import faiss

    rotation, ivf = _opened(index)
    if rotation is not None:
        rotation.train(sample)
        sample = _rotated(rotation, sample)
    centroids = cluster(sample, ivf.nlist, ivf.cp)
    ivf.quantizer.reset()
    ivf.quantizer.add(centroids)
    most = ivf.train_encoder_num_vectors()
    if 0 < most < len(sample):
        sample = sample[_permutation(len(sample), _SAMPLE_SEED)[:most]]
    lists = None
    if ivf.by_residual:
        lists = nearest_centroids(sample, centroids)[0][:, 0]
        residuals = centroids[lists]
        sample = np.subtract(sample, residuals, out=residuals)
    ivf.train_encoder(
        len(sample), faiss.swig_ptr(sample), None if lists is None else faiss.swig_ptr(lists)
    )
    ivf.is_trained = index.is_trained = True


def add(index: Any, block: np.ndarray) -> None:  # noqa: ANN401 - several classes
    """Add vectors (N, D) float32 in C order like `IndexIVF.add`.

    Example:
        >>> import faiss
        >>> index = faiss.index_factory(2, "IVF2,Flat", faiss.METRIC_INNER_PRODUCT)
        >>> train(index, np.eye(2, dtype=np.float32))
        >>> add(index, np.eye(2, dtype=np.float32))
        >>> index.ntotal
        2
    """
    import faiss

    rotation, ivf = _opened(index)
    block = _rotated(rotation, block)
    lists = nearest_centroids(block, _centroids(ivf))[0][:, 0]
    ivf.add_core(len(block), faiss.swig_ptr(block), None, faiss.swig_ptr(lists))
    index.ntotal = ivf.ntotal  # of the rotation around it


def search(index: Any, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:  # noqa: ANN401
    """Search like `IndexIVF.search`.

    Args:
        index: Trained index; its `nprobe` lists are searched, at most all.
        query: (Q, D) float32.
        k: Results per query.

    Returns:
        Scores (Q, k) float32 in descending order, and rows (Q, k) int64, -1 pads.

    Example:
        >>> import faiss
        >>> index = faiss.index_factory(2, "IVF2,Flat", faiss.METRIC_INNER_PRODUCT)
        >>> train(index, np.eye(2, dtype=np.float32))
        >>> add(index, np.eye(2, dtype=np.float32))
        >>> search(index, np.array([[0, 1]], np.float32), k=1)[1].tolist()
        [[1]]
    """
    rotation, ivf = _opened(index)
    query = _rotated(rotation, query)
    before = ivf.nprobe, ivf.parallel_mode
    ivf.nprobe, ivf.parallel_mode = min(ivf.nprobe, ivf.nlist), _PARALLEL_QUERIES
    try:
        lists, products = nearest_centroids(query, _centroids(ivf), ivf.nprobe)
        return ivf.search_preassigned(query, k, lists, products)
    finally:
        ivf.nprobe, ivf.parallel_mode = before


def cluster(sample: np.ndarray, lists: int, parameters: Any) -> np.ndarray:  # noqa: ANN401
    """Return the centroids (lists, D) of k-means by inner product, like `faiss.Clustering`.

    Args:
        sample: (N, D) float32, N >= lists.
        lists: Number of centroids.
        parameters: `faiss.ClusteringParameters`; niter, seed, spherical and max_points_per_centroid
            are used. The result is determined by the seed.

    Raises:
        RuntimeError: A value is not a finite number.

    Example:
        >>> import faiss
        >>> cluster(np.eye(2, dtype=np.float32), 2, faiss.ClusteringParameters()).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    if not all(np.isfinite(sample[part]).all() for part in row_blocks(len(sample), _BLOCK_ROWS)):
        raise RuntimeError("input contains NaN's or Inf's")  # the words of faiss
    most = lists * parameters.max_points_per_centroid
    if len(sample) > most:
        sample = sample[_permutation(len(sample), parameters.seed)[:most]]
    if len(sample) == lists:
        return sample.copy()
    first = _permutation(len(sample), parameters.seed + 1)[:lists]
    centroids = _normalised(sample[first], parameters.spherical)
    for _ in range(parameters.niter):
        nearest = nearest_centroids(sample, centroids)[0][:, 0]
        centroids, sizes = _means(sample, nearest, lists)
        _split_into_empty(centroids, sizes, len(sample))
        centroids = _normalised(centroids, parameters.spherical)
    return centroids


def _means(vectors: np.ndarray, nearest: np.ndarray, lists: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of the vectors of each list (lists, D), 0 of none; and their number."""
    import torch

    by_list = torch.from_numpy(np.argsort(nearest, kind="stable"))
    sizes = np.bincount(nearest, minlength=lists).astype(np.float32)
    begins = torch.from_numpy(np.cumsum(sizes, dtype=np.int64) - sizes.astype(np.int64))
    with torch.inference_mode():
        sums = torch.nn.functional.embedding_bag(
            by_list, torch.from_numpy(vectors), begins, mode="sum"
        ).numpy()
    return sums * (1 / np.maximum(1, sizes))[:, None], sizes


def _split_into_empty(centroids: np.ndarray, sizes: np.ndarray, rows: int) -> None:
    """Split large clusters to fill empty ones, in place.

    A cluster is split with a probability that grows with its size. Its two halves differ by the
    sign of a small change of each value.
    """
    empty = np.flatnonzero(sizes == 0)
    # The numbers of faiss: std::mt19937 as float32 in [0, 1].
    draws = np.random.RandomState(_SPLIT_SEED)  # the newer generators seed differently
    drawn = np.empty(0, np.float32)
    signs = np.where(np.arange(centroids.shape[1]) % 2, -1, 1)
    for to in empty:
        shares = ((sizes.astype(np.float64) - 1) / np.float32(rows - len(sizes))).astype(np.float32)
        while True:
            if len(drawn) < len(sizes):
                more = draws.randint(0, 2**32, len(sizes), np.uint32)
                drawn = np.concatenate([drawn, more.astype(np.float32) / np.float32(2**32)])
            is_chosen = drawn[: len(sizes)] < shares
            if is_chosen.any():
                break
            drawn = drawn[len(sizes) :]
        chosen = int(is_chosen.argmax())
        drawn = drawn[chosen + 1 :]
        centroids[to] = centroids[chosen] * (1 + signs * _SPLIT)
        centroids[chosen] *= 1 - signs * _SPLIT
        sizes[to] = sizes[chosen] / 2
        sizes[chosen] -= sizes[to]


def _normalised(centroids: np.ndarray, spherical: bool) -> np.ndarray:
    """Return the centroids at unit length if `spherical`; those of length 0 stay 0."""
    import faiss

    centroids = np.ascontiguousarray(centroids, np.float32)
    if spherical:
        faiss.normalize_L2(centroids)
    return centroids


def _permutation(count: int, seed: int) -> np.ndarray:
    """Return faiss's random permutation of 0 … count - 1 of a seed."""
    import faiss

    order = np.empty(count, np.int32)
    faiss.rand_perm(faiss.swig_ptr(order), count, seed)  # type: ignore[attr-defined]
    return order


def _opened(index: Any) -> tuple[Any, Any]:  # noqa: ANN401 - several classes
    """Return the random rotation before inverted lists, None without one, and the lists."""
    import faiss

    index = faiss.downcast_index(index)
    if type(index).__name__ != "IndexPreTransform" or index.chain.size() != 1:
        return None, index
    rotation = faiss.downcast_VectorTransform(index.chain.at(0))
    if type(rotation).__name__ != "RandomRotationMatrix":
        return None, index
    return rotation, faiss.downcast_index(index.index)


def _rotated(rotation: Any, vectors: np.ndarray) -> np.ndarray:  # noqa: ANN401
    """Return vectors (N, D) after a rotation; unchanged if it is None."""
    import faiss

    if rotation is None:
        return vectors
    matrix = faiss.vector_to_array(rotation.A).reshape(rotation.d_out, rotation.d_in)
    return (tensor_of(vectors) @ tensor_of(matrix).T).numpy()


def _centroids(ivf: Any) -> np.ndarray:  # noqa: ANN401 - several classes
    return ivf.quantizer.reconstruct_n(0, ivf.nlist)
