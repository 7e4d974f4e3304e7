"""The base of all searches with a faiss index: train, fill, save and search it."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from landmark.device import Device
from landmark.disk.atomic import atomic_folder
from landmark.disk.lock import locked
from landmark.error import UserError
from landmark.search import gpu, saved
from landmark.search.blocks import Vectors, float32_blocks, rows_of
from landmark.search.index import BlockwiseIndex
from landmark.search.top_k import rescore, ties_by_row
from landmark.settings import checked

if TYPE_CHECKING:
    from faiss import Index as NativeIndex

ROWS_OF_A_LIST = 64  # training rows per list; faiss wants 39 or more
_TRAIN_ROWS = 16384
_CENTROIDS = 256  # of an 8-bit product quantizer, which needs at least as many training rows


class IndexOptions(TypedDict, total=False):
    """Options of all faiss indexes.

    Attributes:
        train_rows: Number of random gallery rows to train on. Defaults to 64 per list, at least
            16,384.
        seed: Seed of the training.
        index: Folder to save the index in. An existing index is opened, and rows that were appended
            to the gallery are added to it. None means not saved.
        device: See `Flat`; `auto` uses the CPU if faiss cannot search the index on a GPU.
        block_rows: Gallery rows added together.
    """

    train_rows: PositiveInt | None
    seed: NonNegativeInt
    index: str | None
    device: Device
    block_rows: PositiveInt


class FaissSearch(ABC):
    """Settings of a search with a faiss index.

    The gallery is added in blocks, so no converted copy of it is made.

    Args:
        refine: 0 keeps the scores of the index. With r > 0 the index returns r · k candidates,
            which are re-scored exactly with the gallery's descriptors.
        train_rows: See `IndexOptions`, as for the others.
        seed: Seed of the training.
        index: Folder of the saved index.
        device: Device to search on.
        block_rows: Gallery rows added together.
    """

    name: ClassVar[str]  # on the command line
    shaped_by: ClassVar[tuple[str, ...]]  # settings that determine the index, besides the training

    @checked
    def __init__(
        self,
        refine: NonNegativeInt,
        train_rows: PositiveInt | None = None,
        seed: NonNegativeInt = 0,
        index: str | None = None,
        device: Device = "auto",
        block_rows: PositiveInt = 65536,
    ) -> None:
        self.refine = refine
        self.train_rows = train_rows
        self.seed = seed
        self.index = index
        self.device = device
        self.block_rows = block_rows

    @abstractmethod
    def factory_string(self, rows: int, dim: int) -> str:
        """Return the faiss factory string of an index of (rows, dim)."""

    def parameters(self) -> str:
        """Return the search parameters in faiss's form: `nprobe=32`."""
        return ""

    def replaced(self, **settings: Any) -> Self:  # noqa: ANN401
        """Return a copy with other settings."""
        changed = copy.copy(self)
        vars(changed).update(settings)
        return changed

    def prepare(self, index: "NativeIndex") -> None:
        """Configure an empty index before it is filled."""
        del index

    def build(self, gallery: Vectors) -> "FaissIndex":
        """Build the index of a gallery (N, D), or open the saved index.

        Raises:
            UserError: The saved index has different settings or a different gallery, or faiss
                cannot build the index or search it on the device.
        """
        gpus = gpu.gpus_of(self.device)
        if self.index and len(gallery):  # an empty shard has nothing to save
            index = self._saved(Path(self.index), gallery)
        else:
            index = self._filled(gallery)
        on_gpus = gpu.on_gpus(index, gpus) if gpus else None
        if gpus and on_gpus is None and self.device != "auto":
            raise UserError(
                f"search.device={self.device}: faiss cannot copy this index to a GPU. Pass cpu."
            )
        return FaissIndex(gallery, self.replaced(index=None), index, on_gpus)

    def _filled(self, gallery: Vectors) -> "NativeIndex":
        import faiss

        rows, dim = gallery.shape
        if not rows:  # nothing to train on
            return faiss.IndexFlatIP(dim)
        text = self.factory_string(rows, dim)
        with faiss_errors(text):
            index = faiss.index_factory(dim, text, faiss.METRIC_INNER_PRODUCT)
        self.prepare(index)
        train(index, gallery, self.train_rows, self.seed, gpu.gpus_of(self.device))
        add(index, gallery, 0, self.block_rows)
        return index

    def _saved(self, path: Path, gallery: Vectors) -> "NativeIndex":
        keys = (*self.shaped_by, "train_rows", "seed")
        settings = {"search": self.name, **{key: getattr(self, key) for key in keys}}
        if saved.exists(path):
            index = saved.open_index(path, settings, gallery)
            if index.ntotal == len(gallery):  # needs no lock: it may be on a read-only disk
                return index
        with locked(path):
            if not saved.exists(path):
                # Building may take hours, so create the folder first to fail early.
                with atomic_folder(path) as folder:
                    index = self._filled(gallery)
                    saved.write(folder, index, settings, gallery)
                return index
            index = saved.open_index(path, settings, gallery)
            if index.ntotal < len(gallery):
                add(index, gallery, index.ntotal, self.block_rows)
                with atomic_folder(path, overwrite=True, marker=saved.META) as folder:
                    saved.write(folder, index, settings, gallery)
            return index


class FaissIndex(BlockwiseIndex):
    """A gallery searched with a faiss index.

    Args:
        gallery: (N, D).
        settings: Settings of the index. Assign settings with other search parameters to widen it.
        index: The faiss index.
        on_gpus: Copy of the index on GPUs. None means search on the CPU.

    Example:
        >>> from landmark.search import IVF
        >>> index = IVF(n_lists=2, n_probe=1).build(np.eye(4, dtype=np.float32))
        >>> index.settings = index.settings.replaced(n_probe=2)
        >>> index.search(np.array([[0, 0.6, 0.8, 0]]), k=2)[0].tolist()
        [[2, 1]]
    """

    query_block = 16384
    settings: FaissSearch

    def __init__(
        self,
        gallery: Vectors,
        settings: FaissSearch,
        index: "NativeIndex",
        on_gpus: "NativeIndex | None" = None,
    ) -> None:
        super().__init__(gallery, settings)
        self._index = index
        self._on_gpus = on_gpus

    def _nearest(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        refine = self.settings.refine
        rows, scores = self._candidates(query, min(len(self.gallery), k * max(1, refine)))
        if refine:
            rows, scores = rescore(query, self.gallery, rows, k)
        return rows[:, :k], scores[:, :k]

    def _candidates(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        import faiss

        index, space = self._index, faiss.ParameterSpace()
        if self._on_gpus is not None and k <= gpu.MOST_NEIGHBOURS:
            index, space = self._on_gpus, faiss.GpuParameterSpace()
        parameters = self.settings.parameters()
        if parameters:
            with faiss_errors(parameters):
                space.set_index_parameters(index, parameters)  # type: ignore[arg-type]
        scores, rows = index.search(query, k)
        scores[rows < 0] = -np.inf
        return ties_by_row(rows, scores)


def train(
    index: "NativeIndex", gallery: Vectors, rows: int | None, seed: int, gpus: list[int]
) -> None:
    """Train an index on random gallery rows; a no-op if it needs no training.

    Args:
        index: The faiss index.
        gallery: (N, D).
        rows: Number of training rows. Defaults to 64 per list of the index, at least 16,384.
        seed: Seed of the sample and of the clustering.
        gpus: GPUs to cluster on. Empty means the CPU.

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
    if ivf:
        _configure_clustering(faiss.downcast_index(ivf), seed, gpus)
    with faiss_errors(f"training on {len(sample):,} rows"):
        index.train(np.ascontiguousarray(sample))


def _configure_clustering(ivf: Any, seed: int, gpus: list[int]) -> None:  # noqa: ANN401 - many classes
    """Seed the clustering of an inverted file, and run it on the GPUs if any."""
    import faiss

    ivf.cp.seed = 1 + seed
    ivf.cp.min_points_per_centroid = 1  # suppress the warning about few rows
    if hasattr(ivf, "pq"):
        ivf.pq.cp.min_points_per_centroid = 1
    if gpus:
        flat = faiss.IndexFlatIP(ivf.d)
        ivf.clustering_index = faiss.index_cpu_to_gpus_list(flat, None, gpus)


def add(index: "NativeIndex", gallery: Vectors, first: int, block_rows: int) -> None:
    """Add the gallery rows from `first` on to an index, in blocks of `block_rows`.

    Example:
        >>> import faiss
        >>> index = faiss.IndexFlatIP(2)
        >>> add(index, np.eye(2, dtype=np.float16), first=1, block_rows=8)
        >>> index.ntotal
        1
    """
    for _, block in float32_blocks(rows_of(gallery, slice(first, len(gallery))), block_rows):
        index.add(block)


@contextmanager
def faiss_errors(subject: str) -> Iterator[None]:
    """Turn a faiss exception into a one-line `UserError`.

    Raises:
        UserError: faiss raised a RuntimeError in the block.

    Example:
        >>> import faiss
        >>> with faiss_errors("IVF4,Nonsense"):
        ...     faiss.index_factory(2, "IVF4,Nonsense")
        Traceback (most recent call last):
        landmark.error.UserError: search: faiss rejects IVF4,Nonsense (...). Pass other ...
    """
    try:
        yield
    except RuntimeError as error:
        # "Error in <function> at <file>:<line>: Error: '<condition>' failed: <reason>"
        reason = " ".join(str(error).split()).rpartition("failed: ")[2].rstrip(".")
        raise UserError(
            f"search: faiss rejects {subject} ({reason}). Pass other search settings."
        ) from error
