"""Indexes on disk: a folder that says what the index was built with and of."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from landmark import __version__
from landmark.artifact.stacked import StackedVectors
from landmark.disk.atomic import atomic_folder
from landmark.disk.digest import digest_of_blocks
from landmark.error import UserError

if TYPE_CHECKING:
    from faiss import Index

SCHEMA = 1
INDEX, META = "index.faiss", "index.json"
_ROWS_AT_ONCE = 65536


def write(
    folder: Path, index: "Index", settings: dict[str, Any], gallery: np.ndarray | StackedVectors
) -> None:
    """Writes an index into a folder that is there.

    Args:
        folder: A folder.
        index: A faiss index of the gallery's rows, in their order.
        settings: What it was built with: JSON-able values.
        gallery: (N, D).

    Raises:
        UserError: It cannot be written.
    """
    import faiss

    about = {
        "schema": SCHEMA,
        "version": __version__,
        "faiss": faiss.__version__,
        "settings": settings,
        "gallery": {**_kind(gallery), "rows": len(gallery), "digest": digest(gallery)},
    }
    try:
        faiss.write_index(index, str(folder / INDEX))
        (folder / META).write_text(json.dumps(about, indent=1) + "\n")
    except (RuntimeError, OSError) as error:
        raise UserError(f"{folder.parent}: the index cannot be written ({error})") from error


def save(
    path: Path, index: "Index", settings: dict[str, Any], gallery: np.ndarray | StackedVectors
) -> None:
    """Replaces a saved index in one step; as `write`."""
    with atomic_folder(path, overwrite=True, marker=META) as folder:
        write(folder, index, settings, gallery)


def is_there(path: Path) -> bool:
    """Whether an index was saved here.

    Raises:
        UserError: Something else lies here.
    """
    if (path / META).is_file():
        return True
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise UserError(f"search.index={path}: holds no saved index; choose another place")
    return False


def open_index(
    path: Path, settings: dict[str, Any], gallery: np.ndarray | StackedVectors
) -> "Index":
    """Opens a saved index of the first rows of a gallery, or of all.

    Args:
        path: Its folder.
        settings: What it must have been built with.
        gallery: (N, D).

    Raises:
        UserError: It is damaged, of a later version, was built with other settings, or of other
            vectors than the gallery's first; names what differs.
    """
    import faiss

    try:
        about = json.loads((path / META).read_text())
        of = about["gallery"]
        there = {**about["settings"], **{f"gallery {key}": of[key] for key in _kind(gallery)}}
        rows, schema, recorded = int(of["rows"]), int(about["schema"]), of["digest"]
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise UserError(f"search.index={path}: {META} is damaged ({error})") from error
    if schema > SCHEMA:
        raise UserError(f"search.index={path}: written by a later version ({about['version']})")
    here = {**settings, **{f"gallery {key}": value for key, value in _kind(gallery).items()}}
    for key in [*here, *there]:
        if here.get(key) != there.get(key):
            raise UserError(
                f"search.index={path}: {key} is {there.get(key)} there and {here.get(key)} here; "
                "choose alike, or another place"
            )
    if rows > len(gallery) or digest(gallery, rows) != recorded:
        raise UserError(
            f"search.index={path}: the gallery's first {rows:,} vectors are others there "
            f"(digest {recorded}); choose another place"
        )
    try:
        index = faiss.read_index(str(path / INDEX))
    except RuntimeError as error:
        raise UserError(f"search.index={path}: {INDEX} is damaged") from error
    if (index.ntotal, index.d) != (rows, gallery.shape[1]):
        raise UserError(f"search.index={path}: {INDEX} is not the one of {META}")
    return index


def digest(gallery: np.ndarray | StackedVectors, rows: int | None = None) -> str:
    """Digest of the values of the first rows; none: of all."""
    rows = len(gallery) if rows is None else rows
    return digest_of_blocks(
        np.ascontiguousarray(gallery[first : min(first + _ROWS_AT_ONCE, rows)]).data
        for first in range(0, rows, _ROWS_AT_ONCE)
    )


def _kind(gallery: np.ndarray | StackedVectors) -> dict[str, Any]:
    return {"dim": int(gallery.shape[1]), "dtype": gallery.dtype.name}
