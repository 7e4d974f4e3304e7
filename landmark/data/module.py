"""The data of a training run: train batches, and validation queries and gallery."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from landmark.artifact.descriptors import DescriptorStore
from landmark.data.bad_images import BadImageList
from landmark.data.batches import (
    START_METHOD,
    EpochBatches,
    affordable_workers,
    default_workers,
    grouped_batches,
    ignore_interrupts,
    training_position,
)
from landmark.data.dataset import PhotoDataset
from landmark.data.image_table import ImageTable, sorted_landmarks
from landmark.data.source import Source
from landmark.data.teacher import TeacherVectors
from landmark.error import UserError
from landmark.image.format import ImageFormat
from landmark.settings import BatchSize, Seed, Workers, checked


class LandmarkData(pl.LightningDataModule):
    """Train batches of a source and its validation photos, for `Trainer.fit`.

    The trainer needs `use_distributed_sampler=False`: the batch samplers shard the epoch
    themselves.

    Args:
        source: Source of the photos.
        image_format: Sizes and augmentation of the photos.
        sampler: Batch sampler class or partial, called with the keywords of `SamplerOptions`.
        batch_size: Photos per batch on each process.
        workers: Decoding processes for each training process; 0 decodes in the training process.
            Defaults to one per CPU, at most 8.
        seed: Seed of the order and the augmentation.
        test_format: Sizes of the validation photos. Defaults to `image_format`, without
            augmentation.
        bad_images: List of the photos that `data.bad_image=skip` skips.
        teacher: Descriptor store of a distillation's teacher, with a vector of each train photo.
            Defaults to none.
        needs_landmarks: Whether every train photo needs a landmark, and training at least two.

    Attributes:
        train_table, query_table, gallery_table: Tables, set by `setup`; the last two are empty
            without validation.
        classes: Landmark id of each label; numeric ids are sorted by value.
        query_labels, gallery_labels: Labels of the validation photos, (Q,) and (N,) int; above
            those of the classes for landmarks that are not trained, -1 without a landmark.
    """

    train_table: ImageTable
    query_table: ImageTable
    gallery_table: ImageTable
    classes: list[str]
    query_labels: NDArray[np.int64]
    gallery_labels: NDArray[np.int64]
    _train: PhotoDataset

    @checked
    def __init__(
        self,
        source: Source,
        image_format: ImageFormat,
        sampler: Callable[..., Any],
        batch_size: BatchSize = 32,
        workers: Workers | None = None,
        seed: Seed = 0,
        *,
        test_format: ImageFormat | None = None,
        bad_images: BadImageList | None = None,
        teacher: DescriptorStore | None = None,
        needs_landmarks: bool = True,
    ) -> None:
        super().__init__()
        self.source = source
        self.image_format = image_format
        self.test_format = test_format or image_format
        self.batch_size = batch_size
        self.workers = default_workers() if workers is None else workers
        self.seed = seed
        self.bad_images = bad_images
        self._sampler = sampler
        self._teacher = teacher
        self._needs_landmarks = source.needs_landmarks = needs_landmarks

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002
        """Read the tables. A second call is a no-op.

        Raises:
            UserError: The source has no train photos, or fewer than two landmarks if they are
                needed, or the teacher has no vector of a train photo.
        """
        if hasattr(self, "_train"):
            return
        table = self._usable(self.source.read("train"), self.image_format)
        self.train_table, self.classes = table, table.landmarks
        if self.num_classes < 2 and self._needs_landmarks:
            raise UserError(
                f"{table.root} has train photos of fewer than two landmarks. Add landmarks, or "
                "relax data.most_frequent and data.min_photos."
            )
        query, gallery = self.source.validation()
        self.query_table = self._usable(query, self.test_format)
        self.gallery_table = self._usable(gallery, self.test_format)
        ids = [_landmarks(part) for part in (self.query_table, self.gallery_table)]
        trained = set(self.classes)
        untrained = [name for name in sorted_landmarks(pd.concat(ids)) if name not in trained]
        names = [*self.classes, *untrained]
        self.query_labels, self.gallery_labels = (_labels(column, names) for column in ids)
        labels = _labels(_landmarks(table), self.classes)
        teacher = None if self._teacher is None else TeacherVectors(self._teacher, table)
        self._train = PhotoDataset(
            table, self.image_format, labels, True, self.seed, self.bad_images, teacher
        )

    def _usable(self, table: ImageTable, image_format: ImageFormat) -> ImageTable:
        """Add the sizes that the format groups by; remove and list photos without a size."""
        if image_format.is_uniform or not len(table):
            return table
        sized = table.with_sizes()
        if self.bad_images is not None and self._replicas_and_rank()[1] == 0:
            for photo in sized.skipped.itertuples():
                self.bad_images.note(photo.id, photo.path, photo.reason)
        return sized

    @property
    def num_classes(self) -> int:
        """Number of landmarks in training."""
        return len(self.classes)

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """Number of train photos of each class, (C,)."""
        labels = self._train.labels
        return np.bincount(labels[labels >= 0], minlength=self.num_classes)

    @property
    def has_answers(self) -> bool:
        """Whether any validation query has a photo of its landmark in the gallery."""
        return bool(np.isin(self.query_labels, self.gallery_labels).any())

    def batches(self, num_replicas: int = 1, rank: int = 0) -> EpochBatches:
        """Return the train batches of one process."""
        return EpochBatches(
            self._sampler(
                groups=self._train.groups,
                labels=self._train.labels,
                batch_size=self.batch_size,
                seed=self.seed,
                num_replicas=num_replicas,
                rank=rank,
            )
        )

    def steps_per_epoch(self, num_replicas: int = 1) -> int:
        """Return the number of batches of one epoch on each process."""
        return len(self.batches(num_replicas))

    def validation_batches(self, num_replicas: int = 1) -> int:
        """Return the number of batches of queries or gallery, the larger, on each process."""
        tables = [self.query_table, self.gallery_table]
        if not all(map(len, tables)):
            return 0
        groups = [table.groups(self.test_format) for table in tables]
        return max(len(grouped_batches(part, self.batch_size, num_replicas)) for part in groups)

    def train_dataloader(self) -> DataLoader:
        """Return this process's train batches: images (B, 3, h, w) uint8, labels (B,), rows (B,).

        With a teacher its vectors (B, T) follow.

        Epoch and start batch are set here, since a resumed run prefetches before Lightning sets the
        epoch.
        """
        batches = self.batches(*self._replicas_and_rank())
        if self.trainer is not None:
            batches.set_epoch(*training_position(self.trainer, len(batches)))
        return self._loader(self._train, batches)

    def plain_train_dataloader(self) -> DataLoader:
        """Return this process's shard of the train photos, each once, without augmentation."""
        return self._plain_loader(
            self.train_table, self.image_format, self._train.labels, persistent=False
        )

    def val_dataloader(self) -> list[DataLoader]:
        """Return the loaders of queries and gallery; an empty list without validation.

        Every photo is loaded by exactly one process; a batch has one aspect group.
        """
        parts = [(self.query_table, self.query_labels), (self.gallery_table, self.gallery_labels)]
        if not all(len(table) for table, _ in parts):
            return []
        return [self._plain_loader(table, self.test_format, labels) for table, labels in parts]

    def _plain_loader(
        self,
        table: ImageTable,
        image_format: ImageFormat,
        labels: NDArray[np.int64],
        persistent: bool = True,
    ) -> DataLoader:
        dataset = PhotoDataset(table, image_format, labels, bad_images=self.bad_images)
        batches = grouped_batches(dataset.groups, self.batch_size, *self._replicas_and_rank())
        return self._loader(dataset, batches, persistent)

    def _loader(
        self,
        dataset: PhotoDataset,
        batches: EpochBatches | list[NDArray[np.int64]],
        persistent: bool = True,
    ) -> DataLoader:
        sizes = [*self.image_format.sizes, *self.test_format.sizes]
        largest = max(width * height for width, height in sizes)
        workers = affordable_workers(self.workers, 3 * largest * self.batch_size)
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(
            dataset,
            batch_sampler=batches,  # type: ignore[arg-type]
            num_workers=workers,
            persistent_workers=persistent and workers > 0,
            multiprocessing_context=START_METHOD if workers > 0 else None,
            pin_memory=on_gpu,
            worker_init_fn=ignore_interrupts,
        )

    def _replicas_and_rank(self) -> tuple[int, int]:
        if self.trainer is None:
            return 1, 0
        return self.trainer.world_size, self.trainer.global_rank


def _landmarks(table: ImageTable) -> pd.Series:
    """Return the landmark of each photo (N,), missing without the column."""
    if "landmark_id" in table.rows:
        return table.rows["landmark_id"]
    return pd.Series(None, table.rows.index, dtype="str")


def _labels(landmark_ids: pd.Series, classes: list[str]) -> NDArray[np.int64]:
    """Return each photo's index in `classes` (N,), -1 without a landmark."""
    return pd.Index(classes).get_indexer(pd.Index(landmark_ids))
