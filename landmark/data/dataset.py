"""Tables of photos as torch datasets, free of Python objects per photo."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from landmark.data.image_table import ImageTable
from landmark.image.decode import Box
from landmark.image.format import ImageFormat

EpochRow = tuple[int, int]


class _Photos:
    """Paths, boxes and aspect groups of a table in flat buffers, which forked workers share."""

    def __init__(self, table: ImageTable, image_format: ImageFormat) -> None:
        self.root = str(table.root)
        self.paths = pa.array(table.rows["path"], pa.large_string())
        self.boxes = table.boxes
        self.groups = table.groups(image_format)

    def path(self, row: int) -> str:
        return f"{self.root}/{self.paths[row].as_py()}"

    def box(self, row: int) -> Box | None:
        if self.boxes is None or np.isnan(self.boxes[row]).any():
            return None
        left, top, right, bottom = self.boxes[row].tolist()
        return left, top, right, bottom


class PhotoDataset(Dataset[tuple[torch.Tensor, int, int]]):
    """Items (uint8 image (3, h, w), label, row), the image of its aspect group's size.

    An index is a row or a pair (epoch, row). In training a photo's view depends on
    (seed, epoch, row) alone: not on the worker that draws it, nor on what was drawn before.

    Args:
        table: N photos.
        image_format: sizes and augmentation.
        labels: (N,) int; none gives -1.
        train: augmented views instead of the whole photo.
        seed: of the views.

    Attributes:
        groups: aspect group of each photo, (N,) int.
        labels: (N,) int.
    """

    def __init__(
        self,
        table: ImageTable,
        image_format: ImageFormat,
        labels: NDArray[np.integer] | None = None,
        train: bool = False,
        seed: int = 0,
    ) -> None:
        self._photos = _Photos(table, image_format)
        self._format = image_format
        self.labels = np.full(len(table), -1) if labels is None else np.asarray(labels)
        if len(self.labels) != len(table):
            raise ValueError(f"{len(self.labels)} labels for {len(table)} photos")
        self._train = train
        self._seed = seed
        self.groups = self._photos.groups

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | EpochRow) -> tuple[torch.Tensor, int, int]:
        epoch, row = index if isinstance(index, tuple) else (0, int(index))
        path, box, group = self._photos.path(row), self._photos.box(row), int(self.groups[row])
        if self._train:
            image = self._format.train_image(path, group, (self._seed, epoch, row), box)
        else:
            image = self._format.image(path, self._format.size(group), box)
        return image, int(self.labels[row]), row


class ScaledPhotoDataset(Dataset[tuple[list[torch.Tensor], int]]):
    """Items (one uint8 image (3, h, w) a scale, row), each photo decoded once.

    Args:
        table: N photos.
        image_format: sizes of the aspect groups and how they scale.
        scales: factors on the group's size, 1 the size itself.

    Attributes:
        groups: aspect group of each photo, (N,) int.
    """

    def __init__(
        self, table: ImageTable, image_format: ImageFormat, scales: Sequence[float] = (1.0,)
    ) -> None:
        self._photos = _Photos(table, image_format)
        self._format = image_format
        self._scales = tuple(scales)
        self.groups = self._photos.groups

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, row: int) -> tuple[list[torch.Tensor], int]:
        row = int(row)
        sizes = [self._format.scaled_size(int(self.groups[row]), scale) for scale in self._scales]
        images = self._format.images(self._photos.path(row), sizes, self._photos.box(row))
        return images, row
