"""The files of an unfinished store: settings, marks, and the vectors so far."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from landmark.artifact.descriptors import VECTORS, DescriptorStore
from landmark.artifact.vectors import create_vectors, open_array, row_blocks
from landmark.disk.atomic import atomic_file
from landmark.disk.differences import as_recorded
from landmark.disk.lock import LOCK
from landmark.error import UserError

SETTINGS, MARKS, STORE = "settings.json", "marks.npy", "store"
NOT_YET, DESCRIBED, LEFT_OUT = 0, 1, 2


def clear(folder: Path) -> None:
    """Removes what a stopped extraction left in its locked folder."""
    # First the settings: without them the rest counts for nothing.
    (folder / SETTINGS).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def prepare(
    folder: Path,
    output: Path,
    rows: int,
    dim: int,
    dtype: str,
    settings: Mapping[str, Any],
    adds_to: DescriptorStore | None,
) -> None:
    """Makes the files for so many rows behind those of `adds_to`; the settings come last."""
    kept = 0 if adds_to is None else len(adds_to)
    file = folder / STORE / VECTORS
    file.parent.mkdir()
    vectors = create_vectors(file, kept + rows, dim, dtype, named=output / VECTORS)
    if adds_to is not None:
        for block in row_blocks(kept):
            vectors[block] = adds_to.vectors[block]
    vectors.flush()
    marks = np.full(kept + rows, NOT_YET, np.uint8)
    marks[:kept] = DESCRIBED
    np.save(folder / MARKS, marks)
    with atomic_file(folder / SETTINGS) as temporary:
        record = {"settings": as_recorded(settings), "kept": kept}
        temporary.write_text(json.dumps(record, indent=1) + "\n")


def recorded(folder: Path) -> dict[str, Any] | None:
    """`settings` and `kept` of what was begun; None where nothing was.

    Raises:
        UserError: damaged.
    """
    if not (folder / SETTINGS).is_file():
        return None
    try:
        record = json.loads((folder / SETTINGS).read_text())
        return {"settings": dict(record["settings"]), "kept": int(record["kept"])}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder / SETTINGS}: is damaged; remove {folder}") from error


def open_marks(folder: Path, rows: int) -> np.memmap:
    """The marks of the rows, to be written to.

    Raises:
        UserError: damaged, or of another number of rows.
    """
    marks = open_array(folder / MARKS, "r+")
    if marks.shape != (rows,) or marks.dtype != np.uint8:
        raise UserError(f"{folder / MARKS}: does not fit the vectors; remove {folder}")
    return marks
