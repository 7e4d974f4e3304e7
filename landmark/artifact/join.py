"""Join stores of different photos into one."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from landmark.artifact.carry_local import join_local
from landmark.artifact.descriptors import UNRECORDED, DescriptorStore
from landmark.artifact.stacked import StackedStores
from landmark.artifact.vectors import row_blocks
from landmark.disk.differences import check_same_settings
from landmark.error import UserError

# Settings that depend on the photos, not on the extraction.
_PHOTO_SETTINGS = ("table", "split", "root")


def join(output: str | Path, paths: Sequence[str | Path], overwrite: bool = False) -> int:
    """Write the descriptors of all stores, in order, as one store.

    The local features that all stores have with the same settings are joined too.

    Args:
        output: Store to write.
        paths: Two or more stores of different photos, made with the same settings.
        overwrite: Replace an existing store.

    Returns:
        The number of photos.

    Raises:
        UserError: A setting differs, other than table, split and root, a photo is in two stores,
            or a store has codes instead of vectors.
    """
    if len(paths) < 2:
        raise UserError(f"{output} needs two or more stores to join. Pass another one.")
    stores = [DescriptorStore.open(path) for path in paths]
    first = stores[0]
    for store in stores:
        if store.is_quantised:
            raise UserError(
                f"{store.path} has {store.dtype} codes, whose ranges are of its own photos. Join "
                "the stores that they were made from, then apply --dtype."
            )
    settings = {key: value for key, value in first.settings.items() if key not in _PHOTO_SETTINGS}
    for store in stores[1:]:
        absent = dict.fromkeys(store.settings.keys() - set(_PHOTO_SETTINGS))
        check_same_settings(
            UNRECORDED | store.meta,
            absent | UNRECORDED | settings | {"dtype": first.dtype},
            f"{store.path} was made",
            f"Join stores that were made with the same settings as {first.path}.",
        )
    stacked = StackedStores(stores)
    splits = {store.meta.get("split") for store in stores}
    with DescriptorStore.writing(
        output,
        stacked.ids,
        first.dim,
        first.dtype,
        stacked.landmark_ids,
        overwrite,
        skipped=pd.concat([store.skipped for store in stores], ignore_index=True),
        complete=lambda joined: join_local(stores, joined),
        **settings,
        table=[digest for store in stores for digest in store.table_digests],
        split=splits.pop() if len(splits) == 1 else None,
    ) as vectors:
        for block in row_blocks(len(stacked)):
            vectors[block] = stacked.vectors[block]
    return len(stacked)
