"""Makes one store of several embedders' stores of the same photos.

python -m landmark.extract.ensemble OUTPUT STORE [STORE …] [--weights 0.5 1 1] [--overwrite]
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.vectors import row_blocks
from landmark.disk.digest import digest_of
from landmark.error import UserError
from landmark.extract.command_line import Parser, run

_ROWS_AT_ONCE = 4096


def ensemble(
    output: str | Path,
    paths: Sequence[str | Path],
    weights: Sequence[float] | None = None,
    overwrite: bool = False,
) -> int:
    """Writes each photo's descriptors beside one another: unit length × weight, unit length again.

    Args:
        output: the store to write, of dimension D₁ + D₂ + …; its photos stand as in the first.
        paths: stores of the same photos, in any order.
        weights: one a store; none: 1 each.
        overwrite: replace a store that is there.

    Returns:
        The dimension.

    Raises:
        UserError: the photos differ, a photo's landmarks differ, or the weights do not fit.

    Source:
        The six-model ensemble of the first place in the Google Landmark Retrieval Challenge 2019
        (Ozaki and Yokoo, arXiv 1906.04087): 6 × 512 dimensions.
    """
    stores = [DescriptorStore.open(path) for path in paths]
    factors = _checked_weights(weights, len(stores), output)
    first = stores[0]
    places = [_rows_in(store, first) for store in stores]
    dim = sum(store.dim for store in stores)
    labelled = next((store for store in stores if store.landmark_ids is not None), None)
    landmarks = None
    if labelled is not None and labelled.landmark_ids is not None:
        landmarks = labelled.landmark_ids[_rows_in(labelled, first)]
        _check_landmarks(stores, places, landmarks, first.ids)
    members = [{**store.meta, "weight": w} for store, w in zip(stores, factors, strict=True)]
    with DescriptorStore.writing(
        output,
        first.ids,
        dim,
        "float32" if any(store.dtype == "float32" for store in stores) else "float16",
        landmarks,
        overwrite,
        embedder=ensemble_digest(stores, factors),
        whitening=None,
        members=members,
    ) as vectors:
        for block in row_blocks(len(first), _ROWS_AT_ONCE):
            parts = [
                weight * _unit(store.vectors[rows[block]])
                for store, rows, weight in zip(stores, places, factors, strict=True)
            ]
            vectors[block] = _unit(np.concatenate(parts, axis=1))
    return dim


def ensemble_digest(stores: Sequence[DescriptorStore], weights: Sequence[float]) -> str | None:
    """Digest of the members' embedders, whitenings and weights; None where one is unknown."""
    members = [
        [store.meta.get("embedder"), store.meta.get("whitening"), weight]
        for store, weight in zip(stores, weights, strict=True)
    ]
    if any(embedder is None for embedder, _, _ in members):
        return None
    return digest_of({"ensemble": members})


def _checked_weights(
    weights: Sequence[float] | None, count: int, output: str | Path
) -> list[float]:
    if weights is None:
        return [1.0] * count
    if len(weights) != count:
        raise UserError(f"{output}: {len(weights)} weights for {count} stores; give one a store")
    if not all(np.isfinite(weight) and weight > 0 for weight in weights):
        raise UserError(f"{output}: weights {list(weights)}; each must be a positive number")
    return [float(weight) for weight in weights]


def _rows_in(store: DescriptorStore, first: DescriptorStore) -> NDArray[np.int64]:
    """Row in `store` of each photo of `first`."""
    rows = pd.Index(store.ids).get_indexer(pd.Index(first.ids))
    for lacking, other, missing in (
        (store, first, first.ids[rows < 0]),
        (first, store, np.setdiff1d(store.ids, first.ids)),
    ):
        if len(missing):
            raise UserError(
                f"{lacking.path}: lacks {len(missing):,} photos of {other.path}, such as "
                f"{str(missing[0])!r}; an ensemble is of the same photos"
            )
    return rows


def _check_landmarks(
    stores: Sequence[DescriptorStore],
    places: Sequence[NDArray[np.int64]],
    landmarks: NDArray[np.str_],
    ids: NDArray[np.str_],
) -> None:
    for store, rows in zip(stores, places, strict=True):
        if store.landmark_ids is None:
            continue
        differs = store.landmark_ids[rows] != landmarks
        if differs.any():
            row = int(differs.argmax())
            raise UserError(
                f"{store.path}: photo {str(ids[row])!r} has landmark "
                f"{store.landmark_ids[rows][row]} there and {landmarks[row]} in another store"
            )


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    exact = np.asarray(vectors, np.float64)
    return exact / np.linalg.norm(exact, axis=1, keepdims=True)


def main(arguments: Sequence[str]) -> str:
    """Makes the ensemble that the command line says; gives the line to print."""
    parser = Parser("python -m landmark.extract.ensemble", description=__doc__.splitlines()[0])
    parser.add_argument("output", metavar="OUTPUT", help="the store to write")
    parser.add_argument("stores", metavar="STORE", nargs="+", help="of the same photos")
    parser.add_argument("--weights", metavar="W", type=float, nargs="+", help="one a store")
    parser.add_argument("--overwrite", action="store_true", help="replace a store that is there")
    given = parser.parse_args(arguments)
    dim = ensemble(given.output, given.stores, given.weights, given.overwrite)
    return f"wrote {given.output}: {dim:,}-d of {len(given.stores)} stores"


if __name__ == "__main__":
    run(main)
