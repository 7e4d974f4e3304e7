"""Disk space: reserve it before writing, and report a full disk in one line."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from landmark.error import UserError

FULL = {errno.ENOSPC, errno.EDQUOT}
DENIED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EFBIG}
_CANNOT_RESERVE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
_CHUNK_BYTES = 1 << 22


class DiskFullError(UserError):
    """The disk is full or the quota is exceeded."""


@contextmanager
def disk_errors(path: str | Path, within: Path | None = None) -> Iterator[None]:
    """Turn a full disk, a quota or a missing permission into an error that names `path`.

    Args:
        path: Path that the message names.
        within: Translate only errors of files at or below this path, and errors without a file
            name, such as that of a full disk. Defaults to all errors.

    Raises:
        DiskFullError: The disk is full.
        UserError: A permission is missing.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL | DENIED or not _is_within(error, within):
            raise
        reason = os.strerror(error.errno)
        if error.errno in FULL:
            raise DiskFullError(
                f"{path} does not fit on the disk ({reason}). Free some space or choose another "
                "location."
            ) from error
        raise UserError(f"{path} cannot be written ({reason}). Choose another location.") from error


def _is_within(error: OSError, folder: Path | None) -> bool:
    if folder is None or error.filename is None:
        return True
    return Path(os.fsdecode(error.filename)).is_relative_to(folder)


def free_bytes(path: str | Path) -> int:
    """Return the free space of the file system on which `path` is, or will be created."""
    path = Path(path).absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(existing).free


def reserve(file: str | Path) -> None:
    """Allocate the disk space of a sparse file, so that writing to its memory map cannot fail.

    Otherwise SIGBUS kills a process that writes to a mapped page without free disk space.

    Raises:
        OSError: The disk has not enough space.
    """
    with Path(file).open("r+b") as opened:
        size = os.fstat(opened.fileno()).st_size
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(opened.fileno(), 0, size)
            except OSError as error:
                if error.errno not in _CANNOT_RESERVE:
                    raise
            else:
                return
        _write_zeros(opened.fileno(), size)


def _write_zeros(descriptor: int, size: int) -> None:
    """Write zeros into the holes of a sparse file; existing content is kept."""
    for start in range(0, size, _CHUNK_BYTES):
        os.lseek(descriptor, start, os.SEEK_SET)
        content = os.read(descriptor, min(_CHUNK_BYTES, size - start))
        os.lseek(descriptor, start, os.SEEK_SET)
        written = 0
        while written < len(content):
            written += os.write(descriptor, content[written:])
    os.fsync(descriptor)
