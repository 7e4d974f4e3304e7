"""Files and folders that appear whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from landmark.mistake import UserMistake


@contextmanager
def replace_file(path: str | Path) -> Iterator[Path]:
    """Gives a temporary sibling to write, renamed over `path` when the block ends well.

    Raises:
        UserMistake: the folder of `path` cannot be made or written, or `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise UserMistake(f"{path}: is a folder, a file is to be written there")
    temporary = _sibling(path, folder=False)
    try:
        yield temporary
        os.replace(temporary, path)  # noqa: PTH105 - the same call on every platform
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replace_folder(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Gives a temporary sibling folder to fill, renamed to `path` when the block ends well.

    Raises:
        UserMistake: `path` holds something and `overwrite` is not set, or it cannot be written.
    """
    path = Path(path)
    check_free(path, overwrite)
    if path.is_symlink():
        path = path.resolve()  # what it points to is replaced, the link stays
    temporary = _sibling(path, folder=True)
    old = temporary.with_name(temporary.name + ".old")
    try:
        yield temporary
        if path.exists():
            # A filled folder cannot be renamed over: it steps aside first.
            path.rename(old)
        temporary.rename(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_free(path: str | Path, overwrite: bool = False) -> None:
    """Refuses a place where something lies already.

    Raises:
        UserMistake: `path` is a file, or a folder that is not empty and may not be overwritten.
    """
    path = Path(path)
    if path.is_dir():
        if not overwrite and any(path.iterdir()):
            raise UserMistake(f"{path}: is there already; overwrite=true replaces it")
    elif path.exists():
        raise UserMistake(f"{path}: is a file, a folder is to be written there")


def _sibling(path: Path, folder: bool) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if folder:
            made = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            made.chmod(0o755)
            return made
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        Path(name).chmod(0o644)
        return Path(name)
    except OSError as error:
        raise UserMistake(f"{path}: cannot be written ({error.strerror})") from error
