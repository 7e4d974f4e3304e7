"""Arrays on disk that grow by appending rows."""

import os
from io import BytesIO
from pathlib import Path

import numpy as np

from landmark.error import UserError

_BUFFER_BYTES = 1 << 20


class GrowingArray:
    """A .npy file to which rows are appended.

    Numpy pads the header so that the number of rows can change in place.

    Args:
        file: File to create, or to continue.
        dtype: Dtype of the rows.
        row: Shape of a row.
        rows: Number of complete rows in the file; those after them are removed. 0 creates it.

    Raises:
        UserError: The file has fewer rows.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "array.npy"
        >>> with GrowingArray(file, "float32", (2,)) as array:
        ...     array.append(np.ones((3, 2), np.float32))
        ...     array.flush()
        >>> np.load(file).shape
        (3, 2)
    """

    def __init__(self, file: Path, dtype: str, row: tuple[int, ...], rows: int = 0) -> None:
        self._path, self._dtype, self._row, self._rows = file, np.dtype(dtype), row, rows
        row_bytes = self._dtype.itemsize * int(np.prod(row, dtype=np.int64))
        end = len(self._header()) + rows * row_bytes
        if rows and (not file.exists() or file.stat().st_size < end):
            raise UserError(f"{file} is damaged (too short). Remove {file.parent.parent}.")
        # Not mode a: it cannot rewrite the header.
        self._file = file.open("r+b" if rows else "w+b", buffering=_BUFFER_BYTES)
        self._file.write(self._header())
        self._file.truncate(end)  # rows after the last save may be incomplete
        self._file.seek(end)

    def __enter__(self) -> "GrowingArray":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def check(self, rows: np.ndarray) -> None:
        """Check that rows (n, …) can be appended.

        Raises:
            ValueError: They have another dtype or shape.
        """
        if rows.dtype != self._dtype or rows.shape[1:] != self._row:
            raise ValueError(
                f"{self._path.name} has rows {self._row} of {self._dtype}, not {rows.shape[1:]} "
                f"of {rows.dtype}"
            )

    def append(self, rows: np.ndarray) -> None:
        """Append rows (n, …) to the buffer of the file."""
        self._file.write(np.ascontiguousarray(rows).data)
        self._rows += len(rows)

    def flush(self) -> None:
        """Write header and rows to the disk."""
        end = self._file.tell()
        self._file.seek(0)
        self._file.write(self._header())
        self._file.seek(end)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _header(self) -> bytes:
        """Return the header; its length does not depend on the number of rows."""
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._rows, *self._row),
        }
        stream = BytesIO()
        np.lib.format.write_array_header_1_0(stream, header)
        return stream.getvalue()
