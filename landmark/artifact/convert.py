"""Write the vectors of a store with another dtype: float32, float16, or codes of 8 bits or 1."""

from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.carry_local import link_local
from landmark.artifact.converted import ConvertedVectors
from landmark.artifact.descriptors import IDS, DescriptorStore
from landmark.artifact.quantised import CODE_TYPES, Quantisation
from landmark.artifact.vectors import row_blocks
from landmark.artifact.whitening import Whitening

Dtype = Literal["float32", "float16", "int8", "bit"]


def convert(
    store: DescriptorStore,
    output: str | Path,
    dtype: Dtype,
    overwrite: bool = False,
    whitening: Whitening | None = None,
) -> int:
    """Write a store with vectors of another dtype to `output`, with its local features and paths.

    The vectors are read in blocks: once, or for int8 twice and for bit three times, as the ranges
    of the dimensions come first.

    Args:
        store: Store to convert.
        output: Store to write.
        dtype: Dtype of the written vectors, or of their codes, see `Quantisation`.
        overwrite: Replace an existing store.
        whitening: Whiten the vectors first. Defaults to None.

    Returns:
        The dimension of the written vectors.

    Raises:
        UserError: The whitening was fitted on other descriptors, or `output` already exists.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> DescriptorStore.write(f"{folder}/a", ["x", "y"], np.eye(2, dtype=np.float32))
        >>> convert(DescriptorStore.open(f"{folder}/a"), f"{folder}/b", "int8")
        2
        >>> store = DescriptorStore.open(f"{folder}/b")
        >>> store.dtype, np.asarray(store.vectors).round(2).tolist()
        ('int8', [[1.0, 0.0], [0.0, 1.0]])
    """
    vectors, settings = store.vectors, store.settings
    if whitening is not None:
        whitening.check_fits(store.meta, store.dim, store.path)
        whitened = ConvertedVectors(vectors, whitening.dim, whitening)
        vectors = cast(NDArray[np.floating], whitened)  # indexed like an array
        settings["whitening"] = whitening.digest
    quantisation = Quantisation.fit(vectors, dtype) if dtype in CODE_TYPES else None

    def complete(written: DescriptorStore) -> None:
        store.rows.to_parquet(written.path / IDS, index=False)  # with the paths of the photos
        link_local(store, written)

    with DescriptorStore.writing(
        output,
        store.ids,
        vectors.shape[1],
        "float32" if quantisation else dtype,
        store.landmark_ids,
        overwrite,
        skipped=store.skipped,
        complete=complete,
        quantisation=quantisation,
        **settings,
    ) as stored:
        for block in row_blocks(len(store)):
            stored[block] = vectors[block]
    return vectors.shape[1]
