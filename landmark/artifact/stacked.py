"""Read several descriptor stores, or their vectors, as one without a copy."""

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from landmark.artifact.converted import ConvertedVectors, rows_between
from landmark.disk.differences import check_same_settings
from landmark.error import UserError

if TYPE_CHECKING:  # searches read vectors without pandas
    from landmark.artifact.descriptors import DescriptorStore
    from landmark.artifact.local_features import LocalFeatures, LocalFeatureStore


class StackedVectors:
    """Arrays (N_i, D) stacked along rows without a copy; N is the sum of the N_i.

    Indexing by row numbers, slices or masks returns a numpy array, as with any array.

    Example:
        >>> import numpy as np
        >>> stacked = StackedVectors([np.zeros((2, 3)), np.ones((4, 3))])
        >>> stacked.shape, stacked[1:3].tolist()
        ((6, 3), [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])

    Args:
        parts: Arrays, `ConvertedVectors` or `StackedVectors`.
        dtype: Dtype of indexed rows. Defaults to the narrowest that represents all values.

    Raises:
        ValueError: `parts` is empty, or the dimensions differ.
    """

    ndim = 2

    def __init__(
        self,
        parts: Sequence["np.ndarray | ConvertedVectors | StackedVectors"],
        dtype: DTypeLike | None = None,
    ) -> None:
        shapes = [part.shape for part in parts]
        if not parts or len({shape[1:] for shape in shapes}) != 1 or len(shapes[0]) != 2:
            raise ValueError(f"cannot stack arrays of shapes {shapes}")
        nested = [p.parts if isinstance(p, StackedVectors) else [p] for p in parts]
        self.parts: list[np.ndarray | ConvertedVectors] = list(itertools.chain(*nested))
        self.dtype: np.dtype = np.dtype(dtype or np.result_type(*(part.dtype for part in parts)))
        self._ends = np.cumsum([len(part) for part in self.parts])

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return int(self._ends[-1]), int(self.parts[0].shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | slice | ArrayLike) -> np.ndarray:
        """Return rows: (D,) for a number, (n, D) for a slice or mask, (…, D) for numbers (…)."""
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                return self._rows(np.arange(start, stop, step))
            parts = self.between(start, stop).parts
            if len(parts) == 1:
                return parts[0][:].astype(self.dtype, copy=False)
            return np.concatenate([part[:] for part in parts], dtype=self.dtype)
        rows = np.asarray(key)
        if rows.dtype == bool:
            if rows.shape != self.shape[:1]:
                raise IndexError(f"a mask of shape {rows.shape} for {len(self):,} rows")
            rows = np.flatnonzero(rows)
        if isinstance(key, tuple) or not (rows.dtype.kind in "iu" or rows.size == 0):
            raise IndexError("rows are indexed by numbers, slices or masks")
        return self._rows(rows)

    def between(self, start: int, stop: int) -> "StackedVectors":
        """Return rows start … stop - 1, without a copy."""
        begins = self._ends - [len(part) for part in self.parts]
        cut = [
            rows_between(part, max(start - begin, 0), max(stop - begin, 0))
            for part, begin in zip(self.parts, begins.tolist(), strict=True)
        ]
        return StackedVectors([part for part in cut if len(part)] or cut[:1], self.dtype)

    def _rows(self, rows: np.ndarray) -> np.ndarray:
        count = len(self)
        if rows.size and not -count <= rows.min() <= rows.max() < count:
            raise IndexError(f"a row is out of range for {count:,} rows")
        rows = np.where(rows < 0, rows + count, rows).astype(np.int64)
        result = np.empty((*rows.shape, self.shape[1]), self.dtype)
        part_of = np.searchsorted(self._ends, rows, side="right")
        for number, part in enumerate(self.parts):
            inside = part_of == number
            result[inside] = part[rows[inside] - (self._ends[number] - len(part))]
        return result

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """Return all rows as one array, a copy."""
        if copy is False:
            raise ValueError("cannot return several parts as one array without a copy")
        parts = [part[:] for part in self.parts]
        return np.concatenate(parts, dtype=self.dtype).astype(dtype or self.dtype, copy=False)


class StackedLocalFeatures:
    """Local features of several stores as one sequence, without a copy.

    A pickle contains the paths: another process maps the files again.

    Args:
        parts: Local features of each store, made with the same settings.
    """

    def __init__(self, parts: Sequence["LocalFeatureStore"]) -> None:
        self.parts = list(parts)
        self._ends = np.cumsum([len(part) for part in self.parts])

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the features."""
        return self.parts[0].settings

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, row: int) -> "LocalFeatures":
        """Return the features of a row.

        Raises:
            IndexError: There is no such row. Negative rows are not counted from the end.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} is outside the {len(self):,} photos")
        part = int(np.searchsorted(self._ends, row, side="right"))
        return self.parts[part][int(row - self._ends[part] + len(self.parts[part]))]

    def __iter__(self) -> Iterator["LocalFeatures"]:
        return itertools.chain.from_iterable(self.parts)


class StackedStores:
    """Descriptor stores as one: rows are numbered through all stores, in order.

    It has the interface of a `DescriptorStore`.

    Attributes:
        stores: The stores.

    Raises:
        UserError: The dimensions differ, or two stores have the same id.
    """

    def __init__(self, stores: Sequence["DescriptorStore"]) -> None:
        import pandas as pd

        self.stores = list(stores)
        for store in self.stores:
            if store.dim != self.dim:
                raise UserError(
                    f"{store.path} has {store.dim} dimensions and {self.stores[0].path} has "
                    f"{self.dim}. Pass stores of one embedder."
                )
        repeated = pd.Index(self.ids).duplicated()
        if repeated.any():
            row = int(repeated.argmax())
            same = np.array([row, (self.ids == self.ids[row]).argmax()])
            ends = np.cumsum([len(store) for store in self.stores])
            store, other = (self.stores[i] for i in np.searchsorted(ends, same, side="right"))
            raise UserError(
                f"{store.path}: photo {str(self.ids[row])!r} is also in {other.path} "
                f"({int(repeated.sum()):,} such photos in all). Pass stores of different photos, "
                "each once."
            )

    @property
    def path(self) -> str:
        """The folders of the stores."""
        return ", ".join(str(store.path) for store in self.stores)

    @cached_property
    def vectors(self) -> NDArray[np.floating]:
        """(N, D) `StackedVectors`, which searches and re-rankers index like an array."""
        return cast(NDArray[np.floating], StackedVectors([s.vectors for s in self.stores]))

    @cached_property
    def ids(self) -> NDArray[np.str_]:
        """Ids of the rows, (N,) strings."""
        return np.concatenate([store.ids for store in self.stores])

    @cached_property
    def landmark_ids(self) -> NDArray[np.str_] | None:
        """Landmarks of the rows, (N,) strings, "" if unknown; None if no store has landmarks."""
        if all(store.landmark_ids is None for store in self.stores):
            return None
        return np.concatenate(
            [
                np.zeros(len(store), "U1") if store.landmark_ids is None else store.landmark_ids
                for store in self.stores
            ]
        )

    @property
    def meta(self) -> dict[str, Any]:
        """Metadata that all stores share, and under `stores` that of each store."""
        metas = [store.meta for store in self.stores]
        same = {
            key: value
            for key, value in metas[0].items()
            if all(meta.get(key) == value for meta in metas)
        }
        each = [
            {"path": str(store.path), "rows": len(store), **store.meta} for store in self.stores
        ]
        return {**same, "stores": each}

    def local(self, name: str) -> "StackedLocalFeatures":
        """Open the local features NAME of all stores; rows are numbered as those of the stores.

        Each store's background may be that of another pool.

        Raises:
            UserError: A store has none of this name, or the settings differ.
        """
        parts = [store.local(name) for store in self.stores]
        for part in parts[1:]:
            check_same_settings(
                {**part.settings, "dtype": part.dtype},
                {**dict.fromkeys(part.settings), **parts[0].settings, "dtype": parts[0].dtype},
                f"{part.path} was made",
                f"Pass stores whose local features were made with the settings of {parts[0].path}.",
                ignored=("pool",),
            )
        return StackedLocalFeatures(parts)

    @property
    def dim(self) -> int:
        """Dimension D of the descriptors."""
        return self.stores[0].dim

    def __len__(self) -> int:
        return sum(len(store) for store in self.stores)
