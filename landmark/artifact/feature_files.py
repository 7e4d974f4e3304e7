"""The files of a folder of local features, to which the features of photos are appended."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from landmark.artifact.growing_array import GrowingArray
from landmark.artifact.local_features import (
    BACKGROUND,
    DESCRIPTORS,
    KEYPOINTS,
    OFFSETS,
    SCORES,
    SIZES,
    LocalFeatures,
)


class FeatureFiles:
    """Append the features of photos to the arrays of a folder. Memory: the buffers of the files.

    Args:
        folder: Folder of the arrays.
        layout: `dtype`, `dim`, `columns` and `background`, see `LocalFeatureWriter.writing`.
        photos: Number of complete photos in the files; what follows them is removed.
        features: Number of their features.

    Attributes:
        photos: Number of photos appended.
        features: Number of their features.
    """

    def __init__(
        self, folder: Path, layout: Mapping[str, Any], photos: int = 0, features: int = 0
    ) -> None:
        self.photos, self.features = photos, features
        self._layout = layout
        folder.mkdir(exist_ok=True)
        with ExitStack() as opened:
            self._files = {
                name: opened.enter_context(GrowingArray(folder / name, *row, done))
                for name, (row, done) in self._rows().items()
            }
            self._opened = opened.pop_all()
        if not self.photos:
            self._files[OFFSETS].append(np.zeros(1, np.int64))

    def __enter__(self) -> "FeatureFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._opened.close()

    def _rows(self) -> dict[str, tuple[tuple[str, tuple[int, ...]], int]]:
        """Map each file to the dtype and shape of its rows, and its number of complete rows."""
        layout, photos, count = self._layout, self.photos, self.features
        files: dict[str, tuple[tuple[str, tuple[int, ...]], int]] = {
            DESCRIPTORS: ((str(layout["dtype"]), (int(layout["dim"]),)), count),
            KEYPOINTS: (("float32", (int(layout["columns"]),)), count),
            SCORES: (("float32", ()), count),
            OFFSETS: (("int64", ()), photos + 1 if photos else 0),
            SIZES: (("int32", (2,)), photos),
        }
        if layout["background"]:
            files[BACKGROUND] = (("float32", ()), count)
        return files

    def append(self, features: LocalFeatures) -> None:
        """Append the features of a photo.

        Raises:
            ValueError: They have another dimension, dtype or other parts than the layout, or a
                value is not finite (starts with the name of the file).
        """
        arrays = self._arrays(features)
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise NotFiniteError(name)
        for name, array in arrays.items():
            self._files[name].append(array)
        self.photos += 1
        self.features += len(features)
        self._files[OFFSETS].append(np.array([self.features], np.int64))

    def flush(self) -> None:
        """Write everything appended to the disk."""
        for file in self._files.values():
            file.flush()

    def _arrays(self, features: LocalFeatures) -> dict[str, np.ndarray]:
        """Return what is appended to each file but the offsets."""
        columns = [features.keypoints]
        columns += [c[:, None] for c in (features.scales, features.angles) if c is not None]
        if features.scales is None and features.angles is not None:
            raise ValueError("features with angles need scales")
        arrays = {
            DESCRIPTORS: features.descriptors,
            KEYPOINTS: np.concatenate(columns, axis=1),
            SCORES: features.scores,
            SIZES: np.array([features.size], np.int32),
        }
        if features.background is not None:
            arrays[BACKGROUND] = features.background
        if arrays.keys() | {OFFSETS} != self._files.keys():
            raise ValueError("all photos need the similarity to the background, or none")
        for name, array in arrays.items():
            self._files[name].check(array)
        return arrays


class NotFiniteError(ValueError):
    """A value of an array is not finite; the argument names the file."""
