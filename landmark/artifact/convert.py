"""Write a store again: projected by a whitening or an adapter, or with another dtype."""

from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.carry_local import link_local
from landmark.artifact.converted import ConvertedVectors
from landmark.artifact.descriptors import IDS, DescriptorStore
from landmark.artifact.projection import Projection
from landmark.artifact.quantised import CODE_TYPES, Quantisation
from landmark.artifact.vectors import row_blocks

Dtype = Literal["float32", "float16", "int8", "bit"]


def convert(
    store: DescriptorStore,
    output: str | Path,
    projection: Projection | None = None,
    dtype: Dtype | None = None,
    overwrite: bool = False,
) -> None:
    """Write a store with projected vectors or another dtype to `output`.

    The local features and the paths of the photos come along.

    The vectors are read in blocks: once, or for int8 twice and for bit three times, as the ranges
    of the dimensions come first.

    Args:
        store: Store to convert.
        output: Store to write.
        projection: Whitening or adapter of the vectors. Defaults to none.
        dtype: Dtype of the written vectors, or of their codes, see `Quantisation`. Defaults to that
            of the store; float32 for codes.
        overwrite: Replace an existing store.

    Raises:
        UserError: The projection was fitted to other descriptors, or `output` already exists.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> DescriptorStore.write(f"{folder}/a", ["x", "y"], np.eye(2, dtype=np.float32))
        >>> convert(DescriptorStore.open(f"{folder}/a"), f"{folder}/b", dtype="int8")
        >>> store = DescriptorStore.open(f"{folder}/b")
        >>> store.dtype, np.asarray(store.vectors).round(2).tolist()
        ('int8', [[1.0, 0.0], [0.0, 1.0]])
    """
    settings, dim = store.settings, store.dim
    if projection is not None:
        projection.check_fits(store.meta, store.dim, store.path)
        settings["whitening"], dim = projection.digest, projection.dim
    dtype = dtype or ("float32" if store.is_quantised else cast(Dtype, store.dtype))
    quantisation = None
    if dtype in CODE_TYPES:
        vectors = store.vectors
        if projection is not None:
            projected = ConvertedVectors(vectors, dim, projection)
            vectors = cast(NDArray[np.floating], projected)  # indexed like an array
        quantisation = Quantisation.fit(vectors, dtype)

    def complete(written: DescriptorStore) -> None:
        store.rows.to_parquet(written.path / IDS, index=False)  # with the paths of the photos
        link_local(store, written)

    with DescriptorStore.writing(
        output,
        store.ids,
        dim,
        "float32" if quantisation else dtype,
        store.landmark_ids,
        overwrite,
        skipped=store.skipped,
        complete=complete,
        quantisation=quantisation,
        **settings,
    ) as stored:
        for block in row_blocks(len(store)):
            rows = store.vectors[block]
            stored[block] = rows if projection is None else projection(rows)
