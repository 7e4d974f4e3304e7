"""Tables of photos as torch datasets, free of Python objects per photo."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from landmark.data.bad_images import BadImageList, reason_of, skipped_row
from landmark.data.image_table import ImageTable
from landmark.error import UserError
from landmark.image.decode import Box
from landmark.image.format import ImageFormat

EpochRow = tuple[int, int]


class _Photos:
    """Paths, boxes and aspect groups of a table in flat buffers, which forked workers share."""

    def __init__(
        self, table: ImageTable, image_format: ImageFormat, bad_images: BadImageList | None
    ) -> None:
        self.root = str(table.root)
        self.ids = pa.array(table.rows["id"], pa.large_string())
        self.paths = pa.array(table.rows["path"], pa.large_string())
        self.boxes = table.boxes
        self.groups = table.groups(image_format)
        self.skips = table.bad_image == "skip"
        self._bad_images = bad_images

    def path(self, row: int) -> str:
        return f"{self.root}/{self.paths[row].as_py()}"

    def box(self, row: int) -> Box | None:
        if self.boxes is None or np.isnan(self.boxes[row]).any():
            return None
        left, top, right, bottom = self.boxes[row].tolist()
        return left, top, right, bottom

    def bad(self, row: int, mistake: UserError) -> None:
        """Notes a photo that turned out broken; where none may be skipped, raises the mistake."""
        if not self.skips:
            raise mistake
        if self._bad_images is not None:
            reason = reason_of(str(mistake), self.path(row))
            self._bad_images.note(self.ids[row].as_py(), self.paths[row].as_py(), reason)


class PhotoDataset(Dataset[tuple[torch.Tensor, int, int]]):
    """Items (uint8 image (3, h, w), label, row), the image of its aspect group's size.

    An index is a row or a pair (epoch, row). In training a photo's view depends on
    (seed, epoch, row) alone: not on the worker that draws it, nor on what was drawn before. What
    stands for a photo that the table lets skip: see `landmark.data.bad_images`.

    Args:
        table: N photos.
        image_format: sizes and augmentation.
        labels: (N,) int; none gives -1.
        train: augmented views instead of the whole photo.
        seed: of the views.
        bad_images: where skipped photos are noted.

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
        bad_images: BadImageList | None = None,
    ) -> None:
        self._photos = _Photos(table, image_format, bad_images)
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
        try:
            return self._image(row, epoch), int(self.labels[row]), row
        except UserError as mistake:
            self._photos.bad(row, mistake)
        if self._train:
            return self._next_good(row, epoch)
        width, height = self._format.size(int(self.groups[row]))
        return grey_image(width, height), int(self.labels[row]), skipped_row(row)

    def _image(self, row: int, epoch: int) -> torch.Tensor:
        path, box, group = self._photos.path(row), self._photos.box(row), int(self.groups[row])
        if self._train:
            return self._format.train_image(path, group, (self._seed, epoch, row), box)
        return self._format.image(path, self._format.size(group), box)

    def _next_good(self, row: int, epoch: int) -> tuple[torch.Tensor, int, int]:
        """The next photo of the row's aspect group that can be decoded, round and round."""
        group = np.flatnonzero(self.groups == self.groups[row])
        place = int(np.searchsorted(group, row))
        for other in np.roll(group, -place)[1:].tolist():
            try:
                return self._image(other, epoch), int(self.labels[other]), other
            except UserError as mistake:
                self._photos.bad(other, mistake)
        raise UserError(f"{self._photos.path(row)}: no photo of its shape can be decoded")


class ScaledPhotoDataset(Dataset[tuple[list[torch.Tensor], int]]):
    """Items (one uint8 image (3, h, w) a scale, row), each photo decoded once.

    What stands for a photo that the table lets skip: see `landmark.data.bad_images`.

    Args:
        table: N photos.
        image_format: sizes of the aspect groups and how they scale.
        scales: factors on the group's size, 1 the size itself.
        bad_images: where skipped photos are noted.

    Attributes:
        groups: aspect group of each photo, (N,) int.
    """

    def __init__(
        self,
        table: ImageTable,
        image_format: ImageFormat,
        scales: Sequence[float] = (1.0,),
        bad_images: BadImageList | None = None,
    ) -> None:
        self._photos = _Photos(table, image_format, bad_images)
        self._format = image_format
        self._scales = tuple(scales)
        self.groups = self._photos.groups

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, row: int) -> tuple[list[torch.Tensor], int]:
        row = int(row)
        sizes = [self._format.scaled_size(int(self.groups[row]), scale) for scale in self._scales]
        try:
            images = self._format.images(self._photos.path(row), sizes, self._photos.box(row))
        except UserError as mistake:
            self._photos.bad(row, mistake)
            return [grey_image(width, height) for width, height in sizes], skipped_row(row)
        return images, row


def grey_image(width: int, height: int) -> torch.Tensor:
    """What stands for a skipped photo: mid-grey, uint8 (3, height, width)."""
    return torch.full((3, height, width), 128, dtype=torch.uint8)
