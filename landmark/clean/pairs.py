"""The table of verified pairs, pairs.parquet: written and read in blocks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from landmark.artifact.folder import damage
from landmark.artifact.vectors import row_blocks
from landmark.error import UserError

_BLOCK_PAIRS = 1 << 20
_NUMBERS = {"row_a": "int32", "row_b": "int32", "cosine": "float32", "inliers": "int32"}
_NUMBERS |= {"score": "float32"}


@dataclass(frozen=True, eq=False)
class Pairs:
    """P pairs of photos with their evidence.

    Attributes:
        a: (P,) int32 row of the first photo.
        b: (P,) int32 row of the second photo, in the same store or in another one.
        cosine: (P,) float32 cosine of the descriptors.
        inliers: (P,) int32; 0 without geometric verification.
        scores: (P,) float32 of the verification; 0 without.
    """

    a: NDArray[np.int32]
    b: NDArray[np.int32]
    cosine: NDArray[np.float32]
    inliers: NDArray[np.int32]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.a)

    def write(self, file: Path, ids_a: NDArray[np.str_], ids_b: NDArray[np.str_]) -> None:
        """Write the table: ids `a` and `b`, their rows, cosine, inliers and score."""
        with pq.ParquetWriter(file, _schema()) as writer:
            for block in row_blocks(len(self), _BLOCK_PAIRS):
                columns: dict[str, Any] = {
                    "a": _names(self.a[block], ids_a),
                    "b": _names(self.b[block], ids_b),
                    "row_a": self.a[block],
                    "row_b": self.b[block],
                    "cosine": self.cosine[block],
                    "inliers": self.inliers[block],
                    "score": self.scores[block],
                }
                writer.write_table(pa.table(columns, _schema()))

    @classmethod
    def read(cls, file: Path, photos_a: int, photos_b: int) -> "Pairs":
        """Read a table whose rows are below `photos_a` and `photos_b`, without its ids.

        Raises:
            UserError: The file is damaged, or is not of these photos.
        """
        with damage(file, "Pass overwrite=true to verify the pairs again."):
            parquet = pq.ParquetFile(file)
            total = parquet.metadata.num_rows
            columns = {name: np.empty(total, kind) for name, kind in _NUMBERS.items()}
            first = 0
            for batch in parquet.iter_batches(_BLOCK_PAIRS, columns=list(_NUMBERS)):
                for name, column in columns.items():
                    column[first : first + len(batch)] = batch.column(name).to_numpy()
                first += len(batch)
        for name, photos in (("row_a", photos_a), ("row_b", photos_b)):
            rows = columns[name]
            if len(rows) and (rows.min() < 0 or rows.max() >= photos):
                raise UserError(
                    f"{file} has pairs of other photos. Pass overwrite=true to verify them again."
                )
        return cls(*(columns[name] for name in ("row_a", "row_b", "cosine", "inliers", "score")))


def _schema() -> pa.Schema:
    text = pa.dictionary(pa.int32(), pa.string())
    fields: Mapping[str, Any] = {"a": text, "b": text}
    return pa.schema(
        {**fields, **{name: pa.type_for_alias(kind) for name, kind in _NUMBERS.items()}}
    )


def _names(rows: NDArray[np.int32], ids: NDArray[np.str_]) -> pa.DictionaryArray:
    distinct, codes = np.unique(rows, return_inverse=True)
    names = pa.array(ids[distinct].tolist(), pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), names)
