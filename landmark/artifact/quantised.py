"""Vectors as 8-bit or 1-bit codes with a range for each dimension."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.converted import ConvertedVectors, unit_rows
from landmark.artifact.folder import damage
from landmark.artifact.vectors import open_array, row_blocks
from landmark.error import UserError

if TYPE_CHECKING:
    from landmark.artifact.stacked import StackedVectors

CodeType = Literal["int8", "bit"]
CODE_TYPES: tuple[CodeType, ...] = ("int8", "bit")
RANGES = "ranges.npy"
_STORED = {"int8": np.dtype(np.int8), "bit": np.dtype(np.uint8)}
_LEVELS = {"int8": 255, "bit": 1}  # steps between the ends of a range
_FIRST = {"int8": -128, "bit": 0}  # the code of the low end


@dataclass(frozen=True, eq=False)
class Quantisation:
    """The codes of a store: value = low + (code − first code) · step, then unit length.

    A code of int8 is one of 256 equal steps from the lowest to the highest value of a dimension.
    A bit says whether a value is nearer to the mean of the values above the dimension's mean, or of
    those below it; 8 bits are packed into a byte, the first dimension in the highest bit.

    Attributes:
        dtype: int8 or bit.
        ranges: (2, D) float32: the values of the lowest and of the highest code.

    Example:
        >>> vectors = np.array([[0.6, 0.8], [0.8, -0.6], [-0.6, 0.8]], np.float32)
        >>> quantisation = Quantisation.fit(vectors, "int8")
        >>> quantisation.encode(vectors).tolist()
        [[91, 127], [127, -128], [-128, 127]]
        >>> quantisation.decode(quantisation.encode(vectors)).round(2).astype(str).tolist()
        [['0.6', '0.8'], ['0.8', '-0.6'], ['-0.6', '0.8']]
    """

    dtype: CodeType
    ranges: NDArray[np.float32]

    @classmethod
    def fit(
        cls, vectors: "np.ndarray | StackedVectors | ConvertedVectors", dtype: CodeType
    ) -> "Quantisation":
        """Compute the ranges of vectors (N, D), which are read in blocks."""
        total = np.zeros(vectors.shape[1])
        # Of an empty store: any finite range.
        low, high = (np.inf + total, -np.inf + total) if len(vectors) else (total, total)
        for block in row_blocks(len(vectors)):
            values = np.asarray(vectors[block], np.float32)
            low = np.minimum(low, values.min(axis=0))
            high = np.maximum(high, values.max(axis=0))
            total += values.sum(axis=0, dtype=np.float64)
        if dtype == "bit":
            low, high = _means(vectors, total / max(1, len(vectors)))
        return cls(dtype, np.stack([low, high]).astype(np.float32))

    @property
    def dim(self) -> int:
        """D."""
        return int(self.ranges.shape[1])

    @property
    def stored_dtype(self) -> np.dtype:
        """Dtype of the stored codes."""
        return _STORED[self.dtype]

    @property
    def width(self) -> int:
        """Stored numbers of a vector."""
        return self.dim if self.dtype == "int8" else -(-self.dim // 8)

    def encode(self, vectors: NDArray[np.floating]) -> np.ndarray:
        """Return the codes (n, width) of vectors (n, D)."""
        low, high = self.ranges
        span = np.where(high > low, high - low, 1)
        steps = np.asarray(vectors, np.float32) - low
        steps *= _LEVELS[self.dtype] / span
        codes = np.rint(steps, out=steps).clip(0, _LEVELS[self.dtype])
        if self.dtype == "bit":
            return np.packbits(codes.astype(bool), axis=1)
        return (codes + _FIRST[self.dtype]).astype(np.int8)

    def decode(self, codes: np.ndarray) -> NDArray[np.float32]:
        """Return the vectors (n, D) float32 of unit length of codes (n, width)."""
        low, high = self.ranges
        if self.dtype == "bit":
            codes = np.unpackbits(codes, axis=1, count=self.dim)
        step = (high - low) / np.float32(_LEVELS[self.dtype])
        vectors = codes.astype(np.float32)
        vectors *= step
        vectors += low - _FIRST[self.dtype] * step
        return unit_rows(vectors)

    def vectors(self, codes: np.ndarray) -> ConvertedVectors:
        """Return codes (N, width), which may be memory-mapped, as vectors."""
        return ConvertedVectors(codes, self.dim, self.decode)

    def write(self, folder: Path) -> None:
        """Write the ranges into the folder of a store."""
        np.save(folder / RANGES, self.ranges)

    @classmethod
    def open(cls, folder: Path, dtype: CodeType) -> "Quantisation":
        """Read the ranges of a store.

        Raises:
            UserError: They are damaged.
        """
        with damage(folder / RANGES, "Write the store again."):
            ranges = np.load(folder / RANGES, allow_pickle=False)
            is_valid = ranges.dtype == np.float32 and ranges.ndim == 2 and len(ranges) == 2
            if not (is_valid and np.isfinite(ranges).all() and (ranges[0] <= ranges[1]).all()):
                raise ValueError("it must be (2, D) finite float32, the low ends first")
        return cls(dtype, ranges)

    def open_codes(self, file: Path) -> np.memmap:
        """Memory-map the codes of a store.

        Raises:
            UserError: The file is damaged, or has another shape or dtype.
        """
        codes = open_array(file)
        if codes.dtype != self.stored_dtype or codes.shape[1:] != (self.width,):
            raise UserError(
                f"{file} has dtype {codes.dtype} and shape {codes.shape}, but its store has "
                f"{self.dtype} codes of {self.dim} dimensions. Write the store again."
            )
        return codes


class EncodedRows:
    """Stored codes as vectors to fill: `rows[block] = vectors` stores the codes of the vectors.

    Example:
        >>> codes = np.zeros((2, 1), np.uint8)
        >>> ranges = np.array([[-1, -1], [1, 1]], np.float32)
        >>> EncodedRows(codes, Quantisation("bit", ranges))[:] = np.array([[1, -1], [-1, 1]])
        >>> codes.tolist()
        [[128], [64]]
    """

    def __init__(self, codes: np.ndarray, quantisation: Quantisation) -> None:
        self._codes = codes
        self._quantisation = quantisation

    def __setitem__(self, rows: slice, vectors: NDArray[np.floating]) -> None:
        """Store the codes of vectors (n, D) in these rows."""
        self._codes[rows] = self._quantisation.encode(vectors)


def _means(
    vectors: "np.ndarray | StackedVectors | ConvertedVectors", mean: NDArray[np.float64]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the means of each dimension's values below and above its mean, (D,) each."""
    above, sums, counts = np.zeros(len(mean)), np.zeros(len(mean)), np.zeros(len(mean))
    for block in row_blocks(len(vectors)):
        values = np.asarray(vectors[block], np.float32)
        is_above = values > mean
        counts += is_above.sum(axis=0)
        above += np.where(is_above, values, 0).sum(axis=0, dtype=np.float64)
        sums += values.sum(axis=0, dtype=np.float64)
    below = (sums - above) / np.maximum(1, len(vectors) - counts)
    return below, np.where(counts > 0, above / np.maximum(1, counts), below)
