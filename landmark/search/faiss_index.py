"""The base of all searches with a faiss index: train, fill, save and search it."""

import copy
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypedDict

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from landmark.artifact.vectors import row_blocks
from landmark.device import Device
from landmark.disk.atomic import atomic_folder
from landmark.disk.lock import locked
from landmark.error import UserError
from landmark.search import coarse, gpu, saved
from landmark.search.blocks import Vectors, float32_blocks, rows_of
from landmark.search.identical import Groups, find_identical
from landmark.search.index import BlockwiseIndex, Index
from landmark.search.leading import LeadingIndex, leading
from landmark.search.native import created, faiss_errors, is_graph, keeps_products, parts_of, train
from landmark.search.top_k import rescore, ties_by_row
from landmark.settings import checked

if TYPE_CHECKING:
    from faiss import Index as NativeIndex

# faiss stores these as 32-bit integers, and larger values overflow.
Int32 = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 2)]


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
        dims: Index the first `dims` dimensions of the vectors, at unit length; with `refine` the
            candidates are rescored with all dimensions (see `LeadingIndex`). Defaults to all
            dimensions.
    """

    train_rows: PositiveInt | None
    seed: Seed
    index: str | None
    device: Device
    block_rows: PositiveInt
    dims: PositiveInt | None


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
        dims: First dimensions to index.
    """

    name: ClassVar[str]  # on the command line
    shaped_by: ClassVar[tuple[str, ...]]  # settings that determine the index, besides the training
    key: ClassVar[str] = "search"  # setting to change if faiss rejects the index
    widened_by: str  # settings that raise the recall

    @checked
    def __init__(
        self,
        refine: NonNegativeInt,
        train_rows: PositiveInt | None = None,
        seed: Seed = 0,
        index: str | None = None,
        device: Device = "auto",
        block_rows: PositiveInt = 65536,
        dims: PositiveInt | None = None,
    ) -> None:
        self.refine = refine
        self.train_rows = train_rows
        self.seed = seed
        self.index = index
        self.device = device
        self.block_rows = block_rows
        self.dims = dims
        if dims is not None:
            self.widened_by = f"search.dims, {self.widened_by}"

    @abstractmethod
    def factory_string(self, rows: int, dim: int) -> str:
        """Return the faiss factory string of an index of (rows, dim)."""

    def parameters(self, vectors: int) -> str:
        """Return the parameters to search an index of `vectors` in faiss's form: `nprobe=32`."""
        del vectors
        return ""

    def replaced(self, **settings: Any) -> Self:  # noqa: ANN401
        """Return a copy with other settings."""
        changed = copy.copy(self)
        vars(changed).update(settings)
        return changed

    def prepare(self, index: "NativeIndex") -> None:
        """Configure an empty index before it is filled."""
        del index

    def build(self, gallery: Vectors) -> Index:
        """Build the index of a gallery (N, D), or open the saved index.

        Raises:
            UserError: The saved index has different settings or a different gallery, faiss cannot
                build the index or search it on the device, or the vectors have fewer dimensions
                than `dims`.
        """
        if self.dims is None:
            return self.build_whole(gallery)
        inner = self.of_leading().build_whole(leading(gallery, self.dims))
        return LeadingIndex(gallery, self.replaced(index=None), inner, self.refine)

    def of_leading(self) -> Self:
        """Return the search of the first dimensions alone."""
        return self.replaced(dims=None, refine=0)

    def build_whole(self, gallery: Vectors) -> "FaissIndex":
        """Build or open the index of a gallery (N, D) with all its dimensions (see `build`)."""
        gpus = gpu.gpus_of(self.device)
        if self.index and len(gallery):  # an empty shard has nothing to save
            index, groups = self._saved(Path(self.index), gallery)
        else:
            index, groups = self._filled(gallery)
        on_gpus = gpu.on_gpus(index, gpus) if gpus else None
        if gpus and on_gpus is None and self.device != "auto":
            raise UserError(
                f"search.device={self.device}: faiss cannot copy this index to a GPU. Pass cpu."
            )
        return FaissIndex(gallery, self.replaced(index=None), index, on_gpus, groups)

    def _filled(self, gallery: Vectors) -> tuple["NativeIndex", Groups | None]:
        import faiss

        rows, dim = gallery.shape
        if not rows:  # nothing to train on
            return faiss.IndexFlatIP(dim), None
        index = created(dim, self.factory_string(rows, dim), self.key)
        self.prepare(index)
        train(index, gallery, self.train_rows, self.seed, gpu.gpus_of(self.device), self.key)
        groups = find_identical(gallery) if is_graph(index) else None
        self._fill(index, gallery, groups)
        return index, groups

    def _fill(self, index: "NativeIndex", gallery: Vectors, groups: Groups | None) -> None:
        """Add the vectors that the index lacks; of identical ones only the first."""
        with faiss_errors(f"adding vectors to {type(index).__name__}", self.key):
            # An NSG graph is built of all vectors in one call.
            is_nsg = any(hasattr(part, "nsg") for part in parts_of(index))
            block_rows = len(gallery) if is_nsg else self.block_rows
            if groups is None:
                add(index, gallery, index.ntotal, block_rows)
                return
            for block in row_blocks(len(groups), block_rows, index.ntotal):
                index.add(np.ascontiguousarray(gallery[groups.first[block]], np.float32))

    def _saved(self, path: Path, gallery: Vectors) -> tuple["NativeIndex", Groups | None]:
        keys = (*self.shaped_by, "train_rows", "seed")
        settings = {"search": self.name, **{key: getattr(self, key) for key in keys}}
        if saved.exists(path):
            index, groups, rows = saved.open_index(path, settings, gallery)
            if rows == len(gallery):  # needs no lock: it may be on a read-only disk
                return index, groups
        with locked(path):
            if not saved.exists(path):
                # Building may take hours, so create the folder first to fail early.
                with atomic_folder(path) as folder:
                    index, groups = self._filled(gallery)
                    saved.write(folder, index, settings, gallery)
                return index, groups
            index, groups, rows = saved.open_index(path, settings, gallery)
            if rows < len(gallery):
                self._fill(index, gallery, groups)
                with atomic_folder(path, overwrite=True, marker=saved.META) as folder:
                    saved.write(folder, index, settings, gallery)
            return index, groups


class FaissIndex(BlockwiseIndex):
    """A gallery searched with a faiss index.

    Args:
        gallery: (N, D).
        settings: Settings of the index. Assign settings with other search parameters to widen it.
        index: The faiss index.
        on_gpus: Copy of the index on GPUs. None means search on the CPU.
        groups: Groups of identical rows, if the index holds one vector of each. None means that it
            holds all rows.

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
        groups: Groups | None = None,
    ) -> None:
        super().__init__(gallery, settings)
        self._index = index
        self._on_gpus = on_gpus
        self._groups = groups
        self._least_refine = 0 if keeps_products(index) else 1

    def _nearest(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        groups = self._groups
        vectors = len(self.gallery) if groups is None else len(groups)
        hits, refine = min(k, vectors), max(self.settings.refine, self._least_refine)
        rows, scores = self._candidates(query, min(vectors, k * max(1, refine)))
        if groups is not None:
            rows = np.where(rows < 0, -1, groups.first[np.maximum(rows, 0)])
        if refine:
            rows, scores = rescore(query, self.gallery, rows, hits)
        if groups is not None:
            return groups.expanded(rows[:, :hits], scores[:, :hits], k)
        return rows[:, :hits], scores[:, :hits]

    def _candidates(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        import faiss

        index, space = self._index, faiss.ParameterSpace()
        if self._on_gpus is not None and k <= gpu.MOST_NEIGHBOURS:
            index, space = self._on_gpus, faiss.GpuParameterSpace()
        parameters = self.settings.parameters(self._index.ntotal)
        with faiss_errors(parameters or "the search", self.settings.key):
            if parameters:
                space.set_index_parameters(index, parameters)  # type: ignore[arg-type]
            if index is self._index and coarse.is_faster(index, len(query)):
                scores, rows = coarse.search(index, query, k)
            else:
                scores, rows = index.search(query, k)
        scores[rows < 0] = -np.inf
        return ties_by_row(rows, scores)


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
        if coarse.is_faster(index, len(block)):
            coarse.add(index, block)
        else:
            index.add(block)
