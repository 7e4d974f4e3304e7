"""Compute local features in the workers that decode photos, and send them in few arrays."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import default_collate

from landmark.artifact.local_features import LocalFeatures
from landmark.extract.local import LocalExtraction
from landmark.local.photo import reduced

Photo = NDArray[np.uint8]
Packed = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PhotoReader:
    """What a decoding worker does with a decoded photo, and how it sends a batch.

    The features that run on a device get the photo later, in the extracting process.

    Attributes:
        local: Local features of the extraction that are computed from photos.
    """

    local: Sequence[LocalExtraction]

    @property
    def max_side(self) -> int | None:
        """Longer side that the photos need; None means that of the file."""
        sides: list[Any] = [getattr(one.feature, "max_side", None) for one in self.local]
        return None if None in sides or not sides else max(sides)

    def __call__(self, photo: Photo) -> list[LocalFeatures | Photo]:
        """Return for each feature its features, or the photo if it runs on a device.

        The photo is reduced to the feature's `max_side` first. Keypoints are in pixels of the
        reduced photo: those of a file would depend on its resolution and format, and the errors in
        pixels that verification accepts with them.
        """
        return [self._read(one, photo) for one in self.local]

    @staticmethod
    def _read(one: LocalExtraction, photo: Photo) -> LocalFeatures | Photo:
        side = getattr(one.feature, "max_side", None)
        photo = photo if side is None else reduced(photo, side)
        return photo if one.on_device else one.feature(photo)

    def collate(
        self, items: Sequence[tuple[list[torch.Tensor], int, list[Any] | None]]
    ) -> tuple[list[torch.Tensor], torch.Tensor, list[Packed]]:
        """Return the images of each scale (B, 3, h, w), the rows (B,), and one entry a feature."""
        images = [torch.stack(scale) for scale in zip(*(item[0] for item in items), strict=True)]
        rows: torch.Tensor = default_collate([item[1] for item in items])
        read: list[Packed] = []
        for index, one in enumerate(self.local):
            values = [None if item[2] is None else item[2][index] for item in items]
            read.append(_packed_photos(values) if one.on_device else _packed(values, one.layout))
        return images, rows, read

    def features(self, read: Sequence[Packed]) -> list[list[LocalFeatures | None]]:
        """Return the features of a batch: one list per feature, None for a skipped photo."""
        return [
            [None if photo is None else one.feature(photo) for photo in _unpacked_photos(values)]
            if one.on_device
            else list(_unpacked(values))
            for one, values in zip(self.local, read, strict=True)
        ]


def _packed(photos: Sequence[LocalFeatures | None], layout: Mapping[str, Any]) -> Packed:
    """Pack the features of a batch into a few arrays: each one sent takes a file descriptor."""
    present = [photo for photo in photos if photo is not None]
    columns = [np.empty((0, layout["columns"]), np.float32)]
    for photo in present:
        extra = [c[:, None] for c in (photo.scales, photo.angles) if c is not None]
        columns.append(np.concatenate([photo.keypoints, *extra], axis=1))
    no_descriptors = np.empty((0, layout["dim"]), layout["dtype"])
    arrays = {
        "descriptors": np.concatenate([no_descriptors, *(p.descriptors for p in present)]),
        "keypoints": np.concatenate(columns),
        "scores": np.concatenate([np.empty(0, np.float32), *(p.scores for p in present)]),
        "counts": np.array([-1 if photo is None else len(photo) for photo in photos]),
        "sizes": np.array([(0, 0) if photo is None else photo.size for photo in photos]),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _unpacked(packed: Packed) -> Iterator[LocalFeatures | None]:
    """Yield the features of each photo, views of the packed arrays."""
    arrays = {name: tensor.numpy() for name, tensor in packed.items()}
    start = 0
    for count, size in zip(arrays["counts"].tolist(), arrays["sizes"].tolist(), strict=True):
        if count < 0:
            yield None
            continue
        own = slice(start, start + count)
        columns = arrays["keypoints"][own]
        yield LocalFeatures(
            keypoints=columns[:, :2],
            descriptors=arrays["descriptors"][own],
            scores=arrays["scores"][own],
            size=tuple(size),
            scales=columns[:, 2] if columns.shape[1] > 2 else None,
            angles=columns[:, 3] if columns.shape[1] > 3 else None,
        )
        start += count


def _packed_photos(photos: Sequence[Photo | None]) -> Packed:
    """Pack the photos of a batch, of different sizes, into one array."""
    pixels = [np.empty(0, np.uint8), *(photo.reshape(-1) for photo in photos if photo is not None)]
    shapes = [(0, 0) if photo is None else photo.shape[:2] for photo in photos]
    arrays = {"pixels": np.concatenate(pixels), "shapes": np.array(shapes)}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _unpacked_photos(packed: Packed) -> Iterator[Photo | None]:
    """Yield each photo, a view of the packed array; None if it was skipped."""
    pixels, start = packed["pixels"].numpy(), 0
    for height, width in packed["shapes"].tolist():
        stop = start + height * width * 3
        yield pixels[start:stop].reshape(height, width, 3) if stop > start else None
        start = stop
