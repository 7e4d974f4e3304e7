"""Widths and heights of photos from their headers, cached between runs."""

import os
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from landmark.data.threads import map_in_threads
from landmark.disk.atomic import atomic_file
from landmark.disk.digest import digest_of
from landmark.error import UserError
from landmark.image.decode import ADVICE, read_size

_COLUMNS = ["path", "bytes", "changed", "width", "height"]
_MAX_WITHOUT_PROGRESS_BAR = 500


def photo_sizes(
    root: Path, paths: pd.Series, cache: str | Path | None = None
) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Return widths and heights of the upright photos at `root / path`.

    The cache is one parquet file per root. A photo is read again if its size in bytes or its
    modification time differs.

    Returns:
        Sizes (N, 2), 0 for photos that cannot be read; and position → error message of those.
    """
    file = _cache_folder(cache) / f"sizes-{digest_of(str(root.resolve()))}.parquet"
    photos = pd.DataFrame({"path": paths.to_numpy()})
    files = [f"{root}/{path}" for path in photos["path"]]
    photos[["bytes", "changed"]], errors = _read_pairs(_stamp, files, "look up photos")
    cached = _read_cache(file)
    photos = photos.merge(cached, how="left", on=["path", "bytes", "changed"])
    photos.loc[list(errors), ["width", "height"]] = 0
    unknown = np.flatnonzero(photos["width"].isna())
    if len(unknown):
        sizes, unreadable = _read_pairs(read_size, [files[row] for row in unknown], "read sizes")
        photos.loc[unknown, ["width", "height"]] = sizes
        errors |= {int(unknown[position]): error for position, error in unreadable.items()}
        unaffected = cached[~cached["path"].isin(set(photos["path"]))]
        entries = pd.concat([unaffected, photos[photos["width"] > 0]], ignore_index=True)
        try:
            with atomic_file(file) as temporary:
                entries.drop_duplicates("path").to_parquet(temporary, index=False)
        except (OSError, UserError) as error:
            _notice_no_cache(file.parent, str(error))
    return photos[["width", "height"]].to_numpy(np.int64), errors


def _cache_folder(cache: str | Path | None) -> Path:
    """Return the folder of cached sizes: the argument, $LANDMARK_CACHE or below the home folder."""
    folder = cache or os.environ.get("LANDMARK_CACHE")
    try:
        return Path(folder) if folder else Path.home() / ".cache" / "landmark"
    except RuntimeError:  # a user without a home folder
        return Path(tempfile.gettempdir()) / f"landmark-{os.getuid()}"


@cache
def _notice_no_cache(folder: Path, reason: str) -> None:
    print(
        f"photo sizes are not cached in {folder} ({reason.rstrip('.')}) Set LANDMARK_CACHE to a "
        "folder that can be written.",
        file=sys.stderr,
        flush=True,
    )


def _read_cache(file: Path) -> pd.DataFrame:
    empty = pd.DataFrame({name: pd.Series(dtype="int64") for name in _COLUMNS})
    empty = empty.astype({"path": str, "width": float, "height": float})
    try:
        return pd.read_parquet(file, columns=_COLUMNS) if file.is_file() else empty
    except PermissionError as error:
        _notice_no_cache(file.parent, str(error.strerror))
        return empty
    except (OSError, ValueError, KeyError):
        raise UserError(f"{file} is not a table of photo sizes. Delete it.") from None


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} does not exist. {ADVICE}") from None
    except OSError as error:  # a name too long, a loop of links
        raise UserError(f"{path} cannot be read ({error.strerror}). {ADVICE}") from None
    return status.st_size, status.st_mtime_ns


def _read_pairs(
    read: Callable[[str], tuple[int, int]], files: list[str], title: str
) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Return `read(file)` of each file, (N, 2), and position → error message of failures."""
    errors: dict[int, str] = {}

    def pair(position: int) -> tuple[int, int]:
        try:
            return read(files[position])
        except UserError as error:
            errors[position] = str(error)
            return 0, 0

    pairs = tqdm(
        map_in_threads(pair, range(len(files))),
        desc=title,
        total=len(files),
        unit="photo",
        disable=True if len(files) <= _MAX_WITHOUT_PROGRESS_BAR else None,
    )
    return np.fromiter(pairs, np.dtype((np.int64, 2)), len(files)), errors
