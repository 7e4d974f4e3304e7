"""A linear adapter and its files: multiply descriptors by a matrix and normalise them."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.fitted import META, WEIGHTS, reading_fitted, write_fitted
from landmark.artifact.projection import Chain, Projection
from landmark.artifact.whitening import META as WHITENING_META
from landmark.artifact.whitening import Whitening
from landmark.disk.differences import as_recorded
from landmark.disk.digest import digest_of

METHOD = "linear"


class Adapter(Projection):
    """x → weight · x, normalised to unit length.

    There is no bias, so that the length of x does not matter: an embedder with this Linear as its
    last layer gives the same descriptors, also where it averages embeddings over scales.

    On disk a folder of `weights.safetensors` (`weight`) and `fit.yaml`.

    Args:
        weight: (d, D) float32.
        meta: How it was fitted, and `embedder` and `whitening` of the store it was fitted to.

    Example:
        >>> adapter = Adapter(np.array([[1.0, 0.0], [0.0, 3.0]], np.float32), {})
        >>> adapter(np.array([[0.8, 0.2]])).round(4).tolist()
        [[0.8, 0.6]]
    """

    marker: ClassVar[str] = META
    noun = "an adapter"

    def __init__(self, weight: NDArray[np.float32], meta: dict[str, Any]) -> None:
        self.weight = weight
        self.meta = as_recorded(meta)

    def __call__(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map (B, D) to (B, d) of unit length, in float64; a vector of zeros gives zeros."""
        projected = np.asarray(vectors, np.float64) @ self._transposed
        lengths = np.linalg.norm(projected, axis=1, keepdims=True)
        return projected / np.where(lengths > 0, lengths, 1)

    @cached_property
    def _transposed(self) -> NDArray[np.float64]:
        return self.weight.T.astype(np.float64)

    @property
    def source_dim(self) -> int:
        """Dimension D of the descriptors that it takes."""
        return int(self.weight.shape[1])

    @property
    def dim(self) -> int:
        """Dimension d of the result."""
        return int(self.weight.shape[0])

    @cached_property
    def digest(self) -> str:
        """Digest of `weight` and `meta`."""
        meta = json.dumps(self.meta, sort_keys=True).encode()
        return digest_of(self.weight.astype("<f4").tobytes() + meta)

    def summary(self, store: DescriptorStore) -> str:
        """Describe the fit to a store: how each number of epochs retrieves held-out photos."""
        epochs, lines = self.meta.get("epochs"), []
        if self.meta.get("curve"):
            lines = ["epochs  mAP@100    1-nn  of held-out photos"]
        for point in self.meta.get("curve", []):
            chosen = "  chosen" if point["epoch"] == epochs else ""
            quality = f"{point['map_at_100']:8.4f}{point['nearest']:8.4f}"
            lines.append(f"{point['epoch']:6d} {quality}{chosen}")
        return "\n".join([*lines, f"{super().summary(store)}, {epochs} epochs"])

    def write(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the folder atomically.

        Raises:
            UserError: `path` already exists, or cannot be written.
        """
        write_fitted(path, METHOD, {"weight": self.weight}, self.meta, overwrite)

    @classmethod
    def open(cls, path: str | Path) -> "Adapter":
        """Read a folder that `write` wrote.

        Raises:
            UserError: `path` is not an adapter, or is damaged or of a later version.
        """
        with reading_fitted(path, "an adapter", "fit.py fit=linear") as fitted:
            writer = "fit.py with fit=linear, fit=whitening or fit=pca"
            fitted.check_method((METHOD,), "an adapter", writer)
            weight = fitted.weights.get("weight", np.empty(0))
            if weight.ndim != 2 or not np.isfinite(weight).all():
                raise ValueError(f"{WEIGHTS}: weight is missing, or not a finite matrix")
        return cls(weight.astype(np.float32), fitted.meta)


def open_projection(path: str | Path) -> Projection:
    """Open a whitening or an adapter.

    Raises:
        UserError: `path` is neither, or is damaged or of a later version.
    """
    path = Path(path)
    if (path / META).is_file() and not (path / WHITENING_META).is_file():
        return Adapter.open(path)
    return Whitening.open(path)


def open_projections(paths: str | Path | Sequence[str | Path]) -> Projection:
    """Open a whitening or an adapter, or a chain of several, the first applied first.

    Raises:
        UserError: As `open_projection`, or one was not fitted to descriptors of the one before.
    """
    if isinstance(paths, str | Path):
        return open_projection(paths)
    return Chain([open_projection(path) for path in paths])
