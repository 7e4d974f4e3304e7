"""Lock an output: one process at a time writes it, in place or in a staging folder beside it."""

import errno
import os
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
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
_LOCK_IN_PLACE = ".lock"
_OLD = "old"
_MAX_COMMAND_LENGTH = 200


def staging_folder(output: Path) -> Path:
    """Return `.NAME.partial` beside `output`, or beside the target of a link."""
    target = _target(output)
    return target.with_name(f".{target.name}.partial")


@contextmanager
def locked(output: str | Path, wait: bool = False) -> Iterator[Path]:
    """Create the staging folder of a file or folder and hold an exclusive lock for the block.

    The operating system releases the lock when the process ends, even by SIGKILL. An output that an
    interrupted `publish` has moved aside is restored. A staging folder that is empty after the
    block is removed.

    Args:
        output: File or folder to write.
        wait: Wait until another process has released the lock, and print a notice.

    Raises:
        UserError: Another process holds the lock (the message names it), or the
            folder cannot be written.
    """
    output = Path(output)
    folder = staging_folder(output)
    with _acquired(folder / LOCK, output, wait):
        restore(folder / _OLD, _target(output))
        try:
            yield folder
        finally:
            if folder.exists() and all(path.name == LOCK for path in folder.iterdir()):
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked_in_place(folder: Path) -> Iterator[None]:
    """Create a folder that is written in place and hold an exclusive lock on it for the block.

    Raises:
        UserError: As `locked`.
    """
    lock = folder / _LOCK_IN_PLACE
    with _acquired(lock, folder):
        try:
            yield
        finally:
            with suppress(OSError):
                lock.unlink()


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


@contextmanager
def _acquired(file: Path, output: Path, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive lock on `file`, which is created with its folder."""
    while True:
        lock = _opened(file, output)
        try:
            _lock(lock, output, wait)
            if _is_current(lock, file):
                break
        except BaseException:
            lock.close()
            raise
        lock.close()  # the previous holder has removed the file: lock a new one
    with lock:
        with suppress(OSError):  # the holder's name is optional: the disk may be full
            lock.truncate(0)
            os.write(lock.fileno(), _this_process().encode(errors="replace"))
        yield


def _opened(file: Path, output: Path) -> TextIO:
    """Open the lock file, again and again while the previous holder removes its folder."""
    while True:
        with disk_errors(output):
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                return file.open("a+", errors="replace")
            except FileExistsError:  # a file, or a folder that was removed after mkdir found it
                if any(_is_not_a_folder(parent) for parent in file.parents):
                    raise NotADirectoryError(errno.ENOTDIR, "Not a directory", str(file)) from None
            except FileNotFoundError:  # removed after mkdir
                pass


def _is_not_a_folder(path: Path) -> bool:
    """Whether something other than a folder exists at `path`, such as a file or a broken link."""
    try:
        return not stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return path.is_symlink()


def _lock(lock: TextIO, output: Path, wait: bool) -> None:
    """Lock the open file.

    Raises:
        UserError: Another process holds the lock, and `wait` is False.
    """
    if fcntl is None:
        _warn_no_locks(output, "this system has no file locks")
        return
    try:
        # Released when this process ends, even by SIGKILL; not inherited by child processes.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        if not wait:
            raise UserError(
                f"{output} is being written by {holder}. Wait until it has finished, or choose "
                "another output."
            ) from None
        print(f"{output} is being written by {holder}; waiting for it.", file=sys.stderr)
        fcntl.lockf(lock, fcntl.LOCK_EX)
    except OSError as error:
        _warn_no_locks(output, f"its file system has no locks ({error.strerror})")


def _warn_no_locks(output: Path, reason: str) -> None:
    print(
        f"{output} is not locked: {reason}. Run one command at a time with this output.",
        file=sys.stderr,
    )


def _is_current(lock: TextIO, file: Path) -> bool:
    """Whether the path still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), file.stat())
    except FileNotFoundError:
        return False


def _this_process() -> str:
    """Return process, host, time and command, as messages name the holder of a lock."""
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv else ""
    command = " ".join(command.split())
    if len(command) > _MAX_COMMAND_LENGTH:
        command = f"{command[: _MAX_COMMAND_LENGTH - 1]}…"
    return (
        f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S}"
        f" ({command})"
    )
