"""Widths and heights of photos from their headers, remembered between runs."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from landmark.disk.atomic import atomic_file
from landmark.disk.digest import digest_of
from landmark.error import UserError
from landmark.image.decode import read_size

_SHOWN_FROM = 500
_THREADS = 16
# Futures are made for a block at a time: the table may have millions of rows.
_BLOCK = 4096


def photo_sizes(
    root: Path, paths: pd.Series, cache: str | Path | None = None
) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Return widths and heights of the upright photos at `root / path`.

    A photo's size is remembered in one parquet file a root and read anew when the photo's length
    in bytes or its time of change differs.

    Returns:
        (N, 2), 0 for photos whose size cannot be read; and place → reason of each of these.
    """
    file = _cache_folder(cache) / f"sizes-{digest_of(str(root.resolve()))}.parquet"
    found = pd.DataFrame({"path": paths.to_numpy()})
    places = [f"{root}/{path}" for path in found["path"]]
    stamps, reasons = _in_threads(_stamp, places, "look up photos")
    found[["bytes", "changed"]] = stamps
    remembered = _read_cache(file)
    merged = found.merge(remembered, how="left", on=["path", "bytes", "changed"])
    merged.loc[list(reasons), ["width", "height"]] = 0
    unknown = np.flatnonzero(merged["width"].isna())
    if len(unknown):
        sizes, unreadable = _in_threads(read_size, [places[row] for row in unknown], "read sizes")
        merged.loc[unknown, ["width", "height"]] = sizes
        reasons |= {int(unknown[place]): reason for place, reason in unreadable.items()}
        older = remembered[~remembered["path"].isin(set(found["path"]))]
        readable = merged[merged["width"] > 0]
        _write_cache(file, pd.concat([older, readable], ignore_index=True))
    return merged[["width", "height"]].to_numpy(np.int64), reasons


def _cache_folder(cache: str | Path | None) -> Path:
    chosen = cache or os.environ.get("LANDMARK_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "landmark"


def _read_cache(file: Path) -> pd.DataFrame:
    columns = ["path", "bytes", "changed", "width", "height"]
    if not file.is_file():
        empty = pd.DataFrame({name: pd.Series(dtype="int64") for name in columns})
        return empty.astype({"path": str, "width": float, "height": float})
    try:
        return pd.read_parquet(file, columns=columns)
    except (OSError, ValueError, KeyError):
        raise UserError(f"{file}: not a table of sizes; delete it") from None


def _write_cache(file: Path, frame: pd.DataFrame) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as temporary:
        frame.drop_duplicates("path").to_parquet(temporary, index=False)


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        raise UserError(f"{path}: no such photo") from None
    return status.st_size, status.st_mtime_ns


def _in_threads(
    read: Callable[[str], tuple[int, int]], paths: list[str], word: str
) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Return (N, 2) of what `read` gives for each path, and place → reason where it gives none."""
    pairs = np.zeros((len(paths), 2), np.int64)
    reasons: dict[int, str] = {}

    def read_or_note(place: int) -> tuple[int, int]:
        try:
            return read(paths[place])
        except UserError as mistake:
            reasons[place] = str(mistake)
            return 0, 0

    with (
        ThreadPoolExecutor(_THREADS) as pool,
        tqdm(
            total=len(paths),
            desc=word,
            unit="photo",
            disable=True if len(paths) <= _SHOWN_FROM else None,
        ) as progress,
    ):
        for start in range(0, len(paths), _BLOCK):
            block = range(start, min(start + _BLOCK, len(paths)))
            pairs[start : block.stop] = list(pool.map(read_or_note, block))
            progress.update(len(block))
    return pairs, reasons
