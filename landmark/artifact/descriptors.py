"""The descriptor store: unit vectors, their ids, and the settings of their extraction."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, DTypeLike, NDArray

from landmark import __version__
from landmark.artifact.converted import ConvertedVectors
from landmark.artifact.folder import check_files, check_schema, damage, read_json
from landmark.artifact.local_features import FOLDER, LocalFeatureStore, local_names
from landmark.artifact.quantised import CODE_TYPES, RANGES, EncodedRows, Quantisation
from landmark.artifact.table import check_ids, read_frame
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

Texts = Sequence[str] | NDArray[Any]

SCHEMA, QUANTISED_SCHEMA = 1, 2  # of vectors, and of their codes, which earlier versions reject
VECTORS, IDS, META, SKIPPED = "vectors.npy", "ids.parquet", "meta.json", "skipped.csv"
# Values of settings in stores that were written before the settings were recorded.
UNRECORDED = {"combine": "mean"}
_RESERVED = {"schema", "version", "dtype"}  # keys of meta.json that every store records itself


class DescriptorStore:
    """A folder of N descriptors, opened without reading the vectors.

    The first access to `vectors` reads them once and raises if one is not finite or not of unit
    length. A store of int8 or bit codes has them in vectors.npy, and their ranges in ranges.npy;
    its `vectors` are converted to float32 when they are read (`ConvertedVectors`).

    Example:
        >>> import tempfile, numpy as np
        >>> folder = tempfile.mkdtemp() + "/store"
        >>> DescriptorStore.write(folder, ["a", "b"], np.eye(2, dtype="float32"), scales=[1])
        >>> store = DescriptorStore.open(folder)
        >>> store.ids.tolist(), store.vectors.shape, store.meta["scales"]
        (['a', 'b'], (2, 2), [1])

    Attributes:
        path: The folder.
        meta: Schema version, package version, dtype and the writer's settings (scales, image sizes,
            digests of the embedder, the table and the whitening).
    """

    def __init__(
        self, path: Path, vectors: NDArray[np.floating] | ConvertedVectors, meta: dict[str, Any]
    ) -> None:
        self.path = path
        self.meta = meta
        # Converted vectors are indexed like an array.
        self._vectors = cast(NDArray[np.floating], vectors)
        self._is_checked = False
        if len(self.rows) != len(vectors):
            raise UserError(
                f"{path} has {len(self.rows):,} ids in {IDS} for {len(vectors):,} rows in "
                f"{VECTORS}. Write it again."
            )

    @classmethod
    def open(cls, path: str | Path) -> "DescriptorStore":
        """Open a store; the vectors stay on disk.

        Raises:
            UserError: `path` is not a store, is damaged, or was written by a later version.
        """
        path = Path(path)
        check_files(path, (VECTORS, IDS, META), "a descriptor store", "extract.py")
        with damage(path):
            meta = read_json(path / META)
        check_schema(path, meta, QUANTISED_SCHEMA)
        if meta.get("dtype") not in CODE_TYPES:
            return cls(path, open_vectors(path / VECTORS), meta)
        check_files(path, (RANGES,), "a descriptor store", "landmark store apply")
        quantisation = Quantisation.open(path, meta["dtype"])
        return cls(path, quantisation.vectors(quantisation.open_codes(path / VECTORS)), meta)

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
        """Write a complete store.

        Args:
            path: Folder to write.
            ids: N distinct strings.
            vectors: (N, D) float16 or float32, rows of unit length; other dtypes become float32.
            landmark_ids: Landmark of each row, if known.
            overwrite: Replace an existing store.
            **meta: Settings to record; values must be JSON-serialisable.

        Raises:
            UserError: Shapes do not match, an id is repeated, a vector is not finite or not of unit
                length (names the first), or `path` already exists.
        """
        array = np.asarray(vectors)
        if array.ndim != 2:
            raise UserError(f"{path}: vectors have the shape {array.shape}. Pass (N, D).")
        dtype = array.dtype.name if array.dtype.name == "float16" else "float32"
        if len(ids) != len(array):
            raise UserError(
                f"{path}: {len(ids):,} ids for {len(array):,} vectors. Pass one id per vector."
            )
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
        complete: Callable[["DescriptorStore"], object] | None = None,
        quantisation: Quantisation | None = None,
        **meta: Any,  # noqa: ANN401
    ) -> Iterator[NDArray[np.floating]]:
        """Yield the memory-mapped vectors (N, dim) to fill; check and rename when the block ends.

        The complete vectors are never in memory. A block that raises leaves no files.

        Args:
            path: Folder to write.
            ids: N distinct strings.
            dim: D.
            dtype: float16 or float32.
            landmark_ids: Landmark of each row, if known.
            overwrite: Replace an existing store.
            skipped: `id` and `path` of photos that could not be read and have no row.
            complete: Called with the store before it is renamed, to write what belongs inside.
            quantisation: Store the codes of the vectors instead, whatever `dtype`; the yielded
                object can be filled, not read.
            **meta: Settings to record; values must be JSON-serialisable.

        Raises:
            UserError: As `write`, or the disk is full.
            TypeError: A value of `meta` is not JSON-serialisable.
            ValueError: A key of `meta` is one that the store records itself.
        """
        name = dtype_name(dtype, path)
        rows = id_rows(path, ids, landmark_ids)
        # Before the vectors: a value that JSON rejects must not fail a long extraction at its end.
        text = meta_text(name if quantisation is None else quantisation.dtype, meta)
        with atomic_folder(path, overwrite, marker=META) as folder:
            file, shown = folder / VECTORS, Path(path) / VECTORS
            if quantisation is None:
                vectors = create_vectors(file, len(rows), dim, name, shown)
                yield vectors
                check_vectors(vectors, path, rows["id"])
            else:
                stored_dtype = quantisation.stored_dtype.name
                vectors = create_vectors(file, len(rows), quantisation.width, stored_dtype, shown)
                yield cast(NDArray[np.floating], EncodedRows(vectors, quantisation))
                check_vectors(quantisation.vectors(vectors), path, rows["id"])
            with disk_errors(path):
                vectors.flush()
                write_description(folder, rows, text, skipped)
                if quantisation is not None:
                    quantisation.write(folder)
            if complete is not None:
                complete(cls.open(folder))

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The rows of ids.parquet: `id`, and if recorded `landmark_id`, `path` and the box.

        Raises:
            UserError: The file is damaged, or has no ids.
        """
        with damage(self.path / IDS, "Write the store again."):
            rows = pd.read_parquet(self.path / IDS)
        if "id" not in rows.columns:
            raise UserError(f"{self.path}/{IDS} has no column id. Write the store again.")
        return rows

    @cached_property
    def ids(self) -> NDArray[np.str_]:
        """Ids of the rows, (N,) strings."""
        return self.rows["id"].to_numpy(dtype=str)

    @cached_property
    def landmark_ids(self) -> NDArray[np.str_] | None:
        """Landmarks of the rows, (N,) strings, "" if unknown; None if the store has none."""
        if "landmark_id" not in self.rows.columns:
            return None
        return self.rows["landmark_id"].fillna("").to_numpy(dtype=str)

    @property
    def vectors(self) -> NDArray[np.floating]:
        """The descriptors, (N, D).

        Raises:
            UserError: As `check`, on the first access.
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
        """Dtype of the stored vectors: float16 or float32, or that of their codes: int8 or bit."""
        return self.meta["dtype"] if self.is_quantised else self._vectors.dtype.name

    @property
    def is_quantised(self) -> bool:
        """Whether the store contains codes of the vectors."""
        return isinstance(self._vectors, ConvertedVectors)

    @property
    def settings(self) -> dict[str, Any]:
        """The writer's settings: `meta` without the keys that every store records itself."""
        return {key: value for key, value in self.meta.items() if key not in _RESERVED}

    @property
    def table_digests(self) -> list[str]:
        """Digests of the image tables of the photos, in the order in which stores were joined."""
        table = self.meta.get("table")
        if table is None:
            return []
        return list(table) if isinstance(table, list) else [table]

    @property
    def skipped(self) -> pd.DataFrame:
        """Photos that could not be read when the store was written: columns `id` and `path`."""
        if not (self.path / SKIPPED).is_file():
            return pd.DataFrame({"id": [], "path": []}, dtype="str")
        return read_frame(self.path / SKIPPED)

    def __len__(self) -> int:
        return len(self._vectors)

    def local(self, name: str) -> LocalFeatureStore:
        """Open the local features NAME of the photos, in the order of the rows.

        Raises:
            UserError: The store has none of this name (lists those that it has), or they are
                damaged or of other photos.
        """
        if name not in (names := local_names(self.path)):
            has = f"only {', '.join(names)}" if names else "nor any others"
            raise UserError(
                f"{self.path} has no local features {name!r}, {has}. Extract them: extract.py "
                f"output={self.path} local={name}."
            )
        features = LocalFeatureStore.open(self.path / FOLDER / name)
        features.check_ids(self.rows["id"], self.path)
        return features

    def check(self) -> None:
        """Read every vector.

        Raises:
            UserError: A vector is not finite or not of unit length; names the first id.
        """
        check_vectors(self._vectors, self.path, self.rows["id"])
        self._is_checked = True


def id_rows(path: str | Path, ids: Texts, landmark_ids: Texts | None) -> pd.DataFrame:
    """Return the rows of ids.parquet.

    Raises:
        UserError: An id is missing or repeated, or the lengths differ; names `path`.
    """
    rows = pd.DataFrame({"id": pd.Series(np.asarray(ids, dtype=object), dtype="str")})
    check_ids(rows["id"], path)
    if landmark_ids is not None:
        if len(landmark_ids) != len(rows):
            raise UserError(
                f"{path}: {len(landmark_ids):,} landmark_ids for {len(rows):,} ids. Pass one per "
                "id, or none."
            )
        rows["landmark_id"] = pd.Series(np.asarray(landmark_ids, dtype=object), dtype="str")
    return rows


def meta_text(dtype: str, meta: Mapping[str, Any]) -> str:
    """Return the text of meta.json.

    Raises:
        TypeError: A value of `meta` is not JSON-serialisable.
        ValueError: A key of `meta` is one that the store records itself.
    """
    if taken := _RESERVED & meta.keys():
        raise ValueError(f"{min(taken)} is recorded by the store itself")
    schema = QUANTISED_SCHEMA if dtype in CODE_TYPES else SCHEMA
    reserved = {"schema": schema, "version": __version__, "dtype": dtype}
    return json.dumps({**reserved, **meta}, indent=1) + "\n"


def write_description(
    folder: Path, rows: pd.DataFrame, meta: str, skipped: pd.DataFrame | None = None
) -> None:
    """Write ids.parquet, meta.json, and skipped.csv if photos were skipped."""
    rows.to_parquet(folder / IDS, index=False)
    (folder / META).write_text(meta)
    if skipped is not None and len(skipped):
        skipped[["id", "path"]].to_csv(folder / SKIPPED, index=False)
