"""The file of unit vectors: made with its disk space, opened memory-mapped, checked in blocks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import DTypeLike, NDArray

from landmark.disk.space import disk_errors, reserve
from landmark.error import UserError

_ROWS_AT_ONCE = 8192
_LENGTH_TOLERANCE = {"float16": 1e-2, "float32": 1e-3}


def dtype_name(dtype: DTypeLike, path: str | Path) -> str:
    """`float16` or `float32`.

    Raises:
        UserError: any other.
    """
    name = np.dtype(dtype).name
    if name not in _LENGTH_TOLERANCE:
        raise UserError(f"{path}: dtype {name}; choose float16 or float32")
    return name


def row_blocks(rows: int, at_once: int = _ROWS_AT_ONCE) -> Iterator[slice]:
    """Slices that cover 0 … rows in order, `at_once` rows each."""
    for start in range(0, rows, at_once):
        yield slice(start, min(start + at_once, rows))


def create_vectors(file: Path, rows: int, dim: int, dtype: str, named: str | Path) -> np.memmap:
    """A new memory-mapped (rows, dim) of zeros whose disk space is taken.

    Args:
        file: where; its folder is there.
        rows: N.
        dim: D.
        dtype: float16 or float32.
        named: what a mistake calls the file.

    Raises:
        UserError: it does not fit on the disk, or cannot be written.
    """
    with disk_errors(named):
        try:
            made = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=(rows, dim))
            reserve(file)
        except OSError:
            file.unlink(missing_ok=True)
            raise
    return made


def open_array(file: Path, mode: Literal["r", "r+"] = "r") -> np.memmap:
    """Opens an array memory-mapped.

    Raises:
        UserError: damaged.
    """
    try:
        # First to read: numpy would make a file that is too short longer, to write to.
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        return array if mode == "r" else np.load(file, mmap_mode=mode, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{file}: is damaged ({error})") from error


def open_vectors(file: Path, mode: Literal["r", "r+"] = "r") -> np.memmap:
    """Opens (N, D) memory-mapped.

    Raises:
        UserError: damaged, or not of two dimensions in float16 or float32.
    """
    vectors = open_array(file, mode)
    if vectors.ndim != 2 or vectors.dtype.name not in _LENGTH_TOLERANCE:
        raise UserError(
            f"{file}: {vectors.dtype} {vectors.shape} is no (N, D) of float16 or float32"
        )
    return vectors


def check_vectors(vectors: NDArray[np.floating], path: str | Path, ids: pd.Series) -> None:
    """Reads every vector once, in blocks.

    Raises:
        UserError: one is not finite or not of unit length; names the first id.
    """
    tolerance = _LENGTH_TOLERANCE[vectors.dtype.name]
    for block in row_blocks(len(vectors)):
        lengths = _lengths(vectors[block])
        # NaN compares false, so this also finds what is not finite.
        wrong = ~(np.abs(lengths - 1) <= tolerance)
        if wrong.any():
            row = int(wrong.argmax())
            raise UserError(
                f"{path}: the vector of {ids.iloc[block.start + row]!r} has length "
                f"{lengths[row]:.4g}, descriptors are finite and of unit length"
            )


def _lengths(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    block = np.asarray(vectors, np.float32)
    return np.sqrt(np.einsum("nd,nd->n", block, block))
