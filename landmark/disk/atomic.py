"""Atomic writes: files and folders appear complete or not at all."""

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from landmark.disk.space import disk_errors
from landmark.error import UserError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def atomic_file(path: str | Path, temporary: Path | None = None) -> Iterator[Path]:
    """Yield a temporary sibling to write, renamed over `path` when the block succeeds.

    Args:
        path: File to write.
        temporary: Sibling to use. Defaults to a new unique name; a fixed name is overwritten by the
            next attempt, so that killed writers of a large file leave at most one copy.

    Raises:
        UserError: `path` is a folder, its parent cannot be created or written, or the disk is full.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder. Pass the path of a file.")
    _create_parent(path)
    if temporary is None:
        with disk_errors(path):
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            os.close(handle)
            temporary = Path(name)
            temporary.chmod(0o644)
    try:
        with disk_errors(path, within=temporary):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(
    path: str | Path, overwrite: bool = False, marker: str | None = None
) -> Iterator[Path]:
    """Yield a temporary sibling folder to fill, renamed to `path` when the block succeeds.

    Args:
        path: Folder to write.
        overwrite: Replace an existing folder.
        marker: As in `check_can_write`.

    Raises:
        UserError: As `check_can_write`, at the start and again before the rename, or the disk is
            full or `path` cannot be written.
    """
    path = Path(path)
    check_can_write(path, overwrite, marker)
    if path.is_symlink():
        path = path.resolve()  # replace the target, keep the link
    _create_parent(path)
    with disk_errors(path):
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        temporary.chmod(0o755)
    old = temporary.with_name(temporary.name + ".old")
    try:
        with disk_errors(path, within=temporary):
            yield temporary
        check_can_write(path, overwrite, marker)  # another process may have written it meanwhile
        with disk_errors(path):
            move_into_place(temporary, path, old)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _create_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # also where a parent is a file
        reason = error.strerror
        raise UserError(f"{path} cannot be written ({reason}). Choose another location.") from error


def move_into_place(new: Path, path: Path, old: Path) -> None:
    """Rename the folder `new` to `path`, exchanging it with an existing folder.

    Args:
        new: Complete folder.
        path: Destination.
        old: Path to which an existing folder is renamed first where the file system cannot exchange
            two folders atomically. After a kill between the two renames it is still at `old`: see
            `restore`.
    """
    if path.exists():
        if exchange(new, path):
            return
        path.rename(old)
    try:
        new.rename(path)
    finally:
        restore(old, path)


def restore(old: Path, path: Path) -> None:
    """Undo the first half of an interrupted `move_into_place`."""
    if old.exists() and not path.exists():
        old.rename(path)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two paths atomically; return False if the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # Linux only
        return False
    flags = ctypes.c_uint(_RENAME_EXCHANGE)
    return bool(rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), flags) == 0)


def check_can_write(
    path: str | Path,
    overwrite: bool = False,
    marker: str | None = None,
    option: str = "overwrite=true",
) -> None:
    """Check that a folder can be written to `path`.

    Args:
        path: Folder to be written.
        overwrite: An existing folder may be replaced.
        marker: File that an existing folder must contain to be replaced, so that a mistyped path
            does not delete somebody's photos. None means that any folder may be replaced.
        option: Option that overwrites, as the message spells it.

    Raises:
        UserError: `path` is a file, or a non-empty folder that may not be overwritten.
    """
    path = Path(path)
    if path.is_dir():
        if not any(path.iterdir()):
            return
        if not overwrite:
            raise UserError(f"{path} already exists. Pass {option} to replace it.")
        if marker is not None and not (path / marker).is_file():
            raise UserError(
                f"{path} contains other files and no {marker}, so {option} does not replace it. "
                "Choose another location, or remove it yourself."
            )
    elif path.exists():
        raise UserError(f"{path} is a file. Pass the path of a folder.")
