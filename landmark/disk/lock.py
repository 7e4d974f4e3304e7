"""Lock an output: one process at a time prepares it in a staging folder beside it."""

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from landmark.disk.atomic import move_into_place, restore
from landmark.disk.space import disk_errors
from landmark.error import UserError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"
_OLD = "old"


def staging_folder(output: Path) -> Path:
    """Return `.NAME.partial` beside `output`, or beside the target of a link."""
    target = _target(output)
    return target.with_name(f".{target.name}.partial")


@contextmanager
def locked(output: Path) -> Iterator[Path]:
    """Create the staging folder of `output` and hold an exclusive lock for the block.

    The operating system releases the lock when the process ends, even by SIGKILL. An output that an
    interrupted `publish` has moved aside is restored. A staging folder that is empty after the
    block is removed.

    Raises:
        UserError: Another process holds the lock (the message names it), or the
            folder cannot be written.
    """
    folder = staging_folder(output)
    with disk_errors(output):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:  # a parent, or the folder itself, is a file
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", str(folder)) from None
        lock = (folder / LOCK).open("a+")
    with lock:
        _acquire(lock, folder, output)
        restore(folder / _OLD, _target(output))
        try:
            yield folder
        finally:
            if folder.exists() and all(path.name == LOCK for path in folder.iterdir()):
                shutil.rmtree(folder, ignore_errors=True)


def publish(new: Path, output: Path, staging: Path) -> None:
    """Move the complete folder `new` to `output`, replacing an existing one.

    Args:
        new: Complete folder inside the staging folder.
        output: Destination.
        staging: Locked staging folder.
    """
    move_into_place(new, _target(output), staging / _OLD)


def _target(output: Path) -> Path:
    """Resolve a symbolic link, so that it is kept, and `.` or `..`, which have no name."""
    return output.resolve() if output.is_symlink() or output.name in ("", "..") else output


def _acquire(lock: TextIO, folder: Path, output: Path) -> None:
    if fcntl is None:
        return
    try:
        # Released when this process ends, even by SIGKILL; not inherited by child processes.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        raise UserError(
            f"{output} is being written by {holder}. Wait until it has finished, or choose another "
            "output."
        ) from None
    except OSError:  # the file system does not support locks
        return
    if not (folder / LOCK).exists():
        raise UserError(f"{output} was just finished by another process. Run the command again.")
    with suppress(OSError):  # the holder's name is optional: the disk may be full
        lock.truncate(0)
        os.write(lock.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
