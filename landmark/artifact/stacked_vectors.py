"""Arrays of descriptors read as one, without a copy of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, DTypeLike


class StackedVectors:
    """Arrays (N_i, D) one below the other, read where they lie; N is the sum of the N_i.

    What is taken out by row numbers, slices or masks is a numpy array, as of any array.

    Example:
        >>> import numpy as np
        >>> stacked = StackedVectors([np.zeros((2, 3)), np.ones((4, 3))])
        >>> stacked.shape, stacked[1:3].tolist()
        ((6, 3), [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])

    Args:
        parts: The arrays.
        dtype: Of what is taken out; none: the narrowest that holds the values of all.

    Raises:
        ValueError: There is no array, or their dimensions differ.
    """

    ndim = 2

    def __init__(self, parts: Sequence[np.ndarray], dtype: DTypeLike | None = None) -> None:
        if not parts or len({part.shape[1:] for part in parts}) != 1 or parts[0].ndim != 2:
            raise ValueError(f"cannot stack arrays of shapes {[part.shape for part in parts]}")
        self.parts = list(parts)
        self.dtype = np.dtype(dtype or np.result_type(*(part.dtype for part in parts)))
        self._ends = np.cumsum([len(part) for part in parts])

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return int(self._ends[-1]), int(self.parts[0].shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | slice | ArrayLike) -> np.ndarray:
        """Rows as an array: (D,) of a number, (n, D) of a slice or mask, (…, D) of numbers (…)."""
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                return self._rows(np.arange(start, stop, step))
            parts = self.between(start, stop).parts
            if len(parts) == 1:
                return parts[0].astype(self.dtype, copy=False)
            return np.concatenate(parts, dtype=self.dtype)
        rows = np.asarray(key)
        if rows.dtype == bool:
            if rows.shape != self.shape[:1]:
                raise IndexError(f"a mask of shape {rows.shape} for {len(self):,} rows")
            rows = np.flatnonzero(rows)
        if isinstance(key, tuple) or not (rows.dtype.kind in "iu" or rows.size == 0):
            raise IndexError("rows are taken by numbers, slices or masks")
        return self._rows(rows)

    def between(self, start: int, stop: int) -> "StackedVectors":
        """Rows start … stop - 1, still not copied."""
        begins = self._ends - [len(part) for part in self.parts]
        cut = [
            part[max(start - begin, 0) : max(stop - begin, 0)]
            for part, begin in zip(self.parts, begins.tolist(), strict=True)
        ]
        kept = [part for part in cut if len(part)] or cut[:1]
        return StackedVectors(kept, self.dtype)

    def _rows(self, rows: np.ndarray) -> np.ndarray:
        count = len(self)
        if rows.size and not -count <= rows.min() <= rows.max() < count:
            raise IndexError(f"a row is outside the {count:,}")
        rows = np.where(rows < 0, rows + count, rows).astype(np.int64)
        taken = np.empty((*rows.shape, self.shape[1]), self.dtype)
        part_of = np.searchsorted(self._ends, rows, side="right")
        for number, part in enumerate(self.parts):
            mine = part_of == number
            taken[mine] = part[rows[mine] - (self._ends[number] - len(part))]
        return taken

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """All of it as one array: a copy."""
        if copy is False:
            raise ValueError("one array of several parts is a copy")
        return np.concatenate(self.parts, dtype=self.dtype).astype(dtype or self.dtype, copy=False)
