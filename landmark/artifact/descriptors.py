"""The descriptor store: unit vectors, their ids, and what they were made with."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, DTypeLike, NDArray

from landmark.artifact.description import (
    IDS,
    META,
    SCHEMA,
    Texts,
    ids_frame,
    meta_text,
    read_ids,
    read_skipped,
    write_description,
)
from landmark.artifact.vectors import (
    check_vectors,
    create_vectors,
    dtype_name,
    open_vectors,
    row_blocks,
)
from landmark.disk.atomic import atomic_folder
from landmark.disk.space import disk_errors
from landmark.error import UserError

VECTORS = "vectors.npy"


class DescriptorStore:
    """A folder of N descriptors, opened without reading the vectors.

    They are read once, and refused where one is not finite or not of unit length, when `vectors`
    is first asked for.

    Example:
        >>> import tempfile, numpy as np
        >>> folder = tempfile.mkdtemp() + "/store"
        >>> DescriptorStore.write(folder, ["a", "b"], np.eye(2, dtype="float32"), scales=[1])
        >>> store = DescriptorStore.open(folder)
        >>> store.ids.tolist(), store.vectors.shape, store.meta["scales"]
        (['a', 'b'], (2, 2), [1])

    Attributes:
        path: the folder.
        meta: schema version, package version, dtype and what the writer recorded (scales, image
            sizes, digests of the embedder, the table and the whitening).
    """

    def __init__(self, path: Path, vectors: NDArray[np.floating], meta: dict[str, Any]) -> None:
        self.path = path
        self.meta = meta
        self._vectors = vectors
        self._is_checked = False
        if len(self._rows) != len(vectors):
            raise UserError(
                f"{path}: {len(self._rows):,} ids in {IDS} for {len(vectors):,} rows in {VECTORS}"
            )

    @classmethod
    def open(cls, path: str | Path) -> "DescriptorStore":
        """Opens a store; the vectors stay on disk.

        Raises:
            UserError: no store, a damaged one, or one of a later version.
        """
        path = Path(path)
        for name in (VECTORS, IDS, META):
            if not (path / name).is_file():
                raise UserError(f"{path}: is no descriptor store, it has no {name}")
        try:
            meta = json.loads((path / META).read_text())
        except (ValueError, OSError) as error:
            raise UserError(f"{path}: is damaged ({error})") from error
        if not isinstance(meta, dict):
            raise UserError(f"{path}/{META}: is damaged (no mapping)")
        if meta.get("schema", 0) > SCHEMA:
            raise UserError(f"{path}: written by a later version ({meta.get('version')})")
        return cls(path, open_vectors(path / VECTORS), meta)

    @classmethod
    def write(
        cls,
        path: str | Path,
        ids: Texts,
        vectors: ArrayLike,
        landmark_ids: Texts | None = None,
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
            UserError: shapes do not fit, an id twice, a vector that is not finite or not of unit
                length, or a place that is taken; names the first.
        """
        array = np.asarray(vectors)
        if array.ndim != 2:
            raise UserError(f"{path}: vectors have the shape {array.shape}, (N, D) is needed")
        dtype = array.dtype.name if array.dtype.name == "float16" else "float32"
        if len(ids) != len(array):
            raise UserError(f"{path}: {len(ids):,} ids for {len(array):,} vectors")
        with cls.writing(
            path, ids, array.shape[1], dtype, landmark_ids, overwrite, **meta
        ) as stored:
            for block in row_blocks(len(array)):
                stored[block] = array[block]

    @classmethod
    @contextmanager
    def writing(
        cls,
        path: str | Path,
        ids: Texts,
        dim: int,
        dtype: DTypeLike = "float32",
        landmark_ids: Texts | None = None,
        overwrite: bool = False,
        skipped: pd.DataFrame | None = None,
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
            skipped: `id` and `path` of photos that could not be read and are no rows.
            **meta: what to record: JSON-able values.

        Raises:
            UserError: as `write`, or the disk is full.
            TypeError, ValueError: `meta` holds what JSON cannot, or a name that the store records.
        """
        name = dtype_name(dtype, path)
        rows = ids_frame(path, ids, landmark_ids)
        # Written down before the vectors: what JSON refuses must not cost a long extraction.
        description = meta_text(name, meta)
        with atomic_folder(path, overwrite, marker=META) as folder:
            vectors = create_vectors(
                folder / VECTORS, len(rows), dim, name, named=Path(path) / VECTORS
            )
            yield vectors
            check_vectors(vectors, path, rows["id"])
            with disk_errors(path):
                vectors.flush()
                write_description(folder, rows, description, skipped)

    @cached_property
    def _rows(self) -> pd.DataFrame:
        return read_ids(self.path)

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
    def vectors(self) -> NDArray[np.floating]:
        """The descriptors, (N, D).

        Raises:
            UserError: as `check`, the first time.
        """
        if not self._is_checked:
            self.check()
        return self._vectors

    @property
    def dim(self) -> int:
        """Dimension D of the descriptors."""
        return int(self._vectors.shape[1])

    @property
    def dtype(self) -> str:
        """Of the stored vectors: float16 or float32."""
        return self._vectors.dtype.name

    @property
    def settings(self) -> dict[str, Any]:
        """What the writer recorded, without what the store says of itself."""
        own = json.loads(meta_text(self.dtype, {}))
        return {key: value for key, value in self.meta.items() if key not in own}

    @property
    def skipped(self) -> pd.DataFrame:
        """Photos that could not be read when the store was made: columns `id` and `path`."""
        return read_skipped(self.path)

    def __len__(self) -> int:
        return len(self._vectors)

    def check(self) -> None:
        """Reads every vector and refuses those that are not finite or not of unit length.

        Raises:
            UserError: names the first id.
        """
        check_vectors(self._vectors, self.path, self._rows["id"])
        self._is_checked = True
