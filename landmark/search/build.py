"""A faiss index built of a gallery: trained on some of its rows, filled block by block."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from landmark.artifact.stacked import StackedVectors
from landmark.error import UserError
from landmark.search.blocks import float32_blocks, rows_between

if TYPE_CHECKING:
    from faiss import Index

_ROWS_A_LIST = 64  # to train on; faiss asks for 39 or more
_TRAIN_ROWS = 16384
_CENTROIDS = 256  # of a product quantizer of 8 bits: it takes no fewer rows to train on


def empty_index(description: str, dim: int) -> "Index":
    """An index of a faiss factory string, for inner products.

    Raises:
        UserError: faiss knows no such index.
    """
    import faiss

    with faiss_errors(description):
        return faiss.index_factory(dim, description, faiss.METRIC_INNER_PRODUCT)


def train(
    index: "Index",
    gallery: np.ndarray | StackedVectors,
    rows: int | None,
    seed: int,
    gpus: list[int],
) -> None:
    """Trains an index on rows of the gallery drawn at random.

    Args:
        index: Of faiss; nothing is done where it needs no training.
        gallery: (N, D).
        rows: How many; none: 64 a list of the index, at least 16,384.
        seed: Of the drawing and of the clustering.
        gpus: Where to cluster; none: on the CPU.

    Raises:
        UserError: faiss cannot train the index on these.
    """
    import faiss

    if index.is_trained:
        return
    ivf = faiss.try_extract_index_ivf(index)
    if rows is None:
        rows = max(_TRAIN_ROWS, _ROWS_A_LIST * ivf.nlist if ivf else 0)
    drawn = np.random.default_rng(seed).choice(
        len(gallery), min(rows, len(gallery)), replace=False, shuffle=False
    )
    sample = np.asarray(gallery[np.sort(drawn)], np.float32)
    if len(sample) < _CENTROIDS:
        sample = np.resize(sample, (_CENTROIDS, gallery.shape[1]))
    if ivf:
        _set_clustering(faiss.downcast_index(ivf), seed, gpus)
    with faiss_errors(f"training on {len(sample):,} rows"):
        index.train(np.ascontiguousarray(sample))


def _set_clustering(ivf: Any, seed: int, gpus: list[int]) -> None:  # noqa: ANN401 - many classes
    """Seeds the clustering of an inverted file, and puts it on GPUs."""
    import faiss

    ivf.cp.seed = 1 + seed
    ivf.cp.min_points_per_centroid = 1  # it only warns
    if hasattr(ivf, "pq"):
        ivf.pq.cp.min_points_per_centroid = 1
    if gpus:
        flat = faiss.IndexFlatIP(ivf.d)
        ivf.clustering_index = faiss.index_cpu_to_gpus_list(flat, None, gpus)


def add(index: "Index", gallery: np.ndarray | StackedVectors, first: int, block_rows: int) -> None:
    """Adds the rows of a gallery from `first` on, `block_rows` at a time."""
    for _, block in float32_blocks(rows_between(gallery, first, len(gallery)), block_rows):
        index.add(block)


@contextmanager
def faiss_errors(what: str) -> Iterator[None]:
    """Says in one line what faiss refuses.

    Raises:
        UserError: For a RuntimeError of faiss.
    """
    try:
        yield
    except RuntimeError as error:
        # "Error in <function> at <file>:<line>: Error: '<condition>' failed: <words>"
        words = " ".join(str(error).split()).rpartition("failed: ")[2]
        raise UserError(f"search: faiss refuses {what}: {words}") from error
