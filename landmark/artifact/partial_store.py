"""A descriptor store being written, from which a stopped extraction resumes."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.artifact.descriptors import META, VECTORS, DescriptorStore, write_description
from landmark.artifact.folder import damage, read_json, write_json
from landmark.artifact.local_features import FOLDER
from landmark.artifact.vectors import (
    check_vectors,
    create_vectors,
    open_array,
    open_vectors,
    row_blocks,
)
from landmark.disk.atomic import atomic_file, check_can_write
from landmark.disk.differences import as_recorded
from landmark.disk.lock import LOCK, publish
from landmark.disk.space import disk_errors
from landmark.error import UserError

# Names in the staging folder; the last is a copy without the rows of skipped photos.
_SETTINGS, _MARKS, _STORE, _COMPACTED = "settings.json", "marks.npy", "store", "compacted"
_NOT_DONE, _DONE, _SKIPPED = 0, 1, 2


class PartialStore:
    """The staging folder `.NAME.partial` beside the store NAME: vectors, and a mark per row.

    Several processes may share it, each writing its own rows. A row is marked done only after its
    vector is flushed, so that a crash never leaves a row that is marked but not written. The
    settings are written last: a folder without them is ignored.

    Attributes:
        folder: Staging folder.
        vectors: (N, D) memory-mapped, zeros in rows that are not written yet.
        existing: Number of leading rows copied from the store being extended; the rows of `add`,
            `remaining` and `skipped` are relative to it.
    """

    def __init__(self, folder: Path) -> None:
        record = _read_record(folder)
        if record is None:
            raise UserError(f"{folder} does not contain a stopped extraction.")
        self.folder = folder
        self.existing = int(record["kept"])
        self.vectors = open_vectors(folder / _STORE / VECTORS, "r+")
        self._marks = open_array(folder / _MARKS, "r+")
        if self._marks.shape != (len(self.vectors),) or self._marks.dtype != np.uint8:
            raise UserError(f"{folder / _MARKS} does not match the vectors. Remove {folder}.")
        self._unmarked: list[tuple[NDArray[np.int64], NDArray[np.uint8]]] = []

    @classmethod
    def create(
        cls,
        folder: Path,
        output: Path,
        rows: int,
        dim: int,
        dtype: str,
        settings: Mapping[str, Any],
        extends: DescriptorStore | None = None,
    ) -> "PartialStore":
        """Create the files in a locked staging folder.

        Args:
            folder: Staging folder; other files in it are removed.
            output: Path of the finished store, for messages.
            rows: Number of photos to extract.
            dim: D.
            dtype: float16 or float32.
            settings: Settings that the vectors depend on, see `recorded_settings`.
            extends: Store whose vectors come first.

        Raises:
            UserError: The disk is full or cannot be written.
        """
        clear(folder)
        existing = 0 if extends is None else len(extends)
        try:
            with disk_errors(output):
                file = folder / _STORE / VECTORS
                file.parent.mkdir()
                vectors = create_vectors(file, existing + rows, dim, dtype, output / VECTORS)
                if extends is not None:
                    for block in row_blocks(existing):
                        vectors[block] = extends.vectors[block]
                vectors.flush()
                marks = np.full(existing + rows, _NOT_DONE, np.uint8)
                marks[:existing] = _DONE
                np.save(folder / _MARKS, marks)
                record = {"settings": as_recorded(settings), "kept": existing}
                with atomic_file(folder / _SETTINGS) as temporary:
                    write_json(temporary, record)
        except BaseException:
            clear(folder)
            raise
        return cls(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the folder: another process maps the files again."""
        return PartialStore, (self.folder,)

    def parts(self, name: str) -> Path:
        """Return the folder in which processes save local features, see `LocalPart`."""
        return self.folder / FOLDER / name

    def add(self, rows: NDArray[np.int64], descriptors: NDArray[np.floating]) -> None:
        """Write the descriptors (B, D) of rows (B,).

        A negative row r means that the photo of row -r - 1 cannot be read: it is skipped and its
        descriptor ignored.
        """
        is_skipped = rows < 0
        stored_rows = self.existing + np.where(is_skipped, -rows - 1, rows)
        self.vectors[stored_rows[~is_skipped]] = descriptors[~is_skipped]
        self._unmarked.append((stored_rows, np.where(is_skipped, _SKIPPED, _DONE)))

    def save(self) -> None:
        """Flush the added vectors, and only then mark their rows."""
        self.vectors.flush()
        for stored_rows, marks in self._unmarked:
            self._marks[stored_rows] = marks
        self._marks.flush()
        self._unmarked = []

    def remaining(self, batches: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        """Return the batches with a row that is not done."""
        return [rows for rows in batches if not self._marks[self.existing + rows].all()]

    @property
    def done(self) -> int:
        """Number of photos that are extracted or skipped."""
        return int(np.count_nonzero(self._marks[self.existing :]))

    @property
    def described(self) -> NDArray[np.int64]:
        """Rows that have a descriptor."""
        return np.flatnonzero(self._marks[self.existing :] == _DONE)

    @property
    def skipped(self) -> NDArray[np.int64]:
        """Rows whose photo cannot be read."""
        return np.flatnonzero(self._marks[self.existing :] == _SKIPPED)

    def finish(
        self,
        output: Path,
        rows: pd.DataFrame,
        meta: str,
        skipped: pd.DataFrame,
        overwrite: bool = False,
        complete: Callable[[DescriptorStore], object] = lambda _: None,
    ) -> None:
        """Move the complete store to `output` and remove the staging folder.

        Args:
            output: Destination of the store.
            rows: Rows of ids.parquet, one per vector, including those of skipped photos.
            meta: Text of meta.json.
            skipped: `id` and `path` of the skipped photos.
            overwrite: Replace an existing store.
            complete: Called with the store before it is moved, to write what belongs inside.

        Raises:
            UserError: A vector is not finite or not of unit length, or the disk is full.
            RuntimeError: A row is not done.
        """
        missing = int(np.count_nonzero(self._marks == _NOT_DONE))
        if missing:
            raise RuntimeError(f"{self.folder}: {missing:,} rows have no descriptor")
        is_kept = self._marks == _DONE
        folder = self.folder / _STORE
        if not is_kept.all():
            folder = self._compacted(is_kept, output)
            rows = rows[is_kept]
        check_vectors(open_vectors(folder / VECTORS), output, rows["id"])
        with disk_errors(output):
            write_description(folder, rows, meta, skipped)
        complete(DescriptorStore.open(folder))
        check_can_write(output, overwrite, marker=META)
        publish(folder, output, self.folder)
        clear(self.folder)
        shutil.rmtree(self.folder)

    def _compacted(self, is_kept: NDArray[np.bool_], output: Path) -> Path:
        """Copy the rows to keep; moving them in place would not survive a kill."""
        folder = self.folder / _COMPACTED
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        rows, dim = int(is_kept.sum()), self.vectors.shape[1]
        copy = create_vectors(
            folder / VECTORS, rows, dim, self.vectors.dtype.name, output / VECTORS
        )
        start = 0
        for block in row_blocks(len(self.vectors)):
            kept = self.vectors[block][is_kept[block]]
            copy[start : start + len(kept)] = kept
            start += len(kept)
        copy.flush()
        return folder


def recorded_settings(folder: Path) -> dict[str, Any] | None:
    """Return the settings of the stopped extraction in a staging folder; None without one.

    Raises:
        UserError: The record is damaged.
    """
    record = _read_record(folder)
    return None if record is None else dict(record["settings"])


def clear(folder: Path) -> None:
    """Remove a stopped extraction from its locked staging folder."""
    # The settings first: without them the rest is ignored.
    (folder / _SETTINGS).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _read_record(folder: Path) -> dict[str, Any] | None:
    if not (folder / _SETTINGS).is_file():
        return None
    with damage(folder / _SETTINGS, f"Remove {folder}."):
        record = read_json(folder / _SETTINGS)
        return {"settings": dict(record["settings"]), "kept": int(record["kept"])}
