"""Large temporary arrays that live on disk instead of in memory."""

import os
import tempfile

import numpy as np
from numpy.typing import DTypeLike

from landmark.error import UserError

_MOST_BYTES_IN_MEMORY = 2**28


def temporary_array(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """An uninitialised array; above 256 MiB it is mapped to a file that is deleted with it.

    The system keeps the parts of the file that fit in memory and writes back the rest.

    Raises:
        UserError: The folder of temporary files has no room for it.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if size <= _MOST_BYTES_IN_MEMORY:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as file:
        try:
            if hasattr(os, "posix_fallocate"):  # a sparse file could end the process later
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype, mode="w+", shape=shape)
        except OSError as error:
            raise UserError(
                f"{tempfile.gettempdir()} has no room for {size / 2**30:.1f} GiB of temporary data "
                f"({error.strerror}). Set TMPDIR to another folder."
            ) from error
