"""A hidden folder beside the place of an artifact, where one process at a time prepares it."""

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from landmark.artifact.space import disk_mistakes
from landmark.mistake import UserMistake

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"
_OLD = "old"
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE


def hidden_folder(output: Path) -> Path:
    """Where `output` is prepared: `.NAME.partial` beside it, or beside what the link points to."""
    target = _target(output)
    return target.with_name(f".{target.name}.partial")


@contextmanager
def claimed(output: Path) -> Iterator[Path]:
    """Makes the hidden folder of `output` and keeps others off until the block ends.

    An artifact that had stepped aside when its replacement was killed returns. A hidden folder in
    which nothing lies is removed at the end.

    Raises:
        UserMistake: another process is writing there, or the place cannot be written.
    """
    folder = hidden_folder(output)
    with disk_mistakes(output):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a")
    with lock:
        _take(lock, folder, output)
        _return_old(folder / _OLD, _target(output))
        try:
            yield folder
        finally:
            if folder.exists() and all(path.name == LOCK for path in folder.iterdir()):
                shutil.rmtree(folder, ignore_errors=True)


def put(made: Path, output: Path, folder: Path) -> None:
    """Renames the folder `made` to `output`; what is there changes places with it.

    Where the file system cannot exchange two folders at once, the old one steps aside into the
    hidden `folder` first; a kill between the two renames is mended by the next claim.
    """
    target, old = _target(output), folder / _OLD
    if target.exists():
        if exchange(made, target):
            return
        target.rename(old)
    try:
        made.rename(target)
    finally:
        _return_old(old, target)


def exchange(one: Path, other: Path) -> bool:
    """Lets two paths change places in one step; False where that cannot be done."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # Linux alone has it
        return False
    return bool(
        rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), ctypes.c_uint(_EXCHANGE)) == 0
    )


def _return_old(old: Path, target: Path) -> None:
    if old.exists() and not target.exists():
        old.rename(target)


def _target(output: Path) -> Path:
    """What `output` points to: a link stays a link, and `.` has a name too."""
    return output.resolve() if output.is_symlink() or output.name in ("", "..") else output


def _take(lock: TextIO, folder: Path, output: Path) -> None:
    if fcntl is None:
        return
    try:
        # It ends with this process, whatever ends it, and passes to no child.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise UserMistake(f"{output}: another extraction is writing it") from None
    except OSError:  # a file system without locks
        return
    if not (folder / LOCK).exists():
        raise UserMistake(f"{output}: another extraction has just finished it; start again")
