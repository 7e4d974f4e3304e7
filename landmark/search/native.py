"""Create, check and train faiss indexes, and turn faiss's errors into one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from landmark.error import UserError
from landmark.search import blas, coarse
from landmark.search.blocks import Vectors

if TYPE_CHECKING:
    from faiss import Index

ROWS_OF_A_LIST = 64  # training rows per list; faiss wants 39 or more
_TRAIN_ROWS = 16384
_CENTROIDS = 256  # of an 8-bit product quantizer, which needs at least as many training rows
_INNER = ("index", "storage", "base_index", "refine_index")  # attributes that hold an index
_QUANTIZERS = ("pq", "rq", "lsq")
# Transforms that keep inner products: they rotate, pad, or select dimensions without a shift.
_ROTATIONS = {"RandomRotationMatrix", "OPQMatrix", "RemapDimensionsTransform"}
# What faiss says → what to print; {0} is the first group of the pattern.
_REASONS = {
    r"METRIC_L2|inner prod": "it exists for L2 distances only",
    r"could not parse|cannot be parsed": "it is not a faiss factory string",
    r"number of clusters \((\d+)\)": "{0} clusters need {0} or more training rows",
    r"multiple of the number of subquantizers": "its parts must divide the dimension",
    r"graph smaller than (\d+)": "its graph needs more than {0} distinct vectors",
    r"bad_alloc|not enough memory": "out of memory",
}


def created(dim: int, text: str, key: str) -> "Index":
    """Return the empty index of a faiss factory string, for inner products.

    Args:
        dim: D.
        text: Factory string.
        key: Setting that determines it, for messages.

    Raises:
        UserError: faiss cannot build it, or builds it for L2 distances.

    Example:
        >>> created(8, "HNSW4_PQ2", "search.description")
        Traceback (most recent call last):
        landmark.error.UserError: search.description: faiss builds HNSW4_PQ2 (IndexHNSWPQ) for ...
    """
    import faiss

    with faiss_errors(text, key):
        index = faiss.index_factory(dim, text, faiss.METRIC_INNER_PRODUCT)
    for part in parts_of(index):
        if part.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise UserError(
                f"{key}: faiss builds {text} ({type(part).__name__}) for L2 distances, not inner "
                f"products. Pass another {key}, such as HNSW32,SQ8 or IVF256,PQ16."
            )
    return index


def parts_of(index: "Index", with_quantizers: bool = True) -> Iterator[Any]:
    """Yield an index and all indexes inside it: wrapped, stored, refining and coarse ones.

    Args:
        index: The index.
        with_quantizers: Include the coarse quantizers of inverted files.

    Example:
        >>> import faiss
        >>> [type(part).__name__ for part in parts_of(faiss.index_factory(8, "RR4,HNSW4"))]
        ['IndexPreTransform', 'IndexHNSWFlat', 'IndexFlatL2']
    """
    import faiss

    # `index` itself stays referenced: it owns the memory of its parts.
    part = faiss.downcast_index(index)
    yield part
    for name in (*_INNER, "quantizer") if with_quantizers else _INNER:
        inner = getattr(part, name, None)
        if isinstance(inner, faiss.Index):
            yield from parts_of(inner, with_quantizers)


def is_graph(index: "Index") -> bool:
    """Whether an index searches a graph of its vectors: HNSW, NSG, or one inside another index.

    Example:
        >>> import faiss
        >>> [is_graph(faiss.index_factory(8, text)) for text in ("RR4,HNSW4", "IVF2_HNSW4,Flat")]
        [True, False]
    """
    return any(
        hasattr(part, "hnsw") or hasattr(part, "nsg")
        for part in parts_of(index, with_quantizers=False)
    )


def keeps_products(index: "Index") -> bool:
    """Whether the scores are inner products of the vectors; not after PCA, which centres them.

    Example:
        >>> import faiss
        >>> [keeps_products(faiss.index_factory(8, text)) for text in ("RR4,Flat", "PCA4,Flat")]
        [True, False]
    """
    import faiss

    return all(
        type(faiss.downcast_VectorTransform(part.chain.at(number))).__name__ in _ROTATIONS
        for part in parts_of(index)
        if hasattr(part, "chain")
        for number in range(part.chain.size())
    )


def train(
    index: "Index",
    gallery: Vectors,
    rows: int | None,
    seed: int,
    gpus: list[int],
    key: str = "search",
) -> None:
    """Train an index on random gallery rows; a no-op if it needs no training.

    The clustering of inverted lists multiplies with torch where faiss is slower (see
    `landmark.search.coarse`). Its centroids are those of faiss but for rounding, which may differ
    from one machine to another; they are saved with the index.

    Args:
        index: The faiss index.
        gallery: (N, D).
        rows: Number of training rows. Defaults to 64 per list of the index, at least 16,384.
        seed: Seed of the sample and of the clustering.
        gpus: GPUs to cluster on. Empty means the CPU.
        key: Setting that determines the index, for messages.

    Raises:
        UserError: faiss cannot train the index on these rows.

    Example:
        >>> import faiss
        >>> index = faiss.index_factory(2, "SQ8", faiss.METRIC_INNER_PRODUCT)
        >>> train(index, np.eye(2, dtype=np.float32), rows=None, seed=0, gpus=[])
        >>> index.is_trained
        True
    """
    import faiss

    if index.is_trained:
        return
    ivf = faiss.try_extract_index_ivf(index)
    if rows is None:
        rows = max(_TRAIN_ROWS, ROWS_OF_A_LIST * ivf.nlist if ivf else 0)
    drawn = np.random.default_rng(seed).choice(
        len(gallery), min(rows, len(gallery)), replace=False, shuffle=False
    )
    sample = np.asarray(gallery[np.sort(drawn)], np.float32)
    if len(sample) < _CENTROIDS:
        sample = np.resize(sample, (_CENTROIDS, gallery.shape[1]))
    sample = np.ascontiguousarray(sample)
    kept = [_silenced(part) for part in parts_of(index)]
    own_products = False
    if ivf:
        _configure_clustering(faiss.downcast_index(ivf), seed, gpus)
        own_products = not gpus and _clusters_faster(index, ivf, len(sample))
    with faiss_errors(f"training on {len(sample):,} rows", key):
        if own_products:
            coarse.train(faiss.downcast_index(index), sample)
        else:
            index.train(sample)
    del kept  # quantizers that the training used


def _clusters_faster(index: "Index", ivf: Any, rows: int) -> bool:  # noqa: ANN401 - many classes
    """Whether to cluster with our own products; print a notice if those of faiss are slow."""
    rows = min(rows, ivf.nlist * ivf.cp.max_points_per_centroid)
    blas.warn_if_slow(rows * ivf.cp.niter * ivf.nlist * ivf.d)
    return rows >= ivf.nlist and coarse.is_faster(index, rows, ivf.cp.niter)


def _configure_clustering(ivf: Any, seed: int, gpus: list[int]) -> None:  # noqa: ANN401 - many classes
    """Seed the clustering of an inverted file, and run it on the GPUs if any."""
    import faiss

    ivf.cp.seed = 1 + seed
    if gpus:
        flat = faiss.IndexFlatIP(ivf.d)
        ivf.clustering_index = faiss.index_cpu_to_gpus_list(flat, None, gpus)


def _silenced(part: Any) -> list[Any]:  # noqa: ANN401 - many classes
    """Suppress the warning about few rows that every k-means of a part prints.

    Returns:
        Quantizers that must live until the part is trained.
    """
    import faiss

    kept = []
    for owner in (part, *(getattr(part, name, None) for name in _QUANTIZERS)):
        if hasattr(owner, "cp"):
            owner.cp.min_points_per_centroid = 1
    for number in range(part.chain.size() if hasattr(part, "chain") else 0):
        transform = faiss.downcast_VectorTransform(part.chain.at(number))
        if isinstance(transform, faiss.OPQMatrix) and not transform.d_out % transform.M:
            pq = faiss.ProductQuantizer(transform.d_out, transform.M, 8)  # as OPQ would create
            pq.cp.min_points_per_centroid = 1
            transform.pq = pq
            kept.append(pq)
    return kept


@contextmanager
def faiss_errors(subject: str, key: str = "search") -> Iterator[None]:
    """Turn a faiss exception into a one-line `UserError`.

    Args:
        subject: What faiss is to do.
        key: Setting to change.

    Raises:
        UserError: faiss raised an exception in the block.

    Example:
        >>> import faiss
        >>> with faiss_errors("IVF4,Nonsense"):
        ...     faiss.index_factory(2, "IVF4,Nonsense")
        Traceback (most recent call last):
        landmark.error.UserError: search: faiss rejects IVF4,Nonsense (it is not a faiss factory ...
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        advice = "other search settings" if key == "search" else f"another {key}"
        raise UserError(
            f"{key}: faiss rejects {subject} ({_reason(error)}). Pass {advice}."
        ) from error


def _reason(error: BaseException) -> str:
    """Return the reason without the C++ around it.

    faiss writes "Error in <function> at <file>:<line>: Error: '<condition>' failed: <reason>".
    """
    text = " ".join(str(error).split())
    for pattern, words in _REASONS.items():
        if match := re.search(pattern, text):
            return words.format(*match.groups())
    if isinstance(error, MemoryError):
        return "out of memory"
    text = re.sub(r"^Error in .* at \S+:\d+: ", "", text)
    text = re.sub(r"^Error: '.*' failed(: )?", "", text)
    return text.rstrip(".") or "faiss does not support it"
