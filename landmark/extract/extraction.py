"""The work of each process of an extraction: describe batches and save the vectors."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.local_features import LocalFeatures
from landmark.artifact.local_parts import PartialLocal
from landmark.artifact.partial_store import PartialStore
from landmark.artifact.projection import Projection
from landmark.data.batches import default_workers, grouped_batches
from landmark.data.dataset import ScaledPhotoDataset
from landmark.data.image_table import ImageTable
from landmark.device import Device, Precision, torch_device
from landmark.disk.space import disk_errors
from landmark.error import UserError
from landmark.extract.describe import Described, describe, describe_locally
from landmark.extract.local import LocalExtraction, LocalRecorder
from landmark.extract.multiscale import MultiScale
from landmark.image.format import ImageFormat
from landmark.model.embedder import Embedder
from landmark.model.persist import load_embedder
from landmark.processes import notice

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
        whitening: Whitening or adapter, or a chain of them, applied to every descriptor. None means
            neither.
        batch_size: Photos per batch.
        workers: Decoding processes per extraction process. None means one per CPU, at most 8.
        device: Device of the embedder: auto, cpu, mps, cuda or cuda:N.
        precision: Precision of the forward passes.
        save_every: Seconds between saves; saved descriptors survive a kill.
        local: Local features to compute from the same photos.
        store: The complete store whose rows are those of the table, and get only local features.
        landmarks_known: The background of the local features leaves out the pool's photos of the
            same landmark: for train photos, whose landmarks are no secret.
    """

    embedder: Path
    table: ImageTable
    image_format: ImageFormat
    method: MultiScale
    whitening: Projection | None = None
    batch_size: int = 32
    workers: int | None = None
    device: Device = "auto"
    precision: Precision = "32"
    save_every: float = 10.0
    local: tuple[LocalExtraction, ...] = ()
    store: Path | None = None
    landmarks_known: bool = False

    def subset(self, rows: NDArray[np.int64]) -> "Extraction":
        """Return the extraction of a subset of the rows of the table."""
        subset = self.table.rows.iloc[rows].reset_index(drop=True)
        return replace(self, table=replace(self.table, rows=subset))

    @property
    def known_landmarks(self) -> NDArray[Any] | None:
        """Landmarks of the photos, if the background may depend on them."""
        return self.table.landmark_ids if self.landmarks_known else None

    def with_pool(self, one: LocalExtraction, embedder: Embedder) -> LocalExtraction:
        """Return local features with a pool that is drawn from the photos of this extraction."""
        assert one.pool_source is not None
        rows = one.pool_source.rows(len(self.table))
        without = replace(one, pool=None, pool_source=None)
        drawn = replace(self.subset(rows), local=(without,), store=None)
        workers = default_workers() if self.workers is None else self.workers
        device = torch_device(self.device)
        photos: list[LocalFeatures] = []
        landmarks: list[str] = []
        vectors: list[NDArray[np.floating]] = []
        of_table = drawn.known_landmarks
        for batch in drawn._described(drawn.batches(), workers, device, embedder):
            assert batch.descriptors is not None
            for row, vector, features in zip(
                batch.rows.tolist(), batch.descriptors, batch.local[0], strict=True
            ):
                if features is not None:
                    photos.append(features)
                    landmarks.append("" if of_table is None else of_table[row] or "")
                    vectors.append(vector)
        return replace(one, pool=one.pool_source.draw(photos, landmarks, np.array(vectors)))

    def batches(self) -> list[NDArray[np.int64]]:
        """Return the batches of all photos, independent of the number of processes."""
        return grouped_batches(self.table.groups(self.image_format), self.batch_size)

    def run(
        self,
        work: PartialStore | PartialLocal,
        batches: Batches,
        report: Callable[[int], object],
        *,
        local_rank: int = 0,
        local_world_size: int = 1,
        embedder: Embedder | None = None,
    ) -> None:
        """Describe batches, write vectors and local features to `work` and mark them done.

        Args:
            work: Partial store, or partial local features, to write to.
            batches: Batches of this process.
            report: Called with the number of photos after each batch.
            local_rank: Rank of this process on this machine.
            local_world_size: Number of processes on this machine.
            embedder: The loaded embedder. Defaults to loading it.

        Raises:
            UserError: A photo cannot be read, its descriptor is not of unit length, a local feature
                is not finite, or the disk is full.
        """
        workers = default_workers(local_world_size) if self.workers is None else self.workers
        device = torch_device(self.device, local_rank, local_world_size)
        described = self._described(batches, workers, device, embedder)
        with self._recorder(work) as recorder:
            saved = time.monotonic()
            try:
                for batch in described:
                    # The features are first, here and below: a row with a vector is done.
                    recorder.add(batch.rows, batch.descriptors, batch.local)
                    if batch.descriptors is not None and isinstance(work, PartialStore):
                        work.add(batch.rows, batch.descriptors)
                    if time.monotonic() - saved >= self.save_every:
                        recorder.save()
                        work.save()
                        saved = time.monotonic()
                    report(len(batch.rows))
            finally:
                recorder.save()
                work.save()

    def _described(
        self, batches: Batches, workers: int, device: torch.device, embedder: Embedder | None
    ) -> Iterator[Described]:
        """Yield the batches with checked and whitened descriptors."""
        options: Any = {"workers": workers, "device": device, "precision": self.precision}
        needs_embedder = self.store is None or any(one.from_maps for one in self.local)
        if needs_embedder:
            embedder = embedder or load_embedder(self.embedder)[0]
        described: Iterator[Described]
        if not self.local:
            photos = ScaledPhotoDataset(self.table, self.image_format, self.method.scales)
            pairs = describe(embedder, photos, batches, self.method, **options)  # type: ignore[arg-type]
            described = (Described(rows, vectors, []) for rows, vectors in pairs)
        else:
            described = describe_locally(
                embedder if needs_embedder else None,
                self.table,
                self.image_format,
                batches,
                self.method,
                self.local,
                **options,
            )
        for batch in described:
            if self.store is not None:
                yield self._of_store(batch)
                continue
            self._check_lengths(batch.rows, batch.descriptors)
            if self.whitening and batch.descriptors is not None:
                whitened = self.whitening(batch.descriptors)
                yield Described(batch.rows, whitened, batch.local)
            else:
                yield batch

    def _of_store(self, batch: Described) -> Described:
        """Return the batch with the store's descriptors; unreadable photos have no features."""
        is_skipped = batch.rows < 0
        rows = np.where(is_skipped, -batch.rows - 1, batch.rows)
        if is_skipped.any():
            path = self.table.rows["path"].iloc[int(rows[is_skipped][0])]
            notice(
                f"{int(is_skipped.sum())} photos of the store cannot be read now, such as "
                f"{self.table.root}/{path}: they have no local features."
            )
        sizes = self.table.rows[["width", "height"]].to_numpy()[rows].tolist()
        local: list[list[LocalFeatures | None]] = [
            [
                one.without_features((width, height)) if features is None else features
                for features, (width, height) in zip(photos, sizes, strict=True)
            ]
            for one, photos in zip(self.local, batch.local, strict=True)
        ]
        vectors = None if self._vectors is None else self._vectors[rows]
        return Described(rows, vectors, local)

    @cached_property
    def _vectors(self) -> NDArray[np.floating] | None:
        """The store's vectors, if a background leaves out photos that are close to them."""
        if self.store is None or all(one.pool is None for one in self.local):
            return None
        return DescriptorStore.open(self.store).vectors

    @contextmanager
    def _recorder(self, work: PartialStore | PartialLocal) -> Iterator[LocalRecorder]:
        if not self.local:
            yield LocalRecorder((), self.table, (), None)
            return
        folders = [work.parts(one.name) for one in self.local]
        with (
            disk_errors(work.folder, within=work.folder),
            LocalRecorder(self.local, self.table, folders, self.known_landmarks) as recorder,
        ):
            yield recorder

    def _check_lengths(
        self, rows: NDArray[np.int64], descriptors: NDArray[np.float32] | None
    ) -> None:
        assert descriptors is not None  # there is an embedder
        lengths = np.linalg.norm(descriptors, axis=1)
        wrong = ~(np.abs(lengths - 1) <= _LENGTH_TOLERANCE) & (rows >= 0)  # NaN is wrong too
        if wrong.any():
            first = int(wrong.argmax())
            path = self.table.rows["path"].iloc[int(rows[first])]
            raise UserError(
                f"{self.table.root}/{path}: the descriptor has length {lengths[first]:.4g}. Use "
                "another embedder, or precision=32."
            )
