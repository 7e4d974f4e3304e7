"""Write the local features of an extraction into its store, in row order."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.local_features import POOL, LocalFeatures, LocalFeatureStore
from landmark.artifact.local_parts import LocalParts
from landmark.artifact.partial_local_features import LocalFeatureWriter
from landmark.disk.space import free_bytes
from landmark.extract.extraction import Extraction
from landmark.extract.local import LocalExtraction
from landmark.model.embedder import Embedder
from landmark.processes import notice

_SAVE_EVERY = 4096  # photos


def writing_local(
    store: DescriptorStore, local: LocalExtraction
) -> AbstractContextManager[LocalFeatureWriter]:
    """Return the writer of STORE/local/NAME, see `LocalFeatureWriter.writing`."""
    return LocalFeatureWriter.writing(store, local.name, **local.layout, **local.settings)


def with_pool(
    one: LocalExtraction,
    extraction: Extraction,
    embedder: Embedder,
    folder: Path,
    existing: Path | None = None,
) -> LocalExtraction:
    """Return local features with their pool, which is drawn once and then read.

    Args:
        one: Local features.
        extraction: Photos from which the pool is drawn.
        embedder: The loaded embedder.
        folder: Folder of the parts, in which the pool is saved for a resumed extraction.
        existing: Local features of the store that is extended, whose pool is used.
    """
    if one.pool is not None or one.pool_source is None:
        return one
    if existing is not None:
        return replace(one, pool=one.pool_source.open(existing / POOL))
    file = folder / POOL
    if file.is_file():
        return replace(one, pool=one.pool_source.open(file))
    one = extraction.with_pool(one, embedder)
    assert one.pool is not None
    folder.mkdir(parents=True, exist_ok=True)
    one.pool.save(file)
    return one


def merge_local(
    writer: LocalFeatureWriter,
    local: LocalExtraction,
    parts: LocalParts,
    rows: NDArray[np.int64],
    existing: LocalFeatureStore | Sequence[LocalFeatures] = (),
) -> None:
    """Append the features of all photos of a store, one photo at a time.

    Args:
        writer: Writer of the store, which may have been stopped.
        local: The local features, whose pool is saved beside them.
        parts: Extracted features.
        rows: Their rows, in the order of the store.
        existing: Features of the photos that come first.
    """
    for count, features in enumerate(_in_order(parts, rows, existing, writer.photos), start=1):
        writer.append(features)
        if not count % _SAVE_EVERY:
            writer.save()
    if local.pool is not None:
        local.pool.save(writer.folder / POOL)


def _in_order(
    parts: LocalParts,
    rows: NDArray[np.int64],
    existing: LocalFeatureStore | Sequence[LocalFeatures],
    start: int,
) -> Iterator[LocalFeatures]:
    yield from (existing[row] for row in range(start, len(existing)))
    yield from parts.of(rows[max(start - len(existing), 0) :])


def check_space(local: Sequence[LocalExtraction], photos: int, output: Path) -> None:
    """Print a notice if the features of `photos` photos may not fit on the disk.

    Until they are merged in row order, they are there twice.
    """
    sizes = [one.photo_bytes for one in local]
    needed = 2 * photos * sum(size for size in sizes if size is not None)
    free = free_bytes(output)
    if needed > free:
        notice(
            f"The local features of {photos:,} photos take up to {needed / 1e9:,.1f} GB while they "
            f"are extracted, and {output} has {free / 1e9:,.1f} GB free. If the disk is full, free "
            "some space and run the same command to resume, or pass a smaller local.top_k."
        )


def notice_without_features(store: DescriptorStore, local: LocalExtraction) -> None:
    """Print a notice if no photo has any feature."""
    if len(store) and not store.local(local.name).features:
        notice(
            f"none of the {len(store):,} photos has any local feature {local.name}. Check the "
            "photos, or pass other settings of local=."
        )
