"""The local features of an extraction: which, where they are computed, and how they are saved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.feature_files import NotFiniteError
from landmark.artifact.local_features import LocalFeatures
from landmark.artifact.local_parts import LocalPart
from landmark.data.image_table import ImageTable
from landmark.disk.differences import as_recorded
from landmark.error import UserError


class Feature(Protocol):
    """A local feature, see `landmark.local`: photo (H, W, 3), uint8 RGB → LocalFeatures.

    Optional attributes:
        max_side: Longer side to which it reduces a photo; None, or no attribute, means the file's.
        top_k: Maximum number of features.
        on_device: It runs on a device, in the extracting process; `to(device)` returns it there.
        from_maps: It is computed from the embedder's feature map instead of the photo:
            `attach(embedder)` returns it ready, then `from_map(maps (B, C, h, w), descriptors
            (B, D), sizes, frames)` returns a list of LocalFeatures. `sizes` are the (width, height)
            of the photos, `frames` the (left, top, right, bottom) in them that the map covers.
    """

    dim: Any
    dtype: Any
    columns: Any


class Background(Protocol):
    """A pool of the features of other photos, see `landmark.local.BackgroundPool`."""

    @property
    def digest(self) -> str:
        """Digest of the pool."""

    def similarity(
        self,
        features: LocalFeatures,
        landmark_id: str | None = None,
        descriptor: NDArray[np.floating] | None = None,
    ) -> NDArray[np.float32]:
        """Return the best similarity of each feature to the pool, (n,)."""

    def save(self, path: Path) -> None:
        """Write the pool to a file."""


class PoolSource(Protocol):
    """How a pool is drawn from the photos of an extraction, and read again."""

    def rows(self, photos: int) -> NDArray[np.int64]:
        """Draw the rows of the pool's photos."""

    def draw(
        self,
        photos: Sequence[LocalFeatures],
        landmark_ids: Sequence[str] | None,
        vectors: NDArray[np.floating] | None,
    ) -> Background:
        """Return the pool of photos with their landmarks ("" if unknown) and descriptors."""

    def open(self, path: Path) -> Background:
        """Read the file of a pool."""


@dataclass(frozen=True)
class LocalExtraction:
    """Local features to extract; pickled for worker processes.

    Attributes:
        name: Name of the folder in STORE/local.
        feature: The feature.
        settings: Settings to record and to compare with those of existing features.
        pool: Pool for the background of each feature. None means no background, or that of
            `pool_source`.
        pool_source: Draws the pool from the photos of the extraction.
        is_requested: The user passed local=; otherwise the store that is extended has them.
    """

    name: str
    feature: Any
    settings: Mapping[str, Any]
    pool: Background | None = None
    pool_source: PoolSource | None = None
    is_requested: bool = True

    @property
    def has_background(self) -> bool:
        """Whether each feature has its similarity to a pool."""
        return self.pool is not None or self.pool_source is not None

    @property
    def layout(self) -> dict[str, Any]:
        """Dimension, dtype, columns and background of the features."""
        feature = self.feature
        return {
            "dim": int(feature.dim),
            "dtype": feature.dtype,
            "columns": feature.columns,
            "background": self.has_background,
        }

    @property
    def recorded(self) -> dict[str, Any]:
        """Settings that existing features must have."""
        return as_recorded({**self.settings, "background": self.has_background})

    @property
    def from_maps(self) -> bool:
        """Whether the features are computed from the embedder's feature map."""
        return bool(getattr(self.feature, "from_maps", False))

    @property
    def on_device(self) -> bool:
        """Whether the features are computed from the photo in the extracting process."""
        return bool(getattr(self.feature, "on_device", False)) and not self.from_maps

    @property
    def photo_bytes(self) -> int | None:
        """Most bytes of a photo's features; None if their number is not bounded."""
        top_k = getattr(self.feature, "top_k", None)
        if top_k is None:
            return None
        layout = self.layout
        floats = 4 * (layout["columns"] + 1 + layout["background"])
        return top_k * (layout["dim"] * np.dtype(layout["dtype"]).itemsize + floats)

    def without_features(self, size: tuple[int, int]) -> LocalFeatures:
        """Return the features of a photo (width, height) that has none."""
        columns, none = self.layout["columns"], np.empty(0, np.float32)
        return LocalFeatures(
            keypoints=np.empty((0, 2), np.float32),
            descriptors=np.empty((0, self.layout["dim"]), self.layout["dtype"]),
            scores=none,
            size=size,
            scales=none if columns > 2 else None,
            angles=none if columns > 3 else None,
            background=none if self.has_background else None,
        )

    def with_background(
        self,
        features: LocalFeatures,
        landmark_id: str | None,
        descriptor: NDArray[np.floating] | None,
    ) -> LocalFeatures:
        """Return the features with their similarity to the pool, if there is one."""
        if self.pool is None:
            return features
        background = self.pool.similarity(features, landmark_id, descriptor)
        return replace(features, background=background)


class LocalRecorder:
    """Save the local features of one process; context manager that closes the files.

    Args:
        local: Local features of the extraction.
        table: Table of the photos.
        folders: Folder of the parts of each feature.
        landmarks: Landmark of each photo; None if the background must not depend on them.
    """

    def __init__(
        self,
        local: Sequence[LocalExtraction],
        table: ImageTable,
        folders: Sequence[Path],
        landmarks: NDArray[Any] | None,
    ) -> None:
        self._local, self._table, self._folders = local, table, folders
        self._landmarks = landmarks
        self._parts: list[LocalPart] = []  # created for the first photo

    def __enter__(self) -> "LocalRecorder":
        return self

    def __exit__(self, *_: object) -> None:
        for part in self._parts:
            part.close()

    def add(
        self,
        rows: NDArray[np.int64],
        descriptors: NDArray[np.floating] | None,
        local: Sequence[Sequence[LocalFeatures | None]],
    ) -> None:
        """Append the features of the rows (B,) of a batch, except those that are skipped.

        Raises:
            UserError: A feature is not finite; names the photo.
        """
        if not self._parts:
            self._parts = [
                LocalPart(folder, one.layout)
                for one, folder in zip(self._local, self._folders, strict=True)
            ]
        for one, part, photos in zip(self._local, self._parts, local, strict=True):
            for index, features in enumerate(photos):
                row = int(rows[index])
                if row < 0 or features is None:
                    continue
                landmark = None if self._landmarks is None else self._landmarks[row]
                descriptor = None if descriptors is None else descriptors[index]
                try:
                    part.append(row, one.with_background(features, landmark, descriptor))
                except NotFiniteError as error:
                    path = self._table.rows["path"].iloc[row]
                    raise UserError(
                        f"{self._table.root}/{path}: {error} of the local features {one.name} has "
                        "a value that is not finite. Pass other settings of local=."
                    ) from None

    def save(self) -> None:
        """Save what was added; see `LocalPart.save`."""
        for part in self._parts:
            part.save()
