"""The work of each process of an extraction: describe batches and save the vectors."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.partial_store import PartialStore
from landmark.artifact.whitening import Whitening
from landmark.data.batches import default_workers, grouped_batches
from landmark.data.dataset import ScaledPhotoDataset
from landmark.data.image_table import ImageTable
from landmark.device import Device, Precision, torch_device
from landmark.error import UserError
from landmark.extract.describe import describe
from landmark.extract.multiscale import MultiScale
from landmark.image.format import ImageFormat
from landmark.model.embedder import Embedder
from landmark.model.persist import load_embedder

Batches = Sequence[NDArray[np.int64]]

_LENGTH_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Extraction:
    """The photos and settings of an extraction; pickled for worker processes.

    Attributes:
        embedder: Folder of the embedder, or a checkpoint.
        table: N photos with their sizes.
        image_format: Sizes of the aspect groups.
        method: Scales and flip.
        whitening: Whitening applied to every descriptor. None means no whitening.
        batch_size: Photos per batch.
        workers: Decoding processes per extraction process. None means one per CPU, at most 8.
        device: Device of the embedder: auto, cpu, mps, cuda or cuda:N.
        precision: Precision of the forward passes.
        save_every: Seconds between saves; saved descriptors survive a kill.
    """

    embedder: Path
    table: ImageTable
    image_format: ImageFormat
    method: MultiScale
    whitening: Whitening | None = None
    batch_size: int = 32
    workers: int | None = None
    device: Device = "auto"
    precision: Precision = "32"
    save_every: float = 10.0

    def subset(self, rows: NDArray[np.int64]) -> "Extraction":
        """Return the extraction of a subset of the rows of the table."""
        subset = self.table.rows.iloc[rows].reset_index(drop=True)
        return replace(self, table=replace(self.table, rows=subset))

    def batches(self) -> list[NDArray[np.int64]]:
        """Return the batches of all photos, independent of the number of processes."""
        return grouped_batches(self.table.groups(self.image_format), self.batch_size)

    def run(
        self,
        work: PartialStore,
        batches: Batches,
        report: Callable[[int], object],
        *,
        local_rank: int = 0,
        local_world_size: int = 1,
        embedder: Embedder | None = None,
    ) -> None:
        """Describe batches, write the vectors to `work` and mark them done.

        Args:
            work: Partial store to write to.
            batches: Batches of this process.
            report: Called with the number of photos after each batch.
            local_rank: Rank of this process on this machine.
            local_world_size: Number of processes on this machine.
            embedder: The loaded embedder. Defaults to loading it.

        Raises:
            UserError: A photo cannot be read, or its descriptor is not of unit length.
        """
        workers = default_workers(local_world_size) if self.workers is None else self.workers
        described = describe(
            embedder or load_embedder(self.embedder)[0],
            ScaledPhotoDataset(self.table, self.image_format, self.method.scales),
            batches,
            self.method,
            workers=workers,
            device=torch_device(self.device, local_rank, local_world_size),
            precision=self.precision,
        )
        saved = time.monotonic()
        try:
            for rows, descriptors in described:
                self._check_lengths(rows, descriptors)
                work.add(rows, self.whitening(descriptors) if self.whitening else descriptors)
                if time.monotonic() - saved >= self.save_every:
                    work.save()
                    saved = time.monotonic()
                report(len(rows))
        finally:
            work.save()

    def _check_lengths(self, rows: NDArray[np.int64], descriptors: NDArray[np.float32]) -> None:
        lengths = np.linalg.norm(descriptors, axis=1)
        wrong = ~(np.abs(lengths - 1) <= _LENGTH_TOLERANCE) & (rows >= 0)  # NaN is wrong too
        if wrong.any():
            first = int(wrong.argmax())
            path = self.table.rows["path"].iloc[int(rows[first])]
            raise UserError(
                f"{self.table.root}/{path}: the descriptor has length {lengths[first]:.4g}. Use "
                "another embedder, or precision=32."
            )
