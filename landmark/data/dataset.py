"""Tables of photos as torch datasets, without a Python object per photo."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from landmark.data.bad_images import BadImageList, reason_of, skipped_row
from landmark.data.batches import EpochRow
from landmark.data.image_table import ImageTable
from landmark.data.teacher import TeacherVectors
from landmark.error import UserError
from landmark.image.decode import Box, Size, decode
from landmark.image.format import ImageFormat

Item = TypeVar("Item")


class _Photos(Dataset[Item]):
    """Paths, boxes and aspect groups of a table in flat buffers that forked workers share."""

    def __init__(
        self, table: ImageTable, image_format: ImageFormat, bad_images: BadImageList | None
    ) -> None:
        self.groups = table.groups(image_format)
        self._format = image_format
        self._root = str(table.root)
        self._ids = pa.array(table.rows["id"], pa.large_string())
        self._paths = pa.array(table.rows["path"], pa.large_string())
        self._boxes = table.boxes
        self._skips_bad = table.bad_image == "skip"
        self._bad_images = bad_images

    def __len__(self) -> int:
        return len(self.groups)

    def _path(self, row: int) -> str:
        return f"{self._root}/{self._paths[row].as_py()}"

    def _box(self, row: int) -> Box | None:
        if self._boxes is None or np.isnan(self._boxes[row]).any():
            return None
        left, top, right, bottom = self._boxes[row].tolist()
        return left, top, right, bottom

    def _note_bad(self, row: int, error: UserError) -> None:
        """List a broken photo, or raise its error if `bad_image` is "error"."""
        if not self._skips_bad:
            raise error
        if self._bad_images is not None:
            reason = reason_of(str(error), self._path(row))
            self._bad_images.note(self._ids[row].as_py(), self._paths[row].as_py(), reason)


class PhotoDataset(_Photos[tuple[torch.Tensor, int, int] | tuple[torch.Tensor, int, int, Any]]):
    """Items (uint8 image (3, h, w), label, row), the image in the size of its aspect group.

    With a teacher its vector (T,) of the photo follows, whatever the view.

    An index is a row or a pair (epoch, row). In training a photo's view depends only
    on (seed, epoch, row), not on the worker or on earlier draws.
    See `landmark.data.bad_images` for what replaces a skipped photo.

    Args:
        table: Table of N photos.
        image_format: Sizes and augmentation.
        labels: Label of each photo, (N,) int. Defaults to -1 for all.
        train: Return augmented views instead of the complete photo.
        seed: Seed of the views.
        bad_images: List of skipped photos.
        teacher: The teacher's vectors of the table's photos, for training. Defaults to none.

    Attributes:
        groups: Aspect group of each photo, (N,) int.
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
        teacher: TeacherVectors | None = None,
    ) -> None:
        super().__init__(table, image_format, bad_images)
        self.labels = np.full(len(table), -1) if labels is None else np.asarray(labels)
        if len(self.labels) != len(table):
            raise ValueError(f"{len(self.labels)} labels for {len(table)} photos")
        self._train = train
        self._seed = seed
        self._teacher = teacher

    def __getitem__(
        self, index: int | EpochRow
    ) -> tuple[torch.Tensor, int, int] | tuple[torch.Tensor, int, int, NDArray[np.float32]]:
        epoch, row = index if isinstance(index, tuple) else (0, int(index))
        for candidate in self._candidates(row):
            try:
                item = self._image(candidate, epoch), int(self.labels[candidate]), candidate
                return item if self._teacher is None else (*item, self._teacher[candidate])
            except UserError as error:
                self._note_bad(candidate, error)
        if self._train:
            raise UserError(
                f"{self._path(row)} and all other photos of its aspect group cannot be decoded. "
                "Check data.root."
            )
        size = self._format.size(int(self.groups[row]))
        return _grey_image(size), int(self.labels[row]), skipped_row(row)

    def _candidates(self, row: int) -> Iterator[int]:
        """Yield the row and, in training, the rest of its aspect group, cyclically."""
        yield row
        if self._train:
            group = np.flatnonzero(self.groups == self.groups[row])
            yield from np.roll(group, -int(np.searchsorted(group, row)))[1:].tolist()

    def _image(self, row: int, epoch: int) -> torch.Tensor:
        path, box, group = self._path(row), self._box(row), int(self.groups[row])
        if self._train:
            return self._format.train_image(path, group, (self._seed, epoch, row), box)
        return self._format.image(path, self._format.size(group), box)


class ScaledPhotoDataset(_Photos[tuple[list[torch.Tensor], int]]):
    """Items (one uint8 image (3, h, w) per scale, row), each photo decoded once.

    See `landmark.data.bad_images` for what replaces a skipped photo.

    Args:
        table: Table of N photos.
        image_format: Sizes of the aspect groups and how they scale.
        scales: Factors on the group's size.
        bad_images: List of skipped photos.

    Attributes:
        groups: Aspect group of each photo, (N,) int.
    """

    def __init__(
        self,
        table: ImageTable,
        image_format: ImageFormat,
        scales: Sequence[float] = (1.0,),
        bad_images: BadImageList | None = None,
    ) -> None:
        super().__init__(table, image_format, bad_images)
        self._scales = tuple(scales)

    def __getitem__(self, row: int) -> tuple[list[torch.Tensor], int]:
        row = int(row)
        sizes = [self._format.scaled_size(int(self.groups[row]), scale) for scale in self._scales]
        try:
            return self._format.images(self._path(row), sizes, self._box(row)), row
        except UserError as error:
            self._note_bad(row, error)
        return [_grey_image(size) for size in sizes], skipped_row(row)


class LocalPhotoDataset(_Photos[tuple[list[torch.Tensor], int, Any]]):
    """Items (one uint8 image (3, h, w) per scale, row, local); `local` is None if skipped.

    The images equal those of `ScaledPhotoDataset`.

    Args:
        table: Table of N photos with their sizes.
        image_format: Sizes of the aspect groups and how they scale.
        read: Called with the decoded photo (H, W, 3), uint8 RGB, cropped to its box; returns
            `local`. None reads only the images.
        max_side: The longer side of the decoded photo is at least this, or that of the file.
        scales: As in `ScaledPhotoDataset`; empty for no images.
    """

    def __init__(
        self,
        table: ImageTable,
        image_format: ImageFormat,
        read: Callable[[NDArray[np.uint8]], Any] | None,
        max_side: int | None = None,
        scales: Sequence[float] = (),
    ) -> None:
        super().__init__(table, image_format, bad_images=None)
        self._read = read
        self._max_side = max_side
        self._scales = tuple(scales)
        self._sizes = table.rows[["width", "height"]].to_numpy(np.int64)

    def __getitem__(self, row: int) -> tuple[list[torch.Tensor], int, Any]:
        row = int(row)
        sizes = [self._format.scaled_size(int(self.groups[row]), scale) for scale in self._scales]
        try:
            images, photo = self._decoded(row, sizes)
        except UserError as error:
            self._note_bad(row, error)
            return [_grey_image(size) for size in sizes], skipped_row(row), None
        return images, row, [] if self._read is None else self._read(np.asarray(photo))

    def _decoded(
        self, row: int, sizes: Sequence[Size]
    ) -> tuple[list[torch.Tensor], Image.Image | None]:
        path, box = self._path(row), self._box(row)
        if self._read is None:
            return self._format.images(path, sizes, box), None
        photo_size = self._photo_size(row)
        if not sizes:
            return [], decode(path, photo_size, box)
        return self._format.images_and_photo(path, sizes, photo_size, box)

    def _photo_size(self, row: int) -> Size | None:
        if self._max_side is None:
            return None
        width, height = self._sizes[row].tolist()
        zoom = min(1.0, self._max_side / max(width, height))
        return math.ceil(width * zoom), math.ceil(height * zoom)


def _grey_image(size: Size) -> torch.Tensor:
    """Return the mid-grey image that replaces a skipped photo of (width, height)."""
    return torch.full((3, size[1], size[0]), 128, dtype=torch.uint8)
