"""Look up the photos of store or table rows: id, landmark, file."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from landmark.artifact.descriptors import IDS, DescriptorStore
from landmark.artifact.stacked import StackedStores
from landmark.data.image_table import BOX_COLUMNS, ImageTable
from landmark.image.decode import Box
from landmark.score.ground_truth import positions_in


@dataclass(frozen=True)
class Photo:
    """A photo file, and the box that was described (None means the complete photo)."""

    path: Path
    box: Box | None = None


@dataclass(frozen=True)
class Entry:
    """A row of a store or table.

    Attributes:
        id: Id of the photo.
        landmark: Landmark of the photo; "" if unknown.
        photo: File of the photo. None if unknown.
    """

    id: str
    landmark: str = ""
    photo: Photo | None = None


class Photos(Protocol):
    """Queries or a gallery whose rows can be looked up."""

    def __len__(self) -> int: ...

    def entries(self, rows: NDArray[np.integer]) -> list[Entry]:
        """Look up rows (R,)."""


class StorePhotos:
    """Photos of a descriptor store, or of stacked stores.

    A photo's file is the store's column `path` below the store's recorded `root`, or the table's
    file if that does not exist. The table's landmarks replace the store's.

    Args:
        store: The store.
        table: Image table of the same photos. Defaults to None.
    """

    def __init__(
        self, store: DescriptorStore | StackedStores, table: ImageTable | None = None
    ) -> None:
        self._stores = store.stores if isinstance(store, StackedStores) else [store]
        self._table = table

    def __len__(self) -> int:
        return sum(len(store) for store in self._stores)

    def entries(self, rows: NDArray[np.integer]) -> list[Entry]:
        """Look up rows (R,)."""
        entries: dict[int, Entry] = {}
        first = 0
        for store in self._stores:
            places = np.flatnonzero((rows >= first) & (rows < first + len(store)))
            if len(places):
                of_store = _store_entries(store, rows[places] - first, self._table)
                entries.update(zip(places.tolist(), of_store, strict=True))
            first += len(store)
        return [entries[place] for place in range(len(rows))]


class TablePhotos:
    """Photos of an image table.

    Args:
        table: The table.
        rows: (n,) rows of the table to use. Defaults to all.
    """

    def __init__(self, table: ImageTable, rows: NDArray[np.integer] | None = None) -> None:
        self._root = table.root
        self._rows = table.rows if rows is None else table.rows.iloc[rows]

    def __len__(self) -> int:
        return len(self._rows)

    def entries(self, rows: NDArray[np.integer]) -> list[Entry]:
        """Look up rows (R,)."""
        chosen = self._rows.iloc[rows].reset_index(drop=True)
        landmarks = [""] * len(rows)
        if "landmark_id" in chosen:
            landmarks = chosen["landmark_id"].fillna("").tolist()
        photos = _photos(self._root, chosen)
        return [
            Entry(str(name), str(landmark), photo)
            for name, landmark, photo in zip(chosen["id"], landmarks, photos, strict=True)
        ]


def _store_entries(
    store: DescriptorStore, rows: NDArray[np.integer], table: ImageTable | None
) -> list[Entry]:
    ids = store.ids[rows]
    candidates = [_photos(store.meta.get("root"), _store_columns(store, rows))]
    landmarks = [""] * len(rows) if store.landmark_ids is None else store.landmark_ids[rows]
    if table is not None:
        table_rows = _table_rows(table, ids)
        candidates.append(_photos(table.root, table_rows))
        if "landmark_id" in table_rows:
            landmarks = table_rows["landmark_id"].fillna("").tolist()
    return [
        Entry(str(name), str(landmark), _first_existing(photos))
        for name, landmark, *photos in zip(ids, landmarks, *candidates, strict=True)
    ]


def _store_columns(store: DescriptorStore, rows: NDArray[np.integer]) -> pd.DataFrame:
    """Read the columns `path` and box of the rows, if the store has them."""
    file = store.path / IDS
    columns = [name for name in ("path", *BOX_COLUMNS) if name in pq.read_schema(file).names]
    if not columns:
        return pd.DataFrame(index=range(len(rows)))
    return pq.read_table(file, columns=columns).take(rows).to_pandas()


def _table_rows(table: ImageTable, ids: NDArray[np.str_]) -> pd.DataFrame:
    """Return the table row of each id; missing values if the table lacks the id."""
    positions = positions_in(table.rows["id"], ids)
    is_listed = positions >= 0
    rows = table.rows.iloc[positions[is_listed]].set_axis(np.flatnonzero(is_listed))
    return rows.reindex(range(len(ids)))


def _photos(root: Any, columns: pd.DataFrame) -> list[Photo | None]:  # noqa: ANN401
    """Return the photo of each row from the columns `path` and box."""
    if root is None or "path" not in columns:
        return [None] * len(columns)
    root = Path(str(root))
    corners = ImageTable(root, columns).boxes
    boxes: list[Box | None] = [None] * len(columns)
    if corners is not None:
        boxes = [None if np.isnan(box).any() else tuple(box.tolist()) for box in corners]
    return [
        Photo(root / path, box) if _is_below_root(path) else None
        for path, box in zip(columns["path"], boxes, strict=True)
    ]


def _is_below_root(path: Any) -> bool:  # noqa: ANN401
    """Check that a path stays below its root: stores are untrusted input."""
    if not isinstance(path, str) or not path:
        return False
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts


def _first_existing(photos: list[Photo | None]) -> Photo | None:
    """Return the first photo whose file exists, else the first photo."""
    recorded = [photo for photo in photos if photo is not None]
    existing = (photo for photo in recorded if photo.path.is_file())
    return next(existing, recorded[0] if recorded else None)
