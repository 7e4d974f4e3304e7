"""Carry local features into a store of the same photos, or of those of several stores."""

import os
import shutil
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.local_features import (
    FOLDER,
    POOL,
    LocalFeatures,
    LocalFeatureStore,
    local_names,
)
from landmark.artifact.partial_local_features import LocalFeatureWriter
from landmark.disk.differences import differences
from landmark.disk.digest import digest_of_files

_SAVE_EVERY = 4096  # photos


def link_local(source: DescriptorStore, target: DescriptorStore) -> list[str]:
    """Link all local features of a store into one of the same photos in the same order.

    Files of local features never change, so that both stores share them on disk; another file
    system gets a copy.

    Returns:
        The names of the local features.
    """
    names = local_names(source.path)
    for name in names:
        source.local(name)  # checks that they are complete
        shutil.copytree(
            source.path / FOLDER / name, target.path / FOLDER / name, copy_function=_link
        )
    return names


def reorder_local(
    source: DescriptorStore, name: str, rows: NDArray[np.int64], target: DescriptorStore
) -> None:
    """Write the local features of rows (N,) of `source` into a store of these N photos."""
    features = source.local(name)
    _write(target, features, (features[int(row)] for row in rows))


def join_local(stores: Sequence[DescriptorStore], target: DescriptorStore) -> list[str]:
    """Write the local features that all stores have with the same settings, in the stores' order.

    Returns:
        Their names.
    """
    names = joinable_local(stores)
    for name in names:
        parts = [store.local(name) for store in stores]
        _write(target, parts[0], (features for part in parts for features in part))
    return names


def joinable_local(stores: Sequence[DescriptorStore]) -> list[str]:
    """Return the names of the local features that all stores have with the same settings."""
    shared = set.intersection(*(set(local_names(store.path)) for store in stores))
    return [name for name in sorted(shared) if _same_settings([s.local(name) for s in stores])]


def _same_settings(parts: Sequence[LocalFeatureStore]) -> bool:
    """Whether all have the same settings and the same pool, drawn by one of them or passed."""
    first = {**parts[0].settings, "dtype": parts[0].dtype}
    return all(
        not differences(
            {**part.settings, "dtype": part.dtype},
            {**dict.fromkeys(part.settings), **first},
            ignored=("pool",),
        )
        and _pool_digest(part) == _pool_digest(parts[0])
        for part in parts[1:]
    )


def _pool_digest(features: LocalFeatureStore) -> str | None:
    file = features.path / POOL
    return digest_of_files(file) if file.is_file() else None


def _write(
    target: DescriptorStore, like: LocalFeatureStore, photos: Iterable[LocalFeatures]
) -> None:
    """Write the features of photos with the settings and the pool of `like`."""
    layout: dict[str, Any] = {"dtype": like.dtype, **like.settings}
    with LocalFeatureWriter.writing(target, like.path.name, **layout) as writer:
        for count, features in enumerate(photos, start=1):
            writer.append(features)
            if not count % _SAVE_EVERY:
                writer.save()
        if (like.path / POOL).is_file():
            shutil.copyfile(like.path / POOL, writer.folder / POOL)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
