"""Local features in the order in which processes extract them, until they are merged by row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.feature_files import FeatureFiles
from landmark.artifact.folder import damage, read_json, write_json
from landmark.artifact.growing_array import GrowingArray
from landmark.artifact.local_features import META, LocalFeatures, LocalFeatureStore
from landmark.disk.atomic import atomic_file

PARTS = "parts"  # in the staging folder of local features
_ROWS = "rows.npy"


class LocalPart:
    """One process's part: rows in any order and their features.

    A part is written once, by one process; a resumed extraction writes others. What was appended
    after the last `save` is ignored.

    Args:
        parts: Folder of all parts.
        layout: See `FeatureFiles`.
    """

    def __init__(self, parts: Path, layout: Mapping[str, Any]) -> None:
        self._layout = layout
        self._folder = _new_folder(parts)
        self._files = FeatureFiles(self._folder, layout)
        self._rows = GrowingArray(self._folder / _ROWS, "int64", ())

    def append(self, row: int, features: LocalFeatures) -> None:
        """Append the features of a row.

        Raises:
            ValueError: As `FeatureFiles.append`.
        """
        self._files.append(features)
        self._rows.append(np.array([row], np.int64))

    def save(self) -> None:
        """Flush the appended features, and only then record that they are complete."""
        self._files.flush()
        self._rows.flush()
        progress = {"photos": self._files.photos, "features": self._files.features}
        with atomic_file(self._folder / META) as temporary:
            write_json(temporary, {**self._layout, **progress})

    def close(self) -> None:
        """Close the files."""
        self._files.close()
        self._rows.__exit__()


class LocalParts:
    """The parts of a stopped or finished extraction, read by row.

    Args:
        folder: Folder of all parts, which need not exist.
        count: Number of rows.

    Raises:
        UserError: A part is damaged.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._stores: list[LocalFeatureStore] = []
        # The part of each row, -1 without one, and its position there.
        self._part = np.full(count, -1, np.int32)
        self._position = np.zeros(count, np.int64)
        for path in _saved(folder):
            store, rows = _opened(path)
            # A later part replaces an earlier one, as its vector replaced the earlier vector.
            self._part[rows] = len(self._stores)
            self._position[rows] = np.arange(len(rows))
            self._stores.append(store)

    @property
    def has_row(self) -> NDArray[np.bool_]:
        """Whether the features of each row are saved, (N,)."""
        return self._part >= 0

    def __getitem__(self, row: int) -> LocalFeatures:
        """Return the features of a row.

        Raises:
            KeyError: They are not saved.
        """
        part = int(self._part[row])
        if part < 0:
            raise KeyError(row)
        return self._stores[part][int(self._position[row])]

    def of(self, rows: NDArray[np.int64]) -> Iterator[LocalFeatures]:
        """Yield the features of rows, one photo at a time."""
        return (self[int(row)] for row in rows)


@dataclass(frozen=True)
class PartialLocal:
    """Local features being extracted for the rows of a complete store.

    It is used in place of a `PartialStore`: a row is done when its features are saved.

    Attributes:
        folder: Folder of the parts.
        count: Number of rows.
    """

    folder: Path
    count: int

    def parts(self, name: str) -> Path:
        """Return the folder in which processes save the features."""
        del name  # there is one kind of features
        return self.folder

    def save(self) -> None:
        """Do nothing: the parts are saved by their processes."""

    def remaining(self, batches: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        """Return the batches with a row that is not done."""
        has_row = LocalParts(self.folder, self.count).has_row
        return [rows for rows in batches if not has_row[rows].all()]

    @property
    def done(self) -> int:
        """Number of photos whose features are saved."""
        return int(np.count_nonzero(LocalParts(self.folder, self.count).has_row))


def has_photos(folder: Path) -> bool:
    """Whether a folder of parts contains the features of a photo."""
    return any(_saved(folder))


def _saved(folder: Path) -> Iterator[Path]:
    """Yield the parts that were saved, in the order in which they were begun."""
    return (file.parent for file in sorted(folder.glob(f"*/{META}")))


def _new_folder(parts: Path) -> Path:
    """Create the next folder; several processes may do so at the same time."""
    parts.mkdir(parents=True, exist_ok=True)
    number = len(list(parts.iterdir()))
    while True:
        folder = parts / f"{number:06d}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _opened(part: Path) -> tuple[LocalFeatureStore, NDArray[np.int64]]:
    """Open a part without what was appended after the last save; nothing is changed."""
    with damage(part / META, f"Remove {part.parent.parent}."):
        meta = read_json(part / META)
        photos = int(meta["photos"])
        rows = np.load(part / _ROWS, mmap_mode="r")[:photos]
        return LocalFeatureStore(part, meta, photos), rows
