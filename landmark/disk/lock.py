"""A staging folder beside an output, in which one process at a time prepares it."""

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
    """Where `output` is prepared: `.NAME.partial` beside it, or beside the target of a link."""
    target = _target(output)
    return target.with_name(f".{target.name}.partial")


@contextmanager
def locked(output: Path) -> Iterator[Path]:
    """Create the staging folder of `output` and hold an exclusive lock for the block.

    The operating system releases the lock with the process, however it ends. An output that an
    interrupted `publish` had moved aside is restored. A staging folder left empty is removed.

    Raises:
        UserError: Another process holds the lock (says which), or the folder cannot be written.
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


def publish(made: Path, output: Path, staging: Path) -> None:
    """Move the complete folder `made` to `output`, replacing an existing one.

    Args:
        made: The complete folder, inside the staging folder.
        output: Where it belongs.
        staging: The locked staging folder.
    """
    move_into_place(made, _target(output), staging / _OLD)


def _target(output: Path) -> Path:
    """The target of `output`: a link stays a link, and `.` gets its name."""
    return output.resolve() if output.is_symlink() or output.name in ("", "..") else output


def _acquire(lock: TextIO, folder: Path, output: Path) -> None:
    if fcntl is None:
        return
    try:
        # Released when this process ends, whatever ends it, and not inherited by children.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        raise UserError(
            f"{output} is being written by {holder}. Wait until it has finished, or choose another "
            "output."
        ) from None
    except OSError:  # a file system without locks
        return
    if not (folder / LOCK).exists():
        raise UserError(
            f"{output} was finished by another process just now. Run the command again."
        )
    with suppress(OSError):  # the name of the holder is a courtesy: a full disk may refuse it
        lock.truncate(0)
        os.write(lock.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
