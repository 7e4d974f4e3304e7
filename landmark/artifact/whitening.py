"""A whitening and its files: centre, project and normalise descriptors."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.folder import check_files, damage, read_json, write_json
from landmark.artifact.projection import Projection
from landmark.disk.atomic import atomic_folder
from landmark.disk.differences import as_recorded
from landmark.disk.digest import digest_of
from landmark.disk.space import disk_errors

MEAN, PROJECTION, META = "mean.npy", "projection.npy", "whitening.json"


class Whitening(Projection):
    """x → (x − mean) · projection, normalised to unit length.

    On disk a folder of `mean.npy`, `projection.npy` and `whitening.json`.

    Args:
        mean: (D,) float64.
        projection: (D, d) float64, d ≤ D; columns by decreasing importance.
        meta: How it was fitted, and `embedder` and `whitening` of the store it was fitted on.

    Example:
        >>> import numpy as np
        >>> whitening = Whitening(np.zeros(2), np.array([[1.0, 0.0], [0.0, 3.0]]), {})
        >>> whitening(np.array([[0.8, 0.2]])).round(4).tolist()
        [[0.8, 0.6]]
    """

    marker: ClassVar[str] = META
    noun = "a whitening"

    def __init__(
        self, mean: NDArray[np.float64], projection: NDArray[np.float64], meta: dict[str, Any]
    ) -> None:
        self.mean = mean
        self.projection = projection
        self.meta = as_recorded(meta)

    def __call__(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map (B, D) to (B, d) of unit length, in float64; a vector at the mean gives zeros."""
        projected = (np.asarray(vectors, np.float64) - self.mean) @ self.projection
        lengths = np.linalg.norm(projected, axis=1, keepdims=True)
        return projected / np.where(lengths > 0, lengths, 1)

    @property
    def source_dim(self) -> int:
        """Dimension D of the descriptors that it takes."""
        return len(self.mean)

    @property
    def dim(self) -> int:
        """Dimension d of the result."""
        return int(self.projection.shape[1])

    @cached_property
    def digest(self) -> str:
        """Digest of mean, projection and `meta`."""
        numbers = [array.astype("<f8").tobytes() for array in (self.mean, self.projection)]
        return digest_of(b"".join([*numbers, json.dumps(self.meta, sort_keys=True).encode()]))

    def write(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the folder atomically.

        Raises:
            UserError: `path` already exists, or cannot be written.
        """
        with atomic_folder(path, overwrite, marker=META) as folder, disk_errors(path):
            np.save(folder / MEAN, self.mean)
            np.save(folder / PROJECTION, self.projection)
            write_json(folder / META, self.meta)

    @classmethod
    def open(cls, path: str | Path) -> "Whitening":
        """Read a folder that `write` wrote.

        Raises:
            UserError: `path` is not a whitening, or is damaged.
        """
        path = Path(path)
        check_files(path, (MEAN, PROJECTION, META), "a whitening", "fit.py")
        with damage(path, "Fit it again."):
            mean, projection = (
                np.load(path / name, allow_pickle=False) for name in (MEAN, PROJECTION)
            )
            meta = read_json(path / META)
            fits = (projection.ndim, mean.shape) == (2, projection.shape[:1])
            if not (fits and np.isfinite(mean).all() and np.isfinite(projection).all()):
                raise ValueError("mean or projection is not finite, or their shapes do not match")
        return cls(mean.astype(np.float64), projection.astype(np.float64), meta)
