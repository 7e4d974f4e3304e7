"""The file of unit vectors: allocate, memory-map, and check in blocks."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from landmark.artifact.folder import damage
from landmark.disk.space import disk_errors, reserve
from landmark.error import UserError

if TYPE_CHECKING:  # searches read vectors without pandas
    import pandas as pd

    from landmark.artifact.converted import ConvertedVectors

BLOCK_ROWS = 8192
_LENGTH_TOLERANCE = {"float16": 1e-2, "float32": 1e-3}


def dtype_name(dtype: DTypeLike, path: str | Path) -> str:
    """Return `float16` or `float32`.

    Raises:
        UserError: The dtype is another one; names `path`.
    """
    name = np.dtype(dtype).name
    if name not in _LENGTH_TOLERANCE:
        raise UserError(f"{path}: dtype {name} is not valid. Pass float16 or float32.")
    return name


def row_blocks(rows: int, block_rows: int = BLOCK_ROWS, first: int = 0) -> Iterator[slice]:
    """Yield slices of `block_rows` rows (at least 1) that cover first … rows - 1 in order.

    Example:
        >>> list(row_blocks(5, block_rows=3))
        [slice(0, 3, None), slice(3, 5, None)]
    """
    block_rows = max(1, block_rows)
    for start in range(first, rows, block_rows):
        yield slice(start, min(start + block_rows, rows))


def create_vectors(file: Path, rows: int, dim: int, dtype: str, shown: str | Path) -> np.memmap:
    """Create a memory-mapped array (rows, dim) of zeros and allocate its disk space.

    Args:
        file: File to create, in an existing folder.
        rows: N.
        dim: D.
        dtype: float16 or float32, or that of codes.
        shown: Path that messages name instead of `file`, which may be temporary.

    Raises:
        UserError: The vectors do not fit on the disk, or cannot be written.
    """
    with disk_errors(shown):
        try:
            vectors = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=(rows, dim))
            reserve(file)
        except OSError:
            file.unlink(missing_ok=True)
            raise
    return vectors


def open_array(file: Path, mode: Literal["r", "r+"] = "r") -> np.memmap:
    """Memory-map an array.

    Raises:
        UserError: The file is damaged.
    """
    with damage(file):
        # Read-only first: in mode r+ numpy would extend a file that is too short.
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        return array if mode == "r" else np.load(file, mmap_mode=mode, allow_pickle=False)


def open_vectors(file: Path, mode: Literal["r", "r+"] = "r") -> np.memmap:
    """Memory-map vectors (N, D).

    Raises:
        UserError: The file is damaged, or not two-dimensional in float16 or float32.
    """
    vectors = open_array(file, mode)
    if vectors.ndim != 2 or vectors.dtype.name not in _LENGTH_TOLERANCE:
        raise UserError(
            f"{file} has dtype {vectors.dtype} and shape {vectors.shape}. Pass (N, D) in float16 "
            "or float32."
        )
    return vectors


def check_vectors(
    vectors: "NDArray[np.floating] | ConvertedVectors", path: str | Path, ids: "pd.Series"
) -> None:
    """Read every vector once, in blocks.

    Raises:
        UserError: A vector is not finite or not of unit length; names the first id.
    """
    tolerance = _LENGTH_TOLERANCE[vectors.dtype.name]
    for block in row_blocks(len(vectors)):
        exact = np.asarray(vectors[block], np.float32)
        lengths = np.sqrt(np.einsum("nd,nd->n", exact, exact))
        wrong = ~(np.abs(lengths - 1) <= tolerance)  # also true for NaN
        if wrong.any():
            row = int(wrong.argmax())
            raise UserError(
                f"{path}: the vector of {ids.iloc[block.start + row]!r} has length "
                f"{lengths[row]:.4g}. Descriptors must be finite and of unit length."
            )
