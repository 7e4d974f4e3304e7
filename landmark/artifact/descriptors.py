"""The descriptor store: unit vectors, their ids, and what they were made with."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, DTypeLike, NDArray

from landmark import __version__
from landmark.artifact.atomic import replace_folder
from landmark.artifact.table import check_ids
from landmark.mistake import UserMistake

SCHEMA = 1
VECTORS, IDS, META = "vectors.npy", "ids.parquet", "meta.json"
_ROWS_AT_ONCE = 65536
_LENGTH_TOLERANCE = {"float16": 1e-2, "float32": 1e-3}


class DescriptorStore:
    """A folder of N descriptors, opened without reading the vectors.

    Example:
        >>> import tempfile, numpy as np
        >>> folder = tempfile.mkdtemp() + "/store"
        >>> DescriptorStore.write(folder, ["a", "b"], np.eye(2, dtype="float32"), scales=[1])
        >>> store = DescriptorStore.open(folder)
        >>> store.ids.tolist(), store.vectors.shape, store.meta["scales"]
        (['a', 'b'], (2, 2), [1])

    Attributes:
        path: the folder.
        vectors: (N, D) float16 or float32, memory-mapped, rows of unit length.
        meta: schema version, package version, dtype and what the writer recorded (scales, image
            sizes, digests of the embedder, the table and the whitening).
    """

    def __init__(self, path: Path, vectors: NDArray[np.floating], meta: dict[str, Any]) -> None:
        self.path = path
        self.vectors = vectors
        self.meta = meta
        if len(self._rows) != len(vectors):
            raise UserMistake(
                f"{path}: {len(self._rows):,} ids in {IDS} for {len(vectors):,} rows in {VECTORS}"
            )

    @classmethod
    def open(cls, path: str | Path) -> "DescriptorStore":
        """Opens a store; the vectors stay on disk.

        Raises:
            UserMistake: no store, a damaged one, or one of a later version.
        """
        path = Path(path)
        for name in (VECTORS, IDS, META):
            if not (path / name).is_file():
                raise UserMistake(f"{path}: is no descriptor store, it has no {name}")
        try:
            meta = json.loads((path / META).read_text())
            vectors = np.load(path / VECTORS, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise UserMistake(f"{path}: is damaged ({error})") from error
        if not isinstance(meta, dict):
            raise UserMistake(f"{path}/{META}: is damaged (no mapping)")
        if meta.get("schema", 0) > SCHEMA:
            raise UserMistake(f"{path}: written by a later version ({meta.get('version')})")
        if vectors.ndim != 2 or vectors.dtype.name not in _LENGTH_TOLERANCE:
            raise UserMistake(
                f"{path}/{VECTORS}: {vectors.dtype} {vectors.shape} is no (N, D) of float16 or "
                "float32"
            )
        return cls(path, vectors, meta)

    @classmethod
    def write(
        cls,
        path: str | Path,
        ids: Sequence[str],
        vectors: ArrayLike,
        landmark_ids: Sequence[str] | None = None,
        overwrite: bool = False,
        **meta: Any,  # noqa: ANN401
    ) -> None:
        """Writes a whole store at once.

        Args:
            path: folder to write.
            ids: N distinct strings.
            vectors: (N, D) float16 or float32, rows of unit length; other dtypes become float32.
            landmark_ids: the landmark of each row, where known.
            overwrite: replace a store that is there.
            **meta: what to record: JSON-able values.

        Raises:
            UserMistake: shapes do not fit, an id twice, a vector that is not finite or not of unit
                length, or a place that is taken; names the first.
        """
        array = np.asarray(vectors)
        if array.ndim != 2:
            raise UserMistake(f"{path}: vectors have the shape {array.shape}, (N, D) is needed")
        dtype = array.dtype.name if array.dtype.name in _LENGTH_TOLERANCE else "float32"
        if len(ids) != len(array):
            raise UserMistake(f"{path}: {len(ids):,} ids for {len(array):,} vectors")
        with cls.writing(
            path, ids, array.shape[1], dtype, landmark_ids, overwrite, **meta
        ) as stored:
            for start in range(0, len(array), _ROWS_AT_ONCE):
                stored[start : start + _ROWS_AT_ONCE] = array[start : start + _ROWS_AT_ONCE]

    @classmethod
    @contextmanager
    def writing(
        cls,
        path: str | Path,
        ids: Sequence[str],
        dim: int,
        dtype: DTypeLike = "float32",
        landmark_ids: Sequence[str] | None = None,
        overwrite: bool = False,
        **meta: Any,  # noqa: ANN401
    ) -> Iterator[NDArray[np.floating]]:
        """Gives the (N, dim) vectors to fill, memory-mapped; checks and renames when done.

        The vectors are never in memory as a whole. Where the block fails, nothing is left.

        Args:
            path: folder to write.
            ids: N distinct strings.
            dim: D.
            dtype: float16 or float32.
            landmark_ids: the landmark of each row, where known.
            overwrite: replace a store that is there.
            **meta: what to record: JSON-able values.

        Raises:
            UserMistake: as `write`.
            TypeError, ValueError: `meta` holds what JSON cannot, or a name that the store records.
        """
        name = np.dtype(dtype).name
        if name not in _LENGTH_TOLERANCE:
            raise UserMistake(f"{path}: dtype {name}; choose float16 or float32")
        rows = pd.DataFrame({"id": pd.Series(np.asarray(ids, dtype=object), dtype="str")})
        check_ids(rows["id"], path)
        if landmark_ids is not None:
            if len(landmark_ids) != len(rows):
                raise UserMistake(
                    f"{path}: {len(landmark_ids):,} landmark_ids for {len(rows):,} ids"
                )
            rows["landmark_id"] = pd.Series(np.asarray(landmark_ids, dtype=object), dtype="str")
        recorded = {"schema": SCHEMA, "version": __version__, "dtype": name}
        if taken := recorded.keys() & meta.keys():
            raise ValueError(f"{min(taken)} is recorded by the store itself")
        # Written down before the vectors: what JSON refuses must not cost a long extraction.
        description = json.dumps({**recorded, **meta}, indent=1) + "\n"
        with replace_folder(path, overwrite, marker=META) as folder:
            vectors = np.lib.format.open_memmap(
                folder / VECTORS, mode="w+", dtype=name, shape=(len(rows), dim)
            )
            yield vectors
            _check_vectors(vectors, path, rows["id"])
            vectors.flush()
            rows.to_parquet(folder / IDS, index=False)
            (folder / META).write_text(description)

    @cached_property
    def _rows(self) -> pd.DataFrame:
        try:
            rows = pd.read_parquet(self.path / IDS)
        except (ValueError, OSError) as error:
            raise UserMistake(f"{self.path}/{IDS}: is damaged ({error})") from error
        if "id" not in rows.columns:
            raise UserMistake(f"{self.path}/{IDS}: has no column id")
        return rows

    @cached_property
    def ids(self) -> NDArray[np.str_]:
        """Id of each row, (N,) strings."""
        return self._rows["id"].to_numpy(dtype=str)

    @cached_property
    def landmark_ids(self) -> NDArray[np.str_] | None:
        """Landmark of each row, (N,) strings, "" where unknown; None where the store has none."""
        if "landmark_id" not in self._rows.columns:
            return None
        return self._rows["landmark_id"].fillna("").to_numpy(dtype=str)

    @property
    def dim(self) -> int:
        """Dimension D of the descriptors."""
        return int(self.vectors.shape[1])

    def __len__(self) -> int:
        return len(self.vectors)

    def check(self) -> None:
        """Reads every vector and refuses those that are not finite or not of unit length.

        Raises:
            UserMistake: names the first id.
        """
        _check_vectors(self.vectors, self.path, self._rows["id"])


def _check_vectors(vectors: NDArray[np.floating], path: str | Path, ids: pd.Series) -> None:
    tolerance = _LENGTH_TOLERANCE[vectors.dtype.name]
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        block = np.asarray(vectors[start : start + _ROWS_AT_ONCE], np.float32)
        lengths = np.sqrt(np.einsum("nd,nd->n", block, block))
        # NaN compares false, so this also finds what is not finite.
        wrong = ~(np.abs(lengths - 1) <= tolerance)
        if wrong.any():
            row = int(wrong.argmax())
            raise UserMistake(
                f"{path}: the vector of {ids.iloc[start + row]!r} has length {lengths[row]:.4g}, "
                "descriptors are finite and of unit length"
            )
