"""Join stores of different photos into one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.vectors import row_blocks
from landmark.disk.differences import check_same_settings
from landmark.error import UserError

# What a store records about its photos, and not about how they were described.
_OF_PHOTOS = ("table", "split", "root")


def join(output: str | Path, paths: Sequence[str | Path], overwrite: bool = False) -> int:
    """Write the descriptors of all stores, in the order given, as one store.

    Args:
        output: Store to write.
        paths: Two or more stores of different photos, made with the same settings.
        overwrite: Replace an existing store.

    Returns:
        The number of photos.

    Raises:
        UserError: A setting other than the photos' table and split differs, or a photo is in two
            stores.
    """
    if len(paths) < 2:
        raise UserError(f"{output} needs two or more stores to join. Pass another one.")
    stores = [DescriptorStore.open(path) for path in paths]
    first = stores[0]
    settings = {key: value for key, value in first.settings.items() if key not in _OF_PHOTOS}
    for store in stores[1:]:
        absent = dict.fromkeys(store.settings.keys() - set(_OF_PHOTOS))
        check_same_settings(
            store.meta,
            absent | settings | {"dtype": first.dtype},
            f"{store.path} was made",
            f"Join stores that were made with the same settings as {first.path}.",
        )
    ids = _distinct_ids(stores)
    splits = {store.meta.get("split") for store in stores}
    with DescriptorStore.writing(
        output,
        ids,
        first.dim,
        first.dtype,
        _landmark_ids(stores),
        overwrite,
        skipped=pd.concat([store.skipped for store in stores], ignore_index=True),
        **settings,
        table=[digest for store in stores for digest in store.table_digests],
        split=splits.pop() if len(splits) == 1 else None,
    ) as vectors:
        start = 0
        for store in stores:
            for block in row_blocks(len(store)):
                vectors[start + block.start : start + block.stop] = store.vectors[block]
            start += len(store)
    return len(ids)


def _distinct_ids(stores: Sequence[DescriptorStore]) -> NDArray[np.object_]:
    ids = np.concatenate([store.ids.astype(object) for store in stores])
    owner = np.repeat(np.arange(len(stores)), [len(store) for store in stores])
    repeated = pd.Series(ids).duplicated().to_numpy()
    if repeated.any():
        row = int(repeated.argmax())
        other = stores[owner[int((ids == ids[row]).argmax())]].path
        raise UserError(
            f"{stores[owner[row]].path}: photo {ids[row]!r} is also in {other} "
            f"({int(repeated.sum()):,} such photos in all). Join stores of different photos."
        )
    return ids


def _landmark_ids(stores: Sequence[DescriptorStore]) -> NDArray[np.object_] | None:
    """Landmark of each photo, None where unknown; None if no store has landmarks."""
    landmarks = [store.landmark_ids for store in stores]
    if all(known is None for known in landmarks):
        return None
    return np.concatenate(
        [
            np.full(len(store), None, object) if known is None else known.astype(object)
            for store, known in zip(stores, landmarks, strict=True)
        ]
    )
