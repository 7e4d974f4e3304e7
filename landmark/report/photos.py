"""What is known of a row: its id, its landmark, and where its photo lies."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from landmark.artifact.descriptors import IDS, DescriptorStore
from landmark.artifact.stacked import StackedStores
from landmark.image.decode import Box

if TYPE_CHECKING:
    from landmark.data.image_table import ImageTable
    from landmark.data.source import Source

_BOX = ("box_left", "box_top", "box_right", "box_bottom")


@dataclass(frozen=True)
class Photo:
    """A photo file, and the part of it that was described (none: all of it)."""

    path: Path
    box: Box | None = None


@dataclass(frozen=True)
class Entry:
    """One row of a store.

    Attributes:
        id: its name.
        landmark: what it shows; "" where that is not known.
        photo: where it lies; None where nobody says.
    """

    id: str
    landmark: str = ""
    photo: Photo | None = None


class StoreSide:
    """The queries or the gallery of a ranking, looked up for the rows that are asked for.

    Photos are found below the store's recorded `root` at the column `path` of its ids, or else
    where the data's table says; what the table says of landmarks counts before the store's own.

    Args:
        store: the descriptors' store.
        table: the same photos as the data has them, where it was given.
    """

    def __init__(self, store: DescriptorStore, table: "ImageTable | None" = None) -> None:
        self._store = store
        self._table = table

    def __len__(self) -> int:
        return len(self._store)

    def entries(self, rows: NDArray[np.integer]) -> list[Entry]:
        """What is known of each of the rows (R,)."""
        ids = self._store.ids[rows]
        stored = _columns_of_store(self._store, rows)
        places = [_photos(self._store.meta.get("root"), stored)]
        landmarks = self._store.landmark_ids
        names = [""] * len(rows) if landmarks is None else landmarks[rows].tolist()
        if self._table is not None:
            listed = _columns_of_table(self._table, ids)
            places.append(_photos(self._table.root, listed))
            if "landmark_id" in listed:
                names = listed["landmark_id"].fillna("").tolist()
        photos = [_first_that_exists(found) for found in zip(*places, strict=True)]
        return [
            Entry(str(name), str(landmark), photo)
            for name, landmark, photo in zip(ids, names, photos, strict=True)
        ]


class StackedSide:
    """A gallery of several stores, looked up in the store that each row is in.

    Args:
        stores: the stores, in the order of their rows.
        table: as of `StoreSide`.
    """

    def __init__(self, stores: StackedStores, table: "ImageTable | None" = None) -> None:
        self._sides = [StoreSide(store, table) for store in stores.stores]

    def __len__(self) -> int:
        return sum(len(side) for side in self._sides)

    def entries(self, rows: NDArray[np.integer]) -> list[Entry]:
        """What is known of each of the rows (R,)."""
        found: dict[int, Entry] = {}
        first = 0
        for side in self._sides:
            mine = np.flatnonzero((rows >= first) & (rows < first + len(side)))
            if len(mine):
                found.update(zip(mine.tolist(), side.entries(rows[mine] - first), strict=True))
            first += len(side)
        return [found[place] for place in range(len(rows))]


def table_entries(table: "ImageTable") -> Callable[[NDArray[np.integer]], list[Entry]]:
    """Looks up rows (R,) of a table."""

    def entries(rows: NDArray[np.integer]) -> list[Entry]:
        chosen = table.rows.iloc[rows].reset_index(drop=True)
        names = [""] * len(rows)
        if "landmark_id" in chosen:
            names = chosen["landmark_id"].fillna("").tolist()
        return [
            Entry(str(name), str(landmark), photo)
            for name, landmark, photo in zip(
                chosen["id"], names, _photos(table.root, chosen), strict=True
            )
        ]

    return entries


def sides(
    query: DescriptorStore,
    gallery: DescriptorStore | StackedStores,
    source: "Source | None" = None,
) -> tuple[StoreSide, StoreSide | StackedSide]:
    """Queries and gallery of a ranking; `source` is the data that rerank.py was told, if any."""
    asked, searched = (source.read(split) if source else None for split in ("query", "gallery"))
    if isinstance(gallery, StackedStores):
        return StoreSide(query, asked), StackedSide(gallery, searched)
    return StoreSide(query, asked), StoreSide(gallery, searched)


def _columns_of_store(store: DescriptorStore, rows: NDArray[np.integer]) -> pd.DataFrame:
    """`path` and the box of the rows, where the store has them."""
    file = store.path / IDS
    columns = [name for name in ("path", *_BOX) if name in pq.read_schema(file).names]
    if not columns:
        return pd.DataFrame(index=range(len(rows)))
    return pq.read_table(file, columns=columns).take(rows).to_pandas()


def _columns_of_table(table: "ImageTable", ids: NDArray[np.str_]) -> pd.DataFrame:
    """The table's row of each id; missing values where it has none."""
    places = pd.Index(table.rows["id"]).get_indexer(pd.Index(ids))
    there = places >= 0
    found = table.rows.iloc[places[there]].set_axis(np.flatnonzero(there))
    return found.reindex(range(len(ids)))


def _photos(root: Any, columns: pd.DataFrame) -> list[Photo | None]:  # noqa: ANN401
    """Where each row says its photo lies, if it does."""
    if root is None or "path" not in columns:
        return [None] * len(columns)
    paths = columns["path"].tolist()
    boxes: list[Box | None] = [None] * len(paths)
    if set(_BOX) <= set(columns):
        boxes = [
            _box(*sides) for sides in columns[list(_BOX)].to_numpy(np.float64, na_value=np.nan)
        ]
    return [
        Photo(Path(str(root), path), box) if _is_below(path) else None
        for path, box in zip(paths, boxes, strict=True)
    ]


def _is_below(path: Any) -> bool:  # noqa: ANN401
    """Whether this is a path that stays below its root: a store may come from a stranger."""
    if not isinstance(path, str) or not path:
        return False
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts


def _box(left: float, top: float, right: float, bottom: float) -> Box | None:
    box = (float(left), float(top), float(right), float(bottom))
    return None if np.isnan(box).any() else box


def _first_that_exists(places: tuple[Photo | None, ...]) -> Photo | None:
    known = [photo for photo in places if photo is not None]
    return next((photo for photo in known if photo.path.is_file()), known[0] if known else None)
