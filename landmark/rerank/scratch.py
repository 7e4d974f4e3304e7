"""Large arrays that need no memory of their own."""

import os
import tempfile

import numpy as np
from numpy.typing import DTypeLike

from landmark.mistake import UserMistake

_MOST_BYTES_IN_MEMORY = 2**28


def scratch(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """An array to fill; a large one lies in a temporary file that goes away with it.

    The system keeps of the file in memory what fits there, and writes out the rest.

    Raises:
        UserMistake: The folder of temporary files has no room for it.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if size <= _MOST_BYTES_IN_MEMORY:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as file:
        try:
            if hasattr(os, "posix_fallocate"):  # a hole in the file would end the process later
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype, mode="w+", shape=shape)
        except OSError as error:
            raise UserMistake(
                f"{tempfile.gettempdir()}: no room for {size / 2**30:.1f} GiB of temporary data "
                f"({error.strerror}); set TMPDIR to another folder"
            ) from error
