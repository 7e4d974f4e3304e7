"""Room on the disk: taken before it is written to, and one clear line where there is none."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from landmark.mistake import UserMistake

FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EFBIG}
_CANNOT_RESERVE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
_ZEROS = 1 << 22


@contextmanager
def disk_mistakes(path: str | Path) -> Iterator[None]:
    """Turns a full disk, a quota or a missing permission into a mistake that names `path`.

    Raises:
        UserMistake: the block met one of these.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL | _REFUSED:
            raise
        reason = os.strerror(error.errno)
        if error.errno in FULL:
            raise DiskFull(
                f"{path}: does not fit on the disk ({reason}); free some space or choose another "
                "place"
            ) from error
        raise UserMistake(f"{path}: cannot be written ({reason})") from error


class DiskFull(UserMistake):
    """No space, or none within the quota."""


def reserve(file: str | Path) -> None:
    """Takes the disk space of a file of holes, so that writing to its memory map cannot fail.

    A process that writes to a page for which there is no room is killed (SIGBUS) and says nothing.

    Raises:
        OSError: there is no room for it.
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
        _fill_holes(opened.fileno(), size)


def _fill_holes(descriptor: int, size: int) -> None:
    """Writes the zeros that are read from the holes; the file's beginning is kept."""
    for start in range(0, size, _ZEROS):
        os.lseek(descriptor, start, os.SEEK_SET)
        content = os.read(descriptor, min(_ZEROS, size - start))
        os.lseek(descriptor, start, os.SEEK_SET)
        written = 0
        while written < len(content):
            written += os.write(descriptor, content[written:])
    os.fsync(descriptor)
