"""Compute descriptors and local features of photos, batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from landmark.artifact.local_features import LocalFeatures
from landmark.data.batches import START_METHOD
from landmark.data.dataset import LocalPhotoDataset
from landmark.data.image_table import ImageTable
from landmark.device import Precision
from landmark.extract.local import LocalExtraction
from landmark.extract.multiscale import MultiScale
from landmark.extract.photo_reader import PhotoReader
from landmark.image.decode import Box
from landmark.image.format import ImageFormat
from landmark.model.embedder import Embedder
from landmark.model.inference import for_inference
from landmark.settings import check_value

_DTYPES = {"bf16": torch.bfloat16, "16": torch.float16}
# Images of a forward pass on a CPU: bytes of one channel per thread. Their feature maps fit into
# the caches, and into memory that is used again; those of a whole batch cost a page fault for each
# 4 KiB, which takes longer than the arithmetic.
_BYTES_PER_THREAD = 1_600_000


@torch.inference_mode()
def describe(
    embedder: Embedder,
    photos: Dataset,
    batches: Sequence[NDArray[np.int64]],
    method: MultiScale,
    *,
    workers: int = 0,
    device: torch.device | None = None,
    precision: Precision = "32",
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield rows (B,) and unit-length descriptors (B, D), batch by batch.

    Each photo is read once and described at every scale. Memory is bounded by the batches in
    flight.

    Args:
        embedder: Images → embeddings. A copy describes the photos, see `for_inference`.
        photos: Row → (one image per scale, row). An unreadable photo has the row -row - 1, which is
            yielded unchanged.
        batches: Batches of rows whose images have the same size.
        method: Scales and flip.
        workers: Number of decoding processes. 0 decodes in this process.
        device: Torch device. Defaults to the CPU.
        precision: Precision of the forward passes.

    Raises:
        UserError: A photo cannot be read.
    """
    device = device or torch.device("cpu")
    network = Describer(embedder, method, device, precision)
    for images, rows in _loader(photos, batches, workers, device):
        yield rows.numpy(), network(images).cpu().numpy()


class Describer:
    """Images of a batch at each scale → unit-length descriptors (B, D), float32, on a device.

    Args:
        embedder: Images → embeddings; not changed.
        method: Scales and flip.
        device: Torch device.
        precision: Precision of the forward passes.
    """

    def __init__(
        self, embedder: Embedder, method: MultiScale, device: torch.device, precision: Precision
    ) -> None:
        check_value("precision", precision, Precision)
        self.device = device
        self._dtype = _DTYPES.get(precision, torch.float32)
        self._method = method
        self.embedder = for_inference(embedder, device, self._dtype)

    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        """Describe the images (B, 3, h_s, w_s) of each scale."""
        return self._describe(images, None)

    def with_maps(self, images: Sequence[Tensor], scale: int) -> tuple[Tensor, Tensor]:
        """Return the descriptors, and the last feature map of one scale (B, C, h, w)."""
        maps: list[Tensor] = []
        descriptors = self._describe(images, (scale, maps))
        return descriptors, torch.cat(maps)

    def _describe(
        self, images: Sequence[Tensor], recorded: tuple[int, list[Tensor]] | None
    ) -> Tensor:
        on_device = [scaled.to(self.device, non_blocking=True) for scaled in images]
        mapped, maps = (None, []) if recorded is None else (on_device[recorded[0]], recorded[1])

        def embed(view: Tensor) -> Tensor:
            embeddings = []
            for part in self._parts(view):
                features = self.embedder.features(part)
                if view is mapped:
                    maps.append(features.maps[-1])
                embeddings.append(self.embedder.embed(features))
            return torch.cat(embeddings)

        is_half = self._dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self._dtype) if is_half else nullcontext():
            return self._method(embed, on_device)

    def _parts(self, images: Tensor) -> Sequence[Tensor]:
        """Split images of a forward pass on a CPU."""
        if self.device.type != "cpu":
            return (images,)
        pixels = torch.get_num_threads() * _BYTES_PER_THREAD // self._dtype.itemsize
        return images.split(max(1, pixels // (images.shape[-2] * images.shape[-1])))


@dataclass(frozen=True)
class Described:
    """A batch of B photos.

    Attributes:
        rows: (B,); -row - 1 for an unreadable photo.
        descriptors: (B, D) of unit length; None without an embedder.
        local: For each feature one entry per photo, None for an unreadable photo.
    """

    rows: NDArray[np.int64]
    descriptors: NDArray[np.floating] | None
    local: list[list[LocalFeatures | None]]


@torch.inference_mode()
def describe_locally(
    embedder: Embedder | None,
    table: ImageTable,
    image_format: ImageFormat,
    batches: Sequence[NDArray[np.int64]],
    method: MultiScale,
    local: Sequence[LocalExtraction],
    *,
    workers: int = 0,
    device: torch.device | None = None,
    precision: Precision = "32",
) -> Iterator[Described]:
    """Yield descriptors, equal to those of `describe`, and local features, batch by batch.

    Args:
        embedder: Images → embeddings. None computes no descriptors; then `local` needs none.
        table: Table of the photos with their sizes.
        image_format: Sizes of the aspect groups.
        batches: Batches of rows whose images have the same size.
        method: Scales and flip.
        local: Local features to compute.
        workers: Number of decoding processes, in which features of photos are computed.
        device: Torch device. Defaults to the CPU.
        precision: Precision of the forward passes.

    Raises:
        UserError: A photo cannot be read.
    """
    device = device or torch.device("cpu")
    check_value("precision", precision, Precision)
    for one in local:
        if one.on_device:
            one.feature.to(device)
    scales = () if embedder is None else method.scales
    # The scale whose map has the resolution of the image format.
    map_scale = int(np.argmin([abs(scale - 1) for scale in method.scales]))
    network = None
    if embedder is not None:
        network = Describer(embedder, method, device, precision)
        for one in local:
            if one.from_maps:
                one.feature.attach(network.embedder)
    reader = PhotoReader([one for one in local if not one.from_maps])
    photos = LocalPhotoDataset(
        table, image_format, reader if reader.local else None, reader.max_side, scales
    )
    sizes = _MapSizes(table, image_format, method.scales[map_scale])
    for images, rows, read in _loader(photos, batches, workers, device, reader.collate):
        from_photos = iter(reader.features(read))
        descriptors, maps = None, None
        if network is not None:
            descriptors, maps = network.with_maps(images, map_scale)
        yield Described(
            rows.numpy(),
            None if descriptors is None else descriptors.cpu().numpy(),
            [
                _of_maps(one, maps, descriptors, rows.numpy(), sizes)
                if one.from_maps
                else next(from_photos)
                for one in local
            ],
        )


class _MapSizes:
    """The (width, height) of photos, and the part of each that its image shows."""

    def __init__(self, table: ImageTable, image_format: ImageFormat, scale: float) -> None:
        self._format, self._scale = image_format, scale
        self._sizes = table.rows[["width", "height"]].to_numpy(np.int64)
        self._groups = table.groups(image_format)

    def __call__(self, row: int) -> tuple[tuple[int, int], Box]:
        width, height = self._sizes[row].tolist()
        image_size = self._format.scaled_size(int(self._groups[row]), self._scale)
        return (width, height), self._format.frame((width, height), image_size)


def _of_maps(
    local: LocalExtraction,
    maps: Tensor | None,
    descriptors: Tensor | None,
    rows: NDArray[np.int64],
    sizes: _MapSizes,
) -> list[LocalFeatures | None]:
    photos = [sizes(row if row >= 0 else -row - 1) for row in rows.tolist()]
    features = local.feature.from_map(
        maps, descriptors, [size for size, _ in photos], [frame for _, frame in photos]
    )
    return [one if row >= 0 else None for one, row in zip(features, rows.tolist(), strict=True)]


def _loader(
    photos: Dataset,
    batches: Sequence[NDArray[np.int64]],
    workers: int,
    device: torch.device,
    collate: Callable[[Any], Any] | None = None,
) -> DataLoader:
    return DataLoader(
        photos,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=workers,
        multiprocessing_context=START_METHOD if workers > 0 else None,
        pin_memory=device.type == "cuda",
        collate_fn=collate,
    )
