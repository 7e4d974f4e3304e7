"""What every search with a faiss index shares: building, keeping, saving, asking."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from landmark.artifact.stacked import StackedVectors
from landmark.disk.atomic import atomic_folder
from landmark.error import UserError
from landmark.search import gpu, saved
from landmark.search.build import add, empty_index, faiss_errors, train
from landmark.search.exact import check_shapes
from landmark.search.kept import Kept
from landmark.search.rescore import rescore
from landmark.search.top_k import pads, ties_by_row

if TYPE_CHECKING:
    from faiss import Index

_QUERIES_AT_ONCE = 16384


@dataclass(frozen=True, eq=False)
class _Ready:
    """An index, and its copy on the GPUs where there is one."""

    index: "Index"
    on_gpus: "Index | None"


class Indexed(ABC):
    """A search with a faiss index of the gallery, built on the first call and kept.

    The gallery is added in blocks and never converted whole. The index is kept for the gallery
    array it was built of, and that of one more array, say the train photos.

    With `index`, the first gallery searched is indexed in that folder: written where there is
    none, opened where there is, and where the gallery has grown by rows at its end only those are
    added. Other galleries of the same run, train photos or augmented descriptors, are indexed in
    memory alone.

    Args:
        refine: 0 leaves the scores of the index; r takes r · k candidates from it and puts them in
            order by their exact scores, read from the gallery.
        train_rows: Gallery rows to train the index on, drawn at random; none: 64 a list, at least
            16,384.
        seed: Of the training.
        index: Folder of the saved index; none: not saved.
        device: As of `Flat`; `auto` leaves on the CPU what faiss cannot search on a GPU.
        block_rows: Gallery rows added at once.

    Raises:
        UserError: A setting is out of its range.
    """

    def __init__(
        self,
        refine: int,
        train_rows: int | None,
        seed: int,
        index: str | None,
        device: str,
        block_rows: int,
    ) -> None:
        gpu.check_device(device)
        check_least("refine", refine, 0)
        check_least("train_rows", train_rows, 1)
        check_least("block_rows", block_rows, 1)
        self.refine = refine
        self.train_rows = train_rows
        self.seed = seed
        self.index = index
        self.device = device
        self.block_rows = block_rows
        self._kept: Kept[_Ready] = Kept()
        self._folder_taken = False

    @abstractmethod
    def description(self, rows: int, dim: int) -> str:
        """The faiss factory string of an index of (rows, dim)."""

    @abstractmethod
    def parameters(self) -> str:
        """The settings of the search, as faiss writes them: `nprobe=32`."""

    @abstractmethod
    def built_with(self) -> dict[str, Any]:
        """The settings that shape the index, as given."""

    def widen(self, rows: int, k: int) -> bool:
        """Looks twice as wide from now on; False where it sees all of (rows, D) for k already."""
        if not 0 < self.refine * k < rows:
            return False
        self.refine *= 2
        return True

    def shape(self, index: "Index") -> None:
        """Sets what an empty index is told before it is filled."""
        del index

    def __call__(
        self, query: np.ndarray, gallery: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search a gallery.

        Args:
            query: (Q, D).
            gallery: (N, D), C order; may be several stacked (`StackedVectors`).
            k: Neighbours a query; may be more than N.

        Returns:
            rows (Q, k) int32 by falling score, -1 where no more were found; and their scores
            (Q, k) float32, -inf there. Equal scores come in the order of their rows.

        Raises:
            ValueError: k is below 1, or the dimensions differ.
            UserError: The saved index is of other settings or another gallery, or faiss cannot
                build the index.
        """
        check_shapes(query, gallery, k)
        rows, scores = pads(len(query), k)
        found = min(k, len(gallery))
        if not found or not len(query):
            return rows, scores
        ready = self._ready(gallery)
        candidates = min(len(gallery), k * max(1, self.refine))
        for first in range(0, len(query), _QUERIES_AT_ONCE):
            part = slice(first, first + _QUERIES_AT_ONCE)
            asked = np.ascontiguousarray(query[part], np.float32)
            at, values = self._ask(ready, asked, candidates)
            if self.refine:
                at, values = rescore(asked, gallery, at, found)
            rows[part, :found], scores[part, :found] = at[:, :found], values[:, :found]
        return rows, scores

    def _ask(self, ready: _Ready, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        import faiss

        index, space = ready.index, faiss.ParameterSpace()
        if ready.on_gpus is not None and k <= gpu.MOST_NEIGHBOURS:
            index, space = ready.on_gpus, faiss.GpuParameterSpace()
        if self.parameters():
            with faiss_errors(self.parameters()):
                space.set_index_parameters(index, self.parameters())  # type: ignore[arg-type]
        scores, rows = index.search(query, k)
        scores[rows < 0] = -np.inf
        return ties_by_row(rows, scores)

    def _ready(self, gallery: np.ndarray | StackedVectors) -> _Ready:
        ready = self._kept.get(gallery)
        if ready is None:
            self._kept.make_room()
            folder = None if self._folder_taken else self.index
            self._folder_taken = True
            gpus = gpu.gpus_of(self.device)
            index = self._saved(Path(folder), gallery) if folder else self._built(gallery)
            on_gpus = gpu.on_gpus(index, gpus) if gpus else None
            if gpus and on_gpus is None and self.device != "auto":
                raise UserError(
                    f"search.device={self.device}: faiss cannot hold this index there; choose cpu"
                )
            ready = _Ready(index, on_gpus)
            self._kept.put(gallery, ready)
        return ready

    def _built(self, gallery: np.ndarray | StackedVectors) -> "Index":
        rows, dim = gallery.shape
        index = empty_index(self.description(rows, dim), dim)
        self.shape(index)
        train(index, gallery, self.train_rows, self.seed, gpu.gpus_of(self.device))
        add(index, gallery, 0, self.block_rows)
        return index

    def _saved(self, path: Path, gallery: np.ndarray | StackedVectors) -> "Index":
        settings = {**self.built_with(), "train_rows": self.train_rows, "seed": self.seed}
        if not saved.is_there(path):
            # The place is tried before the building, which may take hours.
            with atomic_folder(path) as folder:
                index = self._built(gallery)
                saved.write(folder, index, settings, gallery)
            return index
        index = saved.open_index(path, settings, gallery)
        if index.ntotal < len(gallery):
            add(index, gallery, index.ntotal, self.block_rows)
            saved.save(path, index, settings, gallery)
        return index


def check_least(name: str, value: int | None, least: int) -> None:
    """Refuses a setting below its least value.

    Raises:
        UserError: Names the setting.
    """
    if value is not None and value < least:
        raise UserError(f"search.{name}={value} must be {least} or more")


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Refuses a setting that is none of the choices.

    Raises:
        UserError: Names the setting and the choices.
    """
    if value not in choices:
        raise UserError(f"search.{name}={value} must be one of {', '.join(choices)}")
