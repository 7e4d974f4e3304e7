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
def replace_folder(
    path: str | Path, overwrite: bool = False, marker: str | None = None
) -> Iterator[Path]:
    """Gives a temporary sibling folder to fill, renamed to `path` when the block ends well.

    Args:
        path: the folder.
        overwrite: replace what is there.
        marker: a file that a folder must hold to be replaced; none: any folder is.

    Raises:
        UserMistake: as `check_free`, at the start and again before the renaming, or `path` cannot
            be written.
    """
    path = Path(path)
    check_free(path, overwrite, marker)
    if path.is_symlink():
        path = path.resolve()  # what it points to is replaced, the link stays
    temporary = _sibling(path, folder=True)
    old = temporary.with_name(temporary.name + ".old")
    try:
        yield temporary
        check_free(path, overwrite, marker)  # another process may have been faster
        if path.exists():
            # A filled folder cannot be renamed over: it steps aside first.
            path.rename(old)
        temporary.rename(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_free(path: str | Path, overwrite: bool = False, marker: str | None = None) -> None:
    """Refuses a place where something lies already.

    Args:
        path: a folder to be written.
        overwrite: what is there may be replaced.
        marker: a file that a folder must hold to be replaced, so that a mistyped path costs no
            photos; none: any folder may be.

    Raises:
        UserMistake: `path` is a file, or a folder that is not empty and may not be overwritten.
    """
    path = Path(path)
    if path.is_dir():
        if not any(path.iterdir()):
            return
        if not overwrite:
            raise UserMistake(f"{path}: is there already; overwrite=true replaces it")
        if marker is not None and not (path / marker).is_file():
            raise UserMistake(
                f"{path}: holds other files and no {marker}, so overwrite=true does not replace "
                "it; choose another place or remove it yourself"
            )
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
