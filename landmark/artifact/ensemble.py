"""Concatenate the descriptors of several embedders for the same photos."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.artifact.carry_local import link_local, reorder_local
from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.local_features import local_names
from landmark.artifact.vectors import row_blocks
from landmark.disk.digest import digest_of
from landmark.error import UserError

_BLOCK_ROWS = 4096


def ensemble(
    output: str | Path,
    paths: Sequence[str | Path],
    weights: Sequence[float] | None = None,
    overwrite: bool = False,
) -> int:
    """Concatenate each photo's descriptors: normalise, multiply by a weight, normalise again.

    The local features of the stores are kept, those of one name from the first store that has them.

    Args:
        output: Store to write, of dimension D₁ + D₂ + … and in the row order of the first store.
        paths: Stores of the same photos, in any row order.
        weights: One per store. Defaults to 1 each.
        overwrite: Replace an existing store.

    Returns:
        The dimension of the written store.

    Raises:
        UserError: The photos or their landmarks differ, or the weights are not valid.

    Source:
        The six-model ensemble of the first place in the Google Landmark Retrieval Challenge 2019
        (Ozaki and Yokoo, arXiv 1906.04087): 6 × 512 dimensions.
    """
    stores = [DescriptorStore.open(path) for path in paths]
    factors = _validated_weights(weights, len(stores), output)
    first = stores[0]
    rows_of = [_rows_in(store, first) for store in stores]
    dim = sum(store.dim for store in stores)

    def keep_local(written: DescriptorStore) -> None:
        kept = set(link_local(first, written))
        for store, rows in zip(stores, rows_of, strict=True):
            for name in sorted(set(local_names(store.path)) - kept):
                reorder_local(store, name, rows, written)
                kept.add(name)

    members = [{**store.meta, "weight": w} for store, w in zip(stores, factors, strict=True)]
    with DescriptorStore.writing(
        output,
        first.ids,
        dim,
        "float16" if all(store.dtype == "float16" for store in stores) else "float32",
        _landmark_ids(stores, rows_of),
        overwrite,
        complete=keep_local,
        embedder=ensemble_digest(stores, factors),
        whitening=None,
        members=members,
    ) as vectors:
        for block in row_blocks(len(first), _BLOCK_ROWS):
            parts = [
                weight * _unit(store.vectors[rows[block]])
                for store, rows, weight in zip(stores, rows_of, factors, strict=True)
            ]
            vectors[block] = _unit(np.concatenate(parts, axis=1))
    return dim


def ensemble_digest(stores: Sequence[DescriptorStore], weights: Sequence[float]) -> str | None:
    """Return a digest of the embedders, whitenings and weights; None if one is unknown."""
    members = [
        [store.meta.get("embedder"), store.meta.get("whitening"), weight]
        for store, weight in zip(stores, weights, strict=True)
    ]
    if any(embedder is None for embedder, _, _ in members):
        return None
    return digest_of({"ensemble": members})


def _validated_weights(
    weights: Sequence[float] | None, count: int, output: str | Path
) -> list[float]:
    if weights is None:
        return [1.0] * count
    if len(weights) != count:
        raise UserError(f"{output}: {len(weights)} weights for {count} stores. Pass one per store.")
    if not all(np.isfinite(weight) and weight > 0 for weight in weights):
        raise UserError(f"{output}: weights {list(weights)} are not valid. Pass positive numbers.")
    return [float(weight) for weight in weights]


def _rows_in(store: DescriptorStore, first: DescriptorStore) -> NDArray[np.int64]:
    """Return the row in `store` of each photo of `first`."""
    rows = pd.Index(store.ids).get_indexer(pd.Index(first.ids))
    for incomplete, other, missing in (
        (store, first, first.ids[rows < 0]),
        (first, store, np.setdiff1d(store.ids, first.ids)),
    ):
        if len(missing):
            raise UserError(
                f"{incomplete.path} lacks {len(missing):,} photos of {other.path}, such as "
                f"{str(missing[0])!r}. Pass stores of the same photos."
            )
    return rows


def _landmark_ids(
    stores: Sequence[DescriptorStore], rows_of: Sequence[NDArray[np.int64]]
) -> NDArray[np.str_] | None:
    """Return landmarks in the row order of the first store; None if no store has any.

    A landmark that is unknown in one store is taken from another.

    Raises:
        UserError: Two stores have different landmarks for a photo.
    """
    landmarks: NDArray[np.str_] | None = None
    for store, rows in zip(stores, rows_of, strict=True):
        if store.landmark_ids is None:
            continue
        landmark_ids = store.landmark_ids[rows]
        landmarks = landmark_ids if landmarks is None else landmarks
        differs = (landmark_ids != landmarks) & (landmark_ids != "") & (landmarks != "")
        if differs.any():
            row = int(differs.argmax())
            raise UserError(
                f"{store.path}: photo {str(stores[0].ids[row])!r} has landmark "
                f"{landmark_ids[row]}, and {landmarks[row]} in another store. Pass stores of the "
                "same table."
            )
        landmarks = np.where(landmarks == "", landmark_ids, landmarks)
    return landmarks


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    exact = np.asarray(vectors, np.float64)
    return exact / np.linalg.norm(exact, axis=1, keepdims=True)
