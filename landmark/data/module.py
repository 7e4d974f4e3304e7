"""The data of a training run: train batches, and validation as queries and gallery."""

import sys
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from landmark.data.bad_images import BadImageList
from landmark.data.batches import default_workers, grouped_batches
from landmark.data.dataset import PhotoDataset
from landmark.data.epochs import EpochBatches, place_in_training
from landmark.data.image_table import ImageTable, sorted_landmarks
from landmark.data.source import Source
from landmark.error import UserError
from landmark.image.format import ImageFormat

# The default on Linux until Python 3.14, but not within a job that joblib started: there workers
# would be sent copies of everything, which not all of it allows.
_FORK = "fork" if sys.platform == "linux" else None


class LandmarkData(pl.LightningDataModule):
    """Train batches of a source and its validation photos, for `Trainer.fit`.

    The trainer needs `use_distributed_sampler=False`: the batch samplers share the epoch among the
    processes themselves.

    Args:
        source: where the photos come from.
        image_format: their sizes and augmentation.
        sampler: batch sampler class or partial; called with groups, labels, batch_size, seed,
            num_replicas, rank.
        batch_size: photos a batch on each process.
        workers: processes that decode, on each process; 0 decodes in the training process; None:
            one a core, at most 8.
        seed: of the order and the augmentation.
        test_format: sizes of the validation photos; none: `image_format`, without augmentation.
        bad_images: where the photos are noted that `data.bad_image=skip` leaves out.

    Attributes:
        train_table, query_table, gallery_table: after `setup`; the last two without rows where
            nothing validates.
        classes: landmark ids; the place is the label.
        query_labels, gallery_labels: (Q,), (N,) int of the validation photos, equal where the
            landmark is the same; beyond `num_classes` for landmarks that are not trained.
    """

    def __init__(
        self,
        source: Source,
        image_format: ImageFormat,
        sampler: Callable[..., Any],
        batch_size: int = 32,
        workers: int | None = None,
        seed: int = 0,
        *,
        test_format: ImageFormat | None = None,
        bad_images: BadImageList | None = None,
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

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002
        """Read the tables; once, however often it is called.

        Raises:
            UserError: the source has no train photos, or fewer than two landmarks.
        """
        if self.num_classes < 2:
            raise UserError(
                f"{self.train_table.root}: training needs photos of two landmarks or more"
            )
        _ = self.query_labels

    @cached_property
    def train_table(self) -> ImageTable:
        """The photos to train with."""
        return self._usable(self.source.read("train"), self.image_format)

    @cached_property
    def _validation(self) -> tuple[ImageTable, ImageTable]:
        query, gallery = self.source.validation()
        return self._usable(query, self.test_format), self._usable(gallery, self.test_format)

    def _usable(self, table: ImageTable, image_format: ImageFormat) -> ImageTable:
        """The table with the sizes that the format groups by, without the photos that have none."""
        if image_format.is_uniform or not len(table):
            return table
        sized = table.with_sizes()
        if self.bad_images is not None and self._place()[1] == 0:
            for photo in sized.skipped.itertuples():
                self.bad_images.note(photo.id, photo.path, photo.reason)
        return sized

    @property
    def query_table(self) -> ImageTable:
        """The validation queries."""
        return self._validation[0]

    @property
    def gallery_table(self) -> ImageTable:
        """The photos that validation searches."""
        return self._validation[1]

    @property
    def has_validation(self) -> bool:
        """Whether there are both queries and a gallery."""
        return bool(len(self.query_table) and len(self.gallery_table))

    @property
    def has_answers(self) -> bool:
        """Whether a validation query has a photo of its landmark to find."""
        return bool(np.isin(self.query_labels, self.gallery_labels).any())

    @cached_property
    def classes(self) -> list[str]:
        """Landmark ids, place = label; numeric ids in the order of their values."""
        return self.train_table.landmarks

    @property
    def num_classes(self) -> int:
        """The number of landmarks trained on."""
        return len(self.classes)

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """Train photos of each class, (C,)."""
        return np.bincount(self._train_dataset.labels, minlength=self.num_classes)

    @property
    def query_labels(self) -> NDArray[np.int64]:
        """(Q,) int."""
        return self._validation_labels[0]

    @property
    def gallery_labels(self) -> NDArray[np.int64]:
        """(N,) int."""
        return self._validation_labels[1]

    @cached_property
    def _validation_labels(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        ids = [table.rows["landmark_id"] for table in self._validation]
        known = set(self.classes)
        new = [name for name in sorted_landmarks(pd.concat(ids)) if name not in known]
        query, gallery = (labels_of(column, [*self.classes, *new]) for column in ids)
        return query, gallery

    @cached_property
    def _train_dataset(self) -> PhotoDataset:
        labels = labels_of(self.train_table.rows["landmark_id"], self.classes)
        return PhotoDataset(
            self.train_table, self.image_format, labels, True, self.seed, self.bad_images
        )

    def batches(self, num_replicas: int = 1, rank: int = 0) -> EpochBatches:
        """Return the train batches of one process."""
        dataset = self._train_dataset
        return EpochBatches(
            self._sampler(
                groups=dataset.groups,
                labels=dataset.labels,
                batch_size=self.batch_size,
                seed=self.seed,
                num_replicas=num_replicas,
                rank=rank,
            )
        )

    def steps_per_epoch(self, num_replicas: int = 1) -> int:
        """Return the batches of one epoch on each process."""
        return len(self.batches(num_replicas))

    def train_dataloader(self) -> DataLoader:
        """Return this process's train batches: images (B, 3, h, w) uint8, labels (B,), rows (B,).

        A resumed run starts its prefetching before Lightning names the epoch, so epoch and start
        batch are set here.
        """
        batches = self.batches(*self._place())
        if self.trainer is not None:
            batches.set_epoch(*place_in_training(self.trainer, len(batches)))
        return self._loader(self._train_dataset, batches)

    def plain_train_dataloader(self) -> DataLoader:
        """Return this process's share of the train photos, each once and without augmentation.

        The batches are those of `train_dataloader` in form.
        """
        replicas, rank = self._place()
        labels = self._train_dataset.labels
        dataset = PhotoDataset(
            self.train_table, self.image_format, labels, bad_images=self.bad_images
        )
        batches = grouped_batches(dataset.groups, self.batch_size, replicas, rank)
        return self._loader(dataset, batches, persistent=False)

    def val_dataloader(self) -> list[DataLoader]:
        """Return loaders of the queries and of the gallery: no loader without validation.

        Every photo is on exactly one process; batches hold one aspect group.
        """
        if not self.has_validation:
            return []
        replicas, rank = self._place()
        loaders = []
        for table, labels in zip(self._validation, self._validation_labels, strict=True):
            dataset = PhotoDataset(table, self.test_format, labels, bad_images=self.bad_images)
            batches = grouped_batches(dataset.groups, self.batch_size, replicas, rank)
            loaders.append(self._loader(dataset, batches))
        return loaders

    def _place(self) -> tuple[int, int]:
        if self.trainer is None:
            return 1, 0
        return self.trainer.world_size, self.trainer.global_rank

    def _is_on_gpu(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _loader(
        self,
        dataset: PhotoDataset,
        batches: Any,  # noqa: ANN401
        persistent: bool = True,
    ) -> DataLoader:
        return DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=self.workers,
            persistent_workers=persistent and self.workers > 0,
            multiprocessing_context=_FORK if self.workers > 0 else None,
            pin_memory=self._is_on_gpu(),
        )


def labels_of(landmark_ids: pd.Series, classes: list[str]) -> NDArray[np.int64]:
    """Return each photo's place in `classes` (N,), -1 without landmark."""
    return pd.Index(classes).get_indexer(pd.Index(landmark_ids))
