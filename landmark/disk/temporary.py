"""Large temporary arrays on disk instead of in memory."""

import os
import tempfile

import numpy as np
from numpy.typing import DTypeLike

from landmark.error import UserError

_MAX_BYTES_IN_MEMORY = 2**28


def temporary_array(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return an uninitialised array; above 256 MiB it is mapped to a file that is deleted with it.

    The system caches as much of the file as fits in memory and writes back the rest.

    Raises:
        UserError: The folder of temporary files has too little space.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if size <= _MAX_BYTES_IN_MEMORY:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as file:
        try:
            if hasattr(os, "posix_fallocate"):  # a hole in the file would raise SIGBUS later
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype, mode="w+", shape=shape)
        except OSError as error:
            raise UserError(
                f"{tempfile.gettempdir()} has no space for {size / 2**30:.1f} GiB of temporary "
                f"data ({error.strerror}). Set TMPDIR to another folder."
            ) from error
