"""Indexes on disk: a folder that records what the index was built with and for."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from landmark import __version__
from landmark.disk.atomic import atomic_folder
from landmark.disk.differences import check_same_settings
from landmark.disk.digest import digest_of_blocks
from landmark.error import UserError
from landmark.search.blocks import Vectors

if TYPE_CHECKING:
    from faiss import Index

SCHEMA = 1
INDEX, META = "index.faiss", "index.json"
_BLOCK_ROWS = 65536


def write(folder: Path, index: "Index", settings: dict[str, Any], gallery: Vectors) -> None:
    """Write an index into an existing folder.

    Args:
        folder: A folder.
        index: A faiss index of the gallery's rows, in their order.
        settings: What it was built with: JSON values.
        gallery: (N, D).

    Raises:
        UserError: It cannot be written.
    """
    import faiss

    meta = {
        "schema": SCHEMA,
        "version": __version__,
        "faiss": faiss.__version__,
        "settings": settings,
        "gallery": {**_kind(gallery), "rows": len(gallery), "digest": digest(gallery)},
    }
    try:
        faiss.write_index(index, str(folder / INDEX))
        (folder / META).write_text(json.dumps(meta, indent=1) + "\n")
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"search.index: {folder.parent} cannot hold the index ({error}). Free some space or "
            "choose another location."
        ) from error


def replace(path: Path, index: "Index", settings: dict[str, Any], gallery: Vectors) -> None:
    """Replace a saved index atomically; arguments as of `write`."""
    with atomic_folder(path, overwrite=True, marker=META) as folder:
        write(folder, index, settings, gallery)


def exists(path: Path) -> bool:
    """Whether an index is saved here.

    Raises:
        UserError: The location holds something else.
    """
    if (path / META).is_file():
        return True
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise UserError(f"search.index={path} holds no saved index. Choose another location.")
    return False


def open_index(path: Path, settings: dict[str, Any], gallery: Vectors) -> "Index":
    """Open a saved index of all rows of a gallery, or of its first ones.

    Args:
        path: Its folder.
        settings: What it must have been built with.
        gallery: (N, D).

    Raises:
        UserError: It is damaged, was written by a later version, or was built with other settings
            or for other vectors; names what differs.
    """
    import faiss

    try:
        meta = json.loads((path / META).read_text())
        kind = {f"gallery {key}": meta["gallery"][key] for key in _kind(gallery)}
        recorded = {**meta["settings"], **kind}
        rows, schema = int(meta["gallery"]["rows"]), int(meta["schema"])
        recorded_digest = meta["gallery"]["digest"]
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise _damaged(path, f"{META} is damaged ({error})") from error
    if schema > SCHEMA:
        raise UserError(
            f"search.index={path} was written by a later version ({meta['version']}). "
            "Update landmark, or choose another location."
        )
    requested = {**settings, **{f"gallery {key}": value for key, value in _kind(gallery).items()}}
    check_same_settings(
        recorded,
        {**dict.fromkeys(recorded), **requested},
        f"search.index={path} holds an index",
        "Pass the same settings, or choose another location.",
    )
    if rows > len(gallery) or digest(gallery, rows) != recorded_digest:
        raise UserError(
            f"search.index={path} was built for a gallery whose first {rows:,} vectors differ "
            f"(digest {recorded_digest}). Choose another location."
        )
    try:
        index = faiss.read_index(str(path / INDEX))
    except RuntimeError as error:
        raise _damaged(path, f"{INDEX} is damaged") from error
    if (index.ntotal, index.d) != (rows, gallery.shape[1]):
        raise _damaged(path, f"{INDEX} does not belong to {META}")
    return index


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"search.index={path}: {reason}. Remove the folder to build it again.")


def digest(gallery: Vectors, rows: int | None = None) -> str:
    """Digest of the values of the first rows. Defaults to all rows."""
    rows = len(gallery) if rows is None else rows
    return digest_of_blocks(
        np.ascontiguousarray(gallery[first : min(first + _BLOCK_ROWS, rows)]).data
        for first in range(0, rows, _BLOCK_ROWS)
    )


def _kind(gallery: Vectors) -> dict[str, Any]:
    return {"dim": int(gallery.shape[1]), "dtype": gallery.dtype.name}
