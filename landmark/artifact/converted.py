"""Read vectors that are computed from the rows of another array, without a copy of all of them."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

if TYPE_CHECKING:
    from landmark.artifact.stacked import StackedVectors

_BLOCK_VALUES = 2**19  # converted together, which fit the caches


class ConvertedVectors:
    """Vectors (N, D) float32, computed from the rows of an array whenever they are read.

    Indexing by row numbers, slices or masks returns a numpy array, as with any array.

    Args:
        source: Array, `StackedVectors` or `ConvertedVectors` of N rows, may be memory-mapped.
        dim: D.
        convert: Rows of `source` (n, S) → vectors (n, D) float32.

    Example:
        >>> halves = ConvertedVectors(np.eye(2, dtype=np.int8), 2, lambda rows: rows / 2)
        >>> halves.shape, halves[1:].tolist(), halves[np.array([[0], [1]])].shape
        ((2, 2), [[0.0, 0.5]], (2, 1, 2))
    """

    ndim = 2
    dtype: np.dtype = np.dtype(np.float32)

    def __init__(
        self,
        source: "np.ndarray | StackedVectors | ConvertedVectors",
        dim: int,
        convert: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        self.source = source
        self.dim = dim
        self._convert = convert

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return len(self.source), self.dim

    @property
    def size(self) -> int:
        """N · D."""
        return len(self) * self.dim

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: int | slice | ArrayLike) -> np.ndarray:
        """Return rows: (D,) for a number, (n, D) for a slice or mask, (…, D) for numbers (…)."""
        if isinstance(key, slice):
            return self._converted(np.asarray(self.source[key]))
        rows = self.source[key]  # type: ignore[index] # raises the errors of an array
        flat = rows.reshape(-1, rows.shape[-1])
        return self._converted(flat).reshape(*rows.shape[:-1], self.dim)

    def between(self, start: int, stop: int) -> "ConvertedVectors":
        """Return rows start … stop - 1, which are not read yet."""
        return ConvertedVectors(rows_between(self.source, start, stop), self.dim, self._convert)

    def _converted(self, rows: np.ndarray) -> np.ndarray:
        vectors = np.empty((len(rows), self.dim), np.float32)
        step = max(1, _BLOCK_VALUES // max(1, rows.shape[1]))
        for first in range(0, len(rows), step):
            vectors[first : first + step] = self._convert(rows[first : first + step])
        return vectors

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """Return all vectors as one array, a copy."""
        if copy is False:
            raise ValueError("cannot return converted vectors without a copy")
        return self[:].astype(dtype or self.dtype, copy=False)


def rows_between(
    vectors: "np.ndarray | StackedVectors | ConvertedVectors", start: int, stop: int
) -> "np.ndarray | StackedVectors | ConvertedVectors":
    """Return rows start … stop - 1, without a copy of arrays and of the types of this package.

    Example:
        >>> rows_between(np.eye(3), 1, 3).tolist()
        [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    return vectors.between(start, stop) if hasattr(vectors, "between") else vectors[start:stop]


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Normalise rows (n, D) float32 in place; a row of zeros stays.

    Example:
        >>> unit_rows(np.array([[3, 4], [0, 0]], np.float32)).round(1).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    vectors /= np.where(lengths > 0, lengths, 1)[:, None]
    return vectors
