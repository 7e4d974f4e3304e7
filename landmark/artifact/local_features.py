"""Local features of the photos of a descriptor store: keypoints with their descriptors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.artifact.folder import check_files, check_schema, damage, read_json
from landmark.artifact.vectors import open_array, row_blocks
from landmark.disk.differences import differences
from landmark.disk.digest import digest_of_blocks
from landmark.error import UserError

SCHEMA = 1
FOLDER = "local"  # inside the descriptor store
DESCRIPTORS, KEYPOINTS, SCORES = "descriptors.npy", "keypoints.npy", "scores.npy"
BACKGROUND, OFFSETS, SIZES, META = "background.npy", "offsets.npy", "sizes.npy", "meta.json"
POOL = "pool.npz"  # the photos with which the background was computed
RESERVED = {"schema", "version", "dtype", "ids"}  # keys of meta.json that the writer records
STORED_DTYPES = ("uint8", "float16")
_ADVICE = "Extract the local features again."


@dataclass(frozen=True, eq=False)
class LocalFeatures:
    """The local features of one photo.

    Attributes:
        keypoints: (n, 2) float32, x and y in pixels of the described photo; the centre of the
            top-left pixel is (0, 0).
        descriptors: (n, d) uint8, float16 or float32.
        scores: (n,) float32, higher is stronger.
        size: (width, height) of the described photo.
        scales: (n,) float32 diameters in pixels of the photo, if the feature has scales.
        angles: (n,) float32 degrees in [0, 360), clockwise in the image as in OpenCV, if the
            feature has angles.
        background: (n,) float32, the best similarity to a pool of other photos, if computed.

    Raises:
        ValueError: A shape or dtype differs from these.

    Example:
        >>> features = LocalFeatures(
        ...     keypoints=np.array([[3, 4]], "f4"),
        ...     descriptors=np.eye(1, 8, dtype="f2"),
        ...     scores=np.ones(1, "f4"),
        ...     size=(40, 30),
        ... )
        >>> len(features), features.dim
        (1, 8)
    """

    keypoints: NDArray[np.float32]
    descriptors: NDArray[Any]
    scores: NDArray[np.float32]
    size: tuple[int, int]
    scales: NDArray[np.float32] | None = None
    angles: NDArray[np.float32] | None = None
    background: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        count = len(self.keypoints)
        _check_array("keypoints", self.keypoints, (count, 2))
        if self.descriptors.ndim != 2 or len(self.descriptors) != count:
            raise ValueError(f"descriptors {self.descriptors.shape} for {count} keypoints")
        if self.descriptors.dtype not in ("uint8", "float16", "float32"):
            raise ValueError(f"descriptors have the dtype {self.descriptors.dtype}")
        _check_array("scores", self.scores, (count,))
        for name in ("scales", "angles", "background"):
            if (values := getattr(self, name)) is not None:
                _check_array(name, values, (count,))

    @property
    def dim(self) -> int:
        """Dimension d of the descriptors."""
        return int(self.descriptors.shape[1])

    def __len__(self) -> int:
        return len(self.keypoints)


class LocalFeatureStore:
    """The folder STORE/local/NAME: local features of N photos, memory-mapped.

    `store[row]` returns the features of a row of the descriptor store; only that photo is read.
    `LocalFeatureWriter` writes such folders.

    Attributes:
        path: The folder.
        meta: Schema version, package version, dtype, digest of the ids, and the writer's settings.
    """

    def __init__(self, path: Path, meta: dict[str, Any], photos: int | None = None) -> None:
        """Map the files; with `photos` read only the first ones, while others are appended."""
        self.path = path
        self.meta = meta
        # Plain views of the memory maps: slicing a np.memmap is ten times slower.
        self._offsets = np.asarray(open_array(path / OFFSETS))
        self._sizes = np.asarray(open_array(path / SIZES))
        self._descriptors = np.asarray(open_array(path / DESCRIPTORS))
        self._keypoints = np.asarray(open_array(path / KEYPOINTS))
        self._scores = np.asarray(open_array(path / SCORES))
        self._background = None
        if (path / BACKGROUND).exists():
            self._background = np.asarray(open_array(path / BACKGROUND))
        if photos is not None:
            self._cut(photos)
        with damage(path, _ADVICE):
            self._check()

    @classmethod
    def open(cls, path: str | Path) -> "LocalFeatureStore":
        """Open the folder without reading the features.

        Raises:
            UserError: `path` does not contain local features, is damaged, its files do not match
                each other, or it was written by a later version.
        """
        path = Path(path)
        names = (DESCRIPTORS, KEYPOINTS, SCORES, OFFSETS, SIZES, META)
        check_files(path, names, "a folder of local features", "extract.py")
        with damage(path, _ADVICE):
            meta = read_json(path / META)
            check_schema(path, meta, SCHEMA)
        return cls(path, meta)

    def _cut(self, photos: int) -> None:
        self._offsets = self._offsets[: photos + 1]
        self._sizes = self._sizes[:photos]
        count = int(self._offsets[-1])
        self._descriptors = self._descriptors[:count]
        self._keypoints = self._keypoints[:count]
        self._scores = self._scores[:count]
        if self._background is not None:
            self._background = self._background[:count]

    def _check(self) -> None:
        """Check that the files match each other.

        Raises:
            ValueError: They do not; names the file.
        """
        if self._descriptors.ndim != 2 or self._descriptors.dtype not in STORED_DTYPES:
            shape, dtype = self._descriptors.shape, self._descriptors.dtype
            raise ValueError(f"{DESCRIPTORS} has dtype {dtype} and shape {shape}")
        if not self._offsets.size:
            raise ValueError(f"{OFFSETS} is empty")
        rows, count = len(self), len(self._descriptors)
        columns = self._keypoints.shape[-1] if self._keypoints.ndim == 2 else 0
        _check_array(KEYPOINTS, self._keypoints, (count, min(max(columns, 2), 4)))
        _check_array(SCORES, self._scores, (count,))
        if self._background is not None:
            _check_array(BACKGROUND, self._background, (count,))
        elif self.meta.get("background"):
            raise ValueError(f"{BACKGROUND} is missing")
        _check_array(OFFSETS, self._offsets, (rows + 1,), "int64")
        _check_array(SIZES, self._sizes, (rows, 2), "int32")
        first, last = self._offsets[[0, -1]].tolist()
        if first != 0 or last != count:
            raise ValueError(f"{OFFSETS} covers rows {first:,} to {last:,} of {count:,} features")
        for block in row_blocks(rows, block_rows=1 << 20):
            if (np.diff(self._offsets[block.start : block.stop + 1]) < 0).any():
                raise ValueError(f"{OFFSETS} decreases")

    @property
    def dim(self) -> int:
        """Dimension d of the descriptors."""
        return int(self._descriptors.shape[1])

    @property
    def dtype(self) -> str:
        """Dtype of the descriptors: uint8 or float16."""
        return self._descriptors.dtype.name

    @property
    def settings(self) -> dict[str, Any]:
        """The writer's settings: `meta` without the keys that the writer records itself."""
        return {key: value for key, value in self.meta.items() if key not in RESERVED}

    @property
    def features(self) -> int:
        """Number of features of all photos."""
        return len(self._descriptors)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of features of each photo, (N,)."""
        return np.diff(self._offsets)

    def __len__(self) -> int:
        return self._offsets.size - 1

    def __getitem__(self, row: int) -> LocalFeatures:
        """Return the features of a row; the descriptors stay on disk until they are read.

        Raises:
            IndexError: There is no such row. Negative rows are not counted from the end: -1 pads
                rankings.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} is outside the {len(self):,} photos of {self.path}")
        features = slice(int(self._offsets[row]), int(self._offsets[row + 1]))
        columns = np.array(self._keypoints[features])
        width, height = self._sizes[row].tolist()
        return LocalFeatures(
            keypoints=np.ascontiguousarray(columns[:, :2]),
            descriptors=self._descriptors[features],
            scores=self._scores[features],
            size=(width, height),
            scales=np.ascontiguousarray(columns[:, 2]) if columns.shape[1] > 2 else None,
            angles=np.ascontiguousarray(columns[:, 3]) if columns.shape[1] > 3 else None,
            background=None if self._background is None else self._background[features],
        )

    def __iter__(self) -> Iterator[LocalFeatures]:
        return (self[row] for row in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path: another process maps the files again instead of receiving them."""
        return LocalFeatureStore.open, (self.path,)

    def check_ids(self, ids: pd.Series, store: Path) -> None:
        """Check that the features belong to the rows of a descriptor store.

        Raises:
            UserError: The number of photos or the ids differ.
        """
        if len(self) != len(ids):
            raise UserError(
                f"{self.path} has local features of {len(self):,} photos, but {store} has "
                f"{len(ids):,}. {_ADVICE}"
            )
        if self.meta.get("ids") != ids_digest(ids):
            raise UserError(
                f"{self.path} has local features of other photos than {store}. {_ADVICE}"
            )


def check_comparable(
    name: str,
    store: Path | str,
    settings: Mapping[str, Any],
    other_store: Path | str,
    other_settings: Mapping[str, Any],
    advice: str = "Extract both with the same settings.",
) -> None:
    """Check that local features of two stores may be compared: their settings are equal.

    Their backgrounds may be those of different pools.

    Args:
        name: Name of the local features.
        store: A store, for the message.
        settings: Settings of its local features.
        other_store: The other store.
        other_settings: Settings of its local features.
        advice: What to do if they differ.

    Raises:
        UserError: A setting differs; names it.
    """
    expected = {**dict.fromkeys(settings), **other_settings}
    for key, (own, other) in differences(settings, expected, ignored=("pool",)).items():
        raise UserError(
            f"{store} has local features {name!r} with {key} {own}, and {other_store} with "
            f"{other}. {advice}"
        )


def local_names(store: Path) -> list[str]:
    """Return the names of the local features in a descriptor store, sorted."""
    return sorted(file.parent.name for file in (store / FOLDER).glob(f"[!.]*/{META}"))


def ids_digest(ids: pd.Series) -> str:
    """Return the digest of the ids and their order."""
    blocks = (ids.iloc[block] for block in row_blocks(len(ids), block_rows=1 << 16))
    return digest_of_blocks("".join(f"{one}\0" for one in block).encode() for block in blocks)


def _check_array(
    name: str, array: np.ndarray, shape: tuple[int, ...], dtype: str = "float32"
) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"{name} has dtype {array.dtype} and shape {array.shape}, not {dtype} and {shape}"
        )
