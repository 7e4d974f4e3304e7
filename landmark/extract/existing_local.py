"""Compare the local features of a store with those that an extraction requests."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.local_features import FOLDER, local_names
from landmark.artifact.local_parts import PARTS, has_photos
from landmark.artifact.photo_paths import positions_of
from landmark.data.image_table import ImageTable
from landmark.disk.differences import check_same_settings
from landmark.error import UserError
from landmark.extract.local import LocalExtraction


def lacking_local(
    store: DescriptorStore, local: Sequence[LocalExtraction]
) -> LocalExtraction | None:
    """Return the first of the local features that the store lacks.

    Raises:
        UserError: The store has features of this name with different settings.
    """
    names = local_names(store.path)
    for one in local:
        if one.name not in names:
            return one
        features = store.local(one.name)
        check_same_settings(
            features.meta,
            one.recorded,
            f"{features.path} already exists",
            "Use the same settings, remove that folder to extract only these local features "
            "again, or pass overwrite=true to replace the store.",
        )
    return None


def table_rows(store: DescriptorStore, table: ImageTable) -> NDArray[np.int64]:
    """Return the table row of each row of the store.

    Raises:
        UserError: A photo of the store is not in the table.
    """
    rows = positions_of(store.ids, table.rows["id"])
    missing = np.flatnonzero(rows < 0)
    if len(missing):
        raise UserError(
            f"{store.path}: {len(missing):,} of its {len(rows):,} photos are not in the table, "
            f"such as {str(store.ids[missing[0]])!r}, so their local features cannot be extracted. "
            "Pass data= and split= of all its photos."
        )
    return rows


def check_no_stopped_local(store: DescriptorStore) -> None:
    """Check that no extraction of local features into the store was stopped.

    Raises:
        UserError: There is one, which would be lost when the store is replaced.
    """
    for parts in (store.path / FOLDER).glob(f".*.partial/{PARTS}"):
        if has_photos(parts):
            folder = parts.parent
            name = folder.name.removeprefix(".").removesuffix(".partial")
            raise UserError(
                f"{folder} contains a stopped extraction. Pass local={name} to finish it, or "
                "remove that folder."
            )


def recorded_local(local: Sequence[LocalExtraction]) -> dict[str, Any]:
    """Return the settings of the requested local features that a stopped extraction records."""
    requested = next((one for one in local if one.is_requested), None)
    if requested is None:
        return dict.fromkeys(("local_name", "local", "pool"))
    return {"local_name": requested.name, "pool": None, **requested.recorded}
