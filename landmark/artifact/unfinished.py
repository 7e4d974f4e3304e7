"""A store in the making: what a stopped extraction leaves, and what it goes on from."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.artifact.description import META, write_description
from landmark.artifact.descriptors import VECTORS, DescriptorStore
from landmark.artifact.unfinished_files import (
    DESCRIBED,
    LEFT_OUT,
    NOT_YET,
    STORE,
    clear,
    open_marks,
    prepare,
    recorded,
)
from landmark.artifact.vectors import (
    check_vectors,
    create_vectors,
    open_vectors,
    row_blocks,
)
from landmark.disk.atomic import check_can_write
from landmark.disk.differences import check_same_settings
from landmark.disk.lock import publish
from landmark.disk.space import disk_errors
from landmark.error import UserError

_WITHOUT_LEFT_OUT = "without_left_out"


class UnfinishedStore:
    """The hidden folder `.NAME.partial` beside the store NAME: vectors, and a mark a finished row.

    Processes may share it, each writing rows of its own. A row is marked only when its vector is
    on the disk, so whoever is killed at any moment leaves nothing that is taken for done and is
    not. The settings are written last when it is begun: without them nothing counts.

    Attributes:
        folder: the hidden folder.
        vectors: (N, D) memory-mapped, zeros where nothing was described yet.
        kept: the first so many rows are those of the store that is added to; the rows of `add`,
            `remaining` and `left_out` are counted from there.
    """

    def __init__(self, folder: Path) -> None:
        record = recorded(folder)
        if record is None:
            raise UserError(f"{folder}: holds no stopped extraction")
        self.folder = folder
        self.kept = int(record["kept"])
        self.vectors = open_vectors(folder / STORE / VECTORS, "r+")
        self._marks = open_marks(folder, len(self.vectors))
        self._unsaved: list[tuple[NDArray[np.int64], NDArray[np.uint8]]] = []

    @classmethod
    def begin(
        cls,
        folder: Path,
        output: Path,
        rows: int,
        dim: int,
        dtype: str,
        settings: Mapping[str, Any],
        adds_to: DescriptorStore | None = None,
    ) -> "UnfinishedStore":
        """Begins, or goes on where the same settings were stopped.

        Args:
            folder: the hidden folder, locked.
            output: the store that it is to become, as mistakes call it.
            rows: photos to describe.
            dim: D.
            dtype: float16 or float32.
            settings: what the vectors depend on.
            adds_to: a store whose vectors come first.

        Raises:
            UserError: other settings were stopped there, or there is no room.
        """
        record = recorded(folder)
        if record is not None:
            anew = "overwrite=true" if adds_to is None else "remove that folder"
            check_same_settings(
                record["settings"],
                settings,
                f"{folder}: contains a stopped extraction",
                f"use the same settings to go on, or {anew} to begin anew",
            )
            return cls(folder)
        clear(folder)
        try:
            with disk_errors(output):
                prepare(folder, output, rows, dim, dtype, settings, adds_to)
        except BaseException:
            clear(folder)
            raise
        return cls(folder)

    def add(self, rows: NDArray[np.int64], descriptors: NDArray[np.floating]) -> None:
        """Takes the descriptors (B, D) of some rows (B,).

        A row number r below 0 says that row -r - 1 has no photo that can be read: it is left out,
        whatever its descriptor.
        """
        is_left_out = rows < 0
        places = self.kept + np.where(is_left_out, -rows - 1, rows)
        self.vectors[places[~is_left_out]] = descriptors[~is_left_out]
        self._unsaved.append((places, np.where(is_left_out, LEFT_OUT, DESCRIBED)))

    def save(self) -> None:
        """Writes what was added to the disk, and then marks it as done."""
        self.vectors.flush()
        for places, marks in self._unsaved:
            self._marks[places] = marks
        self._marks.flush()
        self._unsaved = []

    def remaining(self, batches: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        """The batches of which a row is not done."""
        return [rows for rows in batches if not self._marks[self.kept + rows].all()]

    @property
    def done(self) -> int:
        """How many of the photos to describe are done."""
        return int(np.count_nonzero(self._marks[self.kept :]))

    @property
    def left_out(self) -> NDArray[np.int64]:
        """Rows without a photo that can be read."""
        return np.flatnonzero(self._marks[self.kept :] == LEFT_OUT)

    def finish(
        self,
        output: Path,
        rows: pd.DataFrame,
        description: str,
        skipped: pd.DataFrame,
        overwrite: bool = False,
    ) -> None:
        """Makes the store of it and removes the hidden folder.

        Args:
            output: where the store belongs.
            rows: `id` and `landmark_id` of each row, those left out among them.
            description: the text of meta.json.
            skipped: `id` and `path` of the photos left out.
            overwrite: a store that is there is replaced.

        Raises:
            UserError: a vector is not finite or not of unit length, or the disk is full.
            RuntimeError: rows are missing.
        """
        missing = int(np.count_nonzero(self._marks == NOT_YET))
        if missing:
            raise RuntimeError(f"{self.folder}: {missing:,} rows were not described")
        present = self._marks == DESCRIBED
        folder = self.folder / STORE
        if not present.all():
            folder = self._without_left_out(present, output)
            rows = rows[present]
        check_vectors(open_vectors(folder / VECTORS), output, rows["id"])
        with disk_errors(output):
            write_description(folder, rows, description, skipped)
        check_can_write(output, overwrite, marker=META)
        publish(folder, output, self.folder)
        clear(self.folder)
        shutil.rmtree(self.folder)

    def _without_left_out(self, present: NDArray[np.bool_], output: Path) -> Path:
        """A copy without the rows left out; moving rows in place would not survive a kill."""
        folder = self.folder / _WITHOUT_LEFT_OUT
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        dim, dtype = self.vectors.shape[1], self.vectors.dtype.name
        copy = create_vectors(
            folder / VECTORS, int(present.sum()), dim, dtype, named=output / VECTORS
        )
        start = 0
        for block in row_blocks(len(self.vectors)):
            chosen = self.vectors[block][present[block]]
            copy[start : start + len(chosen)] = chosen
            start += len(chosen)
        copy.flush()
        return folder
