"""The vectors of a teacher's descriptor store for the photos of a table."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.photo_paths import positions_of
from landmark.data.image_table import ImageTable
from landmark.error import UserError


class TeacherVectors:
    """The teacher's vector of each photo of a table, by id. The vectors stay on disk.

    A photo that could not be read when the store was written has no vector. With
    `bad_image="skip"` such photos are accepted, and training skips them.

    Args:
        store: The teacher's store.
        table: N photos.

    Raises:
        UserError: The store has no vector of a photo, or a vector that is not of unit length.
    """

    def __init__(self, store: DescriptorStore, table: ImageTable) -> None:
        self._store = store
        ids = table.rows["id"]
        self._rows = positions_of(ids, store.rows["id"])
        is_missing = self._rows < 0
        if len(ids) and is_missing.all():
            raise UserError(
                f"teacher={store.path} has none of the {len(ids):,} train photos, such as "
                f"{ids.iloc[0]!r}. Pass a store that was extracted from these photos."
            )
        if table.bad_image == "skip":
            is_missing &= positions_of(ids, store.skipped["id"].drop_duplicates()) < 0
        if is_missing.any():
            raise UserError(
                f"teacher={store.path} has no vector of {ids[is_missing].iloc[0]!r} "
                f"({is_missing.sum():,} of {len(ids):,} train photos). Extract all train photos."
            )
        self._vectors = store.vectors

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> NDArray[np.float32]:
        """Return the vector (T,) of a row of the table.

        Raises:
            UserError: The photo could not be read when the store was written.
        """
        if self._rows[row] < 0:
            raise UserError(f"{self._store.path} has no vector of this photo. Extract it.")
        return np.array(self._vectors[self._rows[row]], np.float32)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the vectors, which a spawned worker maps itself."""
        return {"path": self._store.path, "rows": self._rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._store = DescriptorStore.open(state["path"])
        self._rows, self._vectors = state["rows"], self._store.vectors
