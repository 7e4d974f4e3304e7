"""Whitening: descriptors centred, projected and brought to unit length again.

python -m landmark.extract.whitening fit STORE OUTPUT [--method pca] [--dim 128] [--power 0.5]
python -m landmark.extract.whitening fit STORE OUTPUT --method learned [--dim 128]
python -m landmark.extract.whitening apply WHITENING STORE OUTPUT
"""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.vectors import row_blocks
from landmark.disk.atomic import atomic_folder, check_can_write
from landmark.disk.differences import as_recorded, check_same_settings
from landmark.disk.digest import digest_of
from landmark.disk.space import disk_errors
from landmark.error import UserError
from landmark.extract.command_line import Parser, run

_MEAN, _PROJECTION, _META = "mean.npy", "projection.npy", "whitening.json"
_SOURCE = ("embedder", "whitening")


class Whitening:
    """x → (x − mean) · projection, of unit length.

    On disk a folder of `mean.npy`, `projection.npy` and `whitening.json`.

    Args:
        mean: (D,) float64.
        projection: (D, d) float64, d ≤ D; its columns by falling importance.
        meta: how it was fitted, and `embedder` and `whitening` of the store that it was fitted on.
    """

    def __init__(
        self, mean: NDArray[np.float64], projection: NDArray[np.float64], meta: dict[str, Any]
    ) -> None:
        self.mean = mean
        self.projection = projection
        self.meta = as_recorded(meta)

    def __call__(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """(B, D) → (B, d) of unit length, in float64; a vector at the mean gives zeros."""
        projected = (np.asarray(vectors, np.float64) - self.mean) @ self.projection
        lengths = np.linalg.norm(projected, axis=1, keepdims=True)
        return projected / np.where(lengths > 0, lengths, 1)

    @property
    def dim(self) -> int:
        """Dimension d of what it gives."""
        return int(self.projection.shape[1])

    @cached_property
    def digest(self) -> str:
        """Of the numbers and of how they came about."""
        numbers = [array.astype("<f8").tobytes() for array in (self.mean, self.projection)]
        return digest_of(b"".join([*numbers, json.dumps(self.meta, sort_keys=True).encode()]))

    def check_fits(self, recorded: dict[str, Any], dim: int, what: str | Path) -> None:
        """Refuses descriptors other than those that it was fitted for.

        Args:
            recorded: `embedder` and `whitening` of the descriptors, where they are known.
            dim: their dimension.
            what: begins a mistake's line.

        Raises:
            UserError: the dimension, the embedder or an earlier whitening differs.
        """
        if dim != len(self.mean):
            raise UserError(
                f"{what}: has {dim} dimensions, the whitening is of {len(self.mean)}; fit one on a "
                "store of this embedder"
            )
        if recorded.get("embedder") is not None and self.meta.get("embedder") is not None:
            check_same_settings(
                recorded,
                {key: self.meta.get(key) for key in _SOURCE},
                f"{what}: was made",
                "fit a whitening on a store that is made alike",
            )

    def write(self, path: str | Path, overwrite: bool = False) -> None:
        """Writes the folder in one step.

        Raises:
            UserError: the place is taken, or cannot be written.
        """
        with atomic_folder(path, overwrite, marker=_META) as folder, disk_errors(path):
            np.save(folder / _MEAN, self.mean)
            np.save(folder / _PROJECTION, self.projection)
            (folder / _META).write_text(json.dumps(self.meta, indent=1) + "\n")

    @classmethod
    def open(cls, path: str | Path) -> "Whitening":
        """Reads a folder that `write` made.

        Raises:
            UserError: there is none, or a damaged one.
        """
        path = Path(path)
        for name in (_MEAN, _PROJECTION, _META):
            if not (path / name).is_file():
                raise UserError(f"{path}: is no whitening, it has no {name}")
        try:
            mean, projection = (
                np.load(path / name, allow_pickle=False) for name in (_MEAN, _PROJECTION)
            )
            meta = dict(json.loads((path / _META).read_text()))
        except (ValueError, TypeError, OSError, EOFError) as error:
            raise UserError(f"{path}: is damaged ({error})") from error
        fits = (projection.ndim, mean.shape) == (2, projection.shape[:1])
        if not (fits and np.isfinite(mean).all() and np.isfinite(projection).all()):
            raise UserError(f"{path}: is damaged (mean and projection are no finite numbers)")
        return cls(mean.astype(np.float64), projection.astype(np.float64), meta)


def apply(
    whitening: Whitening, store: DescriptorStore, output: str | Path, overwrite: bool = False
) -> None:
    """Writes the whitened descriptors of a store, block by block, as another store.

    Raises:
        UserError: the whitening was fitted for other descriptors, or the place is taken.
    """
    whitening.check_fits(store.meta, store.dim, store.path)
    with DescriptorStore.writing(
        output,
        store.ids,
        whitening.dim,
        store.dtype,
        store.landmark_ids,
        overwrite,
        skipped=store.skipped,
        **{**store.settings, "whitening": whitening.digest},
    ) as vectors:
        for block in row_blocks(len(store)):
            vectors[block] = whitening(store.vectors[block])


def main(arguments: Sequence[str]) -> str:
    """Fits or applies as the command line says; gives the line to print."""
    parser = Parser("python -m landmark.extract.whitening", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="fit|apply")
    fit = verbs.add_parser("fit", help="learn a whitening from a store")
    fit.add_argument("store", metavar="STORE", help="of train photos, say")
    fit.add_argument("--method", choices=("pca", "learned"), default="pca")
    fit.add_argument("--dim", type=int, help="dimensions to keep; without it all")
    fit.add_argument("--power", type=float, help="pca: eigenvalues to the −power; 0.5 whitens")
    use = verbs.add_parser("apply", help="whiten a store")
    use.add_argument("whitening", metavar="WHITENING", help="the folder that fit wrote")
    use.add_argument("store", metavar="STORE")
    for verb in (fit, use):
        verb.add_argument("output", metavar="OUTPUT", help="the folder to write")
        verb.add_argument("--overwrite", action="store_true", help="replace what is there")
    given = parser.parse_args(arguments)
    store = DescriptorStore.open(given.store)
    if given.verb == "apply":
        whitening = Whitening.open(given.whitening)
        apply(whitening, store, given.output, given.overwrite)
        return f"wrote {given.output}: {len(store):,} photos, {store.dim} → {whitening.dim}-d"
    return _fit(store, given)


def _fit(store: DescriptorStore, given: Any) -> str:  # noqa: ANN401 - argparse's namespace
    from landmark.extract.whitening_fit import fit_learned, fit_pca

    check_can_write(given.output, given.overwrite, marker=_META)  # before minutes of work
    if given.method == "learned" and given.power is not None:
        raise UserError("--power: is for --method pca; the learned whitening has none")
    if given.method == "learned":
        whitening = fit_learned(store, given.dim)
    else:
        whitening = fit_pca(store, given.dim, 0.5 if given.power is None else given.power)
    whitening.write(given.output, given.overwrite)
    kind = "PCA" if given.method == "pca" else "learned from landmarks"
    return f"wrote {given.output}: {kind}, {store.dim} → {whitening.dim}-d, {len(store):,} photos"


if __name__ == "__main__":
    run(main)
