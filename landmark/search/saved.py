"""Saved indexes: a folder with the faiss index, its settings and the digest of its gallery."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from landmark import __version__
from landmark.artifact.folder import check_schema, damage, read_json, write_json
from landmark.artifact.vectors import row_blocks
from landmark.disk.differences import check_same_settings
from landmark.disk.digest import digest_of_blocks
from landmark.error import UserError
from landmark.search.blocks import Vectors
from landmark.search.identical import Groups, find_identical
from landmark.search.native import is_graph, parts_of

if TYPE_CHECKING:
    from faiss import Index

SCHEMA = 1
INDEX, META = "index.faiss", "index.json"
_BLOCK_ROWS = 65536
_ADVICE = "Remove the folder to build it again."


def write(folder: Path, index: "Index", settings: dict[str, Any], gallery: Vectors) -> None:
    """Write an index into an existing folder.

    Args:
        folder: Existing folder.
        index: A faiss index of the gallery's rows, in their order.
        settings: Settings of the index, JSON values.
        gallery: (N, D).

    Raises:
        UserError: The index cannot be written.

    Example:
        >>> import faiss, tempfile
        >>> folder, gallery = Path(tempfile.mkdtemp()), np.eye(2, dtype=np.float32)
        >>> write(folder, faiss.IndexFlatIP(2), {"seed": 0}, gallery)
        >>> sorted(file.name for file in folder.iterdir())
        ['index.faiss', 'index.json']
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
        write_json(folder / META, meta)
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"search.index: cannot write the index to {folder.parent} ({error}). Free some space "
            "or pass another location."
        ) from error


def exists(path: Path) -> bool:
    """Return whether the folder contains a saved index.

    Raises:
        UserError: The location contains something else.

    Example:
        >>> exists(Path("missing"))
        False
    """
    if (path / META).is_file():
        return True
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise UserError(f"search.index={path} is not a saved index. Pass another location.")
    return False


def open_index(
    path: Path, settings: dict[str, Any], gallery: Vectors
) -> tuple["Index", Groups | None, int]:
    """Open a saved index of all rows of a gallery, or of its first rows.

    A graph index holds one vector of each group of identical rows, in the order of their first
    rows. The groups are found again in the gallery, whose digest is recorded.

    Args:
        path: Folder of the index.
        settings: Required settings of the index.
        gallery: (N, D).

    Returns:
        The index; the groups of identical rows of the complete gallery if it holds one vector of
        each, else None; and the number of rows that it was built for.

    Raises:
        UserError: The index is damaged, was written by a later version, or has different settings
            or a different gallery; the message names the difference.

    Example:
        >>> import faiss, tempfile
        >>> folder, gallery = Path(tempfile.mkdtemp()), np.eye(2, dtype=np.float32)
        >>> index = faiss.IndexFlatIP(2)
        >>> index.add(gallery)
        >>> write(folder, index, {"seed": 0}, gallery)
        >>> index, groups, rows = open_index(folder, {"seed": 0}, gallery)
        >>> index.ntotal, groups, rows
        (2, None, 2)
    """
    import faiss

    with damage(f"search.index={path}: {META}", _ADVICE):
        meta = read_json(path / META)
        kind = {f"gallery {key}": meta["gallery"][key] for key in _kind(gallery)}
        recorded = {**meta["settings"], **kind}
        rows, recorded_digest = int(meta["gallery"]["rows"]), meta["gallery"]["digest"]
        schema = {"schema": int(meta["schema"]), "version": meta["version"]}
    check_schema(f"search.index={path}", schema, SCHEMA)
    requested = {**settings, **{f"gallery {key}": value for key, value in _kind(gallery).items()}}
    check_same_settings(
        recorded,
        {**dict.fromkeys(recorded), **requested},
        f"search.index={path} contains an index",
        "Pass the same settings, or another location.",
    )
    if rows > len(gallery) or digest(gallery, rows) != recorded_digest:
        raise UserError(
            f"search.index={path} was built for a gallery whose first {rows:,} vectors differ "
            f"(digest {recorded_digest}). Pass another location."
        )
    try:
        index = faiss.read_index(str(path / INDEX))
    except RuntimeError as error:
        raise UserError(f"search.index={path}: {INDEX} is damaged. {_ADVICE}") from error
    groups = find_identical(gallery) if is_graph(index) else None
    distinct = rows if groups is None else int(np.searchsorted(groups.first, rows))
    metrics = {part.metric_type for part in parts_of(index)}
    if index.ntotal == rows > distinct:
        raise UserError(
            f"search.index={path} was written by an earlier version, which did not join "
            f"{rows - distinct:,} identical vectors, so that searches miss photos. {_ADVICE}"
        )
    if (index.ntotal, index.d, metrics) != (
        distinct,
        gallery.shape[1],
        {faiss.METRIC_INNER_PRODUCT},
    ):
        raise UserError(f"search.index={path}: {INDEX} does not match {META}. {_ADVICE}")
    return index, groups, rows


def digest(gallery: Vectors, rows: int | None = None) -> str:
    """Return the digest of the first `rows` rows. Defaults to all rows.

    Example:
        >>> gallery = np.eye(3, dtype=np.float32)
        >>> digest(gallery, rows=2) == digest(gallery[:2])
        True
    """
    blocks = row_blocks(len(gallery) if rows is None else rows, _BLOCK_ROWS)
    return digest_of_blocks(np.ascontiguousarray(gallery[block]).data for block in blocks)


def _kind(gallery: Vectors) -> dict[str, Any]:
    return {"dim": int(gallery.shape[1]), "dtype": gallery.dtype.name}
