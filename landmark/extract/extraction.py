"""An extraction: which photos are described, with what and how."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.unfinished import UnfinishedStore
from landmark.data.batches import default_workers, grouped_batches
from landmark.data.dataset import ScaledPhotoDataset
from landmark.data.image_table import ImageTable
from landmark.error import UserError
from landmark.extract.describe import choose_device, describe
from landmark.extract.multiscale import MultiScale
from landmark.extract.whitening import Whitening
from landmark.image.format import ImageFormat
from landmark.model.embedder import Embedder
from landmark.model.persist import load_embedder

_LENGTH_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Extraction:
    """What every process of an extraction needs to know.

    Attributes:
        embedder: folder of the embedder, or a checkpoint.
        table: N photos with their sizes.
        image_format: sizes of the aspect groups.
        method: scales and flip.
        whitening: what the descriptors go through last; none: nothing.
        batch_size: photos at once.
        workers: processes that decode for each that describes; None: one a core, at most 8.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `32`, `bf16` or `16`: of the forward passes.
        save_every: seconds after which what was described is safe from a kill.
    """

    embedder: Path
    table: ImageTable
    image_format: ImageFormat
    method: MultiScale
    whitening: Whitening | None = None
    batch_size: int = 32
    workers: int | None = None
    device: str = "auto"
    precision: str = "32"
    save_every: float = 10.0

    def only(self, rows: NDArray[np.int64]) -> "Extraction":
        """The same for some rows of the table."""
        chosen = self.table.rows.iloc[rows].reset_index(drop=True)
        return replace(self, table=replace(self.table, rows=chosen))

    def batches(self) -> list[NDArray[np.int64]]:
        """The batches of all photos; they do not depend on the number of processes."""
        return grouped_batches(self.table.groups(self.image_format), self.batch_size)

    def run(
        self,
        work: UnfinishedStore,
        batches: Sequence[NDArray[np.int64]],
        report: Callable[[int], object],
        *,
        number: int = 0,
        of: int = 1,
        embedder: Embedder | None = None,
    ) -> None:
        """Describes some batches into `work` and marks them done there.

        Args:
            work: takes the vectors.
            batches: this process's.
            report: is told how many photos were described, batch by batch.
            number: of this process among those of the machine.
            of: how many they are.
            embedder: the embedder, where it is loaded already.

        Raises:
            UserError: a photo cannot be read, or its descriptor is not of unit length.
        """
        described = describe(
            embedder or load_embedder(self.embedder)[0],
            ScaledPhotoDataset(self.table, self.image_format, self.method.scales),
            batches,
            self.method,
            workers=self._workers(of),
            device=choose_device(self.device, number, of),
            precision=self.precision,
        )
        saved = time.monotonic()
        try:
            for rows, descriptors in described:
                self._check(rows, descriptors)
                work.add(rows, self.whitening(descriptors) if self.whitening else descriptors)
                if time.monotonic() - saved >= self.save_every:
                    work.save()
                    saved = time.monotonic()
                report(len(rows))
        finally:
            work.save()

    def _workers(self, of: int) -> int:
        if self.workers is not None:
            return self.workers
        return min(8, max(1, default_workers(most=1 << 16) // of))

    def _check(self, rows: NDArray[np.int64], descriptors: NDArray[np.float32]) -> None:
        lengths = np.linalg.norm(descriptors, axis=1)
        # NaN compares false, so this also finds what is not finite.
        wrong = ~(np.abs(lengths - 1) <= _LENGTH_TOLERANCE) & (rows >= 0)
        if wrong.any():
            at = int(wrong.argmax())
            path = self.table.rows["path"].iloc[int(rows[at])]
            raise UserError(
                f"{self.table.root}/{path}: its descriptor has length {lengths[at]:.4g}; "
                "the embedder gives no usable numbers at this precision"
            )
