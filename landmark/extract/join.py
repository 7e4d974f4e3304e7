"""Puts the photos of several stores into one.

python -m landmark.extract.join OUTPUT STORE STORE [STORE …] [--overwrite]
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.vectors import row_blocks
from landmark.disk.differences import check_same_settings
from landmark.error import UserError
from landmark.extract.command_line import Parser, run

_OF_THE_PHOTOS = ("table", "split", "root")


def join(output: str | Path, paths: Sequence[str | Path], overwrite: bool = False) -> int:
    """Writes the descriptors of all stores, in the order given, as one store.

    Args:
        output: the store to write.
        paths: two or more stores of other photos, made with the same settings.
        overwrite: replace a store that is there.

    Returns:
        The number of photos.

    Raises:
        UserError: a setting other than the photos' table and split differs, or a photo is in
            two stores.
    """
    if len(paths) < 2:
        raise UserError(f"{output}: give two stores or more to join")
    stores = [DescriptorStore.open(path) for path in paths]
    first = stores[0]
    settings = {key: value for key, value in first.settings.items() if key not in _OF_THE_PHOTOS}
    for store in stores[1:]:
        asked = dict.fromkeys(store.settings.keys() - set(_OF_THE_PHOTOS)) | settings
        check_same_settings(
            store.meta,
            asked | {"dtype": first.dtype},
            f"{store.path}: was made",
            f"join stores that are made like {first.path}",
        )
    ids = _distinct_ids(stores)
    splits = {store.meta.get("split") for store in stores}
    with DescriptorStore.writing(
        output,
        ids,
        first.dim,
        first.dtype,
        _landmarks(stores),
        overwrite,
        skipped=pd.concat([store.skipped for store in stores], ignore_index=True),
        **settings,
        table=[digest for store in stores for digest in tables_of(store)],
        split=splits.pop() if len(splits) == 1 else None,
    ) as vectors:
        start = 0
        for store in stores:
            for block in row_blocks(len(store)):
                vectors[start + block.start : start + block.stop] = store.vectors[block]
            start += len(store)
    return len(ids)


def tables_of(store: DescriptorStore) -> list[str]:
    """Digests of the tables that the store's photos come from, in the order of their joining."""
    table = store.meta.get("table")
    if table is None:
        return []
    return list(table) if isinstance(table, list) else [table]


def _distinct_ids(stores: Sequence[DescriptorStore]) -> np.ndarray:
    ids = np.concatenate([store.ids.astype(object) for store in stores])
    owner = np.repeat(np.arange(len(stores)), [len(store) for store in stores])
    repeated = pd.Series(ids).duplicated().to_numpy()
    if repeated.any():
        row = int(repeated.argmax())
        other = stores[owner[int((ids == ids[row]).argmax())]].path
        raise UserError(
            f"{stores[owner[row]].path}: photo {ids[row]!r} is in {other} too "
            f"({int(repeated.sum()):,} such photos in all); join stores of different photos"
        )
    return ids


def _landmarks(stores: Sequence[DescriptorStore]) -> np.ndarray | None:
    """Landmark of each photo, None where its store knows none; None where no store does."""
    known = [store.landmark_ids for store in stores]
    if all(landmarks is None for landmarks in known):
        return None
    return np.concatenate(
        [
            np.full(len(store), None, object) if landmarks is None else landmarks.astype(object)
            for store, landmarks in zip(stores, known, strict=True)
        ]
    )


def main(arguments: Sequence[str]) -> str:
    """Joins as the command line says; gives the line to print."""
    parser = Parser("python -m landmark.extract.join", description=__doc__.splitlines()[0])
    parser.add_argument("output", metavar="OUTPUT", help="the store to write")
    parser.add_argument("stores", metavar="STORE", nargs="+", help="made with the same settings")
    parser.add_argument("--overwrite", action="store_true", help="replace a store that is there")
    given = parser.parse_args(arguments)
    count = join(given.output, given.stores, given.overwrite)
    return f"wrote {given.output}: {count:,} photos of {len(given.stores)} stores"


if __name__ == "__main__":
    run(main)
