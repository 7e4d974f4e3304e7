"""A fitted pair model and its files: weights, sizes, and the local features it was fitted on."""

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.fitted import META, WEIGHTS, reading_fitted, write_fitted
from landmark.disk.differences import as_recorded, check_same_settings
from landmark.error import UserError

Method = Literal["elvis", "ames"]


class PairModel:
    """Weights of a pair model (see `landmark.pair`), and what they were fitted on.

    On disk a folder of `weights.safetensors`, the model's state dict, and `fit.yaml`.

    Args:
        method: `elvis` or `ames`.
        weights: The state dict, float32.
        meta: `model`: keywords of the constructor, such as `dim`; `local`: name of the local
            features; `local_settings`: their recorded settings; `weight` and `gamma`: what the fit
            chose for re-ranking. Other keys describe the fit.

    Example:
        >>> meta = {"model": {"dim": 8}, "local": "patches", "weight": 0.5, "gamma": 0.1}
        >>> PairModel("elvis", {"corner": np.ones((), np.float32)}, meta).dim
        8
    """

    marker: ClassVar[str] = META

    def __init__(
        self, method: Method, weights: dict[str, NDArray[np.float32]], meta: dict[str, Any]
    ) -> None:
        self.method = method
        self.weights = weights
        self.meta = as_recorded(meta)

    @property
    def dim(self) -> int:
        """Dimension of the local descriptors."""
        return int(self.meta["model"]["dim"])

    def check_fits(self, dim: int, settings: dict[str, Any], subject: str | Path) -> None:
        """Check that local features are those that the model was fitted on.

        Args:
            dim: Dimension of the descriptors; of packed bits, their bytes.
            settings: Recorded settings of the local features.
            subject: Start of the message.

        Raises:
            UserError: The dimension or a setting differs.
        """
        bits = self.meta["model"].get("bits")
        if dim not in (self.dim, bits and bits // 8):
            raise UserError(
                f"{subject} has local descriptors of {dim} dimensions, and the {self.method} model "
                f"was fitted on {self.dim}. Fit one on a store of these local features."
            )
        check_same_settings(
            {**dict.fromkeys(settings), **self.meta.get("local_settings", settings)},
            settings,
            f"the {self.method} model was fitted on local features other than those of {subject}",
            "Extract with the same settings, or fit a model on these local features.",
            ignored=("pool",),
        )

    def write(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the folder atomically.

        Raises:
            UserError: `path` already exists, or cannot be written.
        """
        write_fitted(path, self.method, self.weights, self.meta, overwrite)

    @classmethod
    def open(cls, path: str | Path, method: Method) -> "PairModel":
        """Read a folder that `write` wrote.

        Raises:
            UserError: `path` is not a fit of this method, or is damaged or of a later version.
        """
        kind, writer = f"a fit of {method}", f"fit.py fit={method}"
        with reading_fitted(path, kind, writer) as fitted:
            fitted.check_method((method,), kind, writer)
            for key in ("model", "local", "weight", "gamma"):
                if key not in fitted.meta:
                    raise ValueError(f"{META}: {key} is missing")
            if not all(np.isfinite(value).all() for value in fitted.weights.values()):
                raise ValueError(f"{WEIGHTS}: a weight is not finite")
        return cls(method, fitted.weights, fitted.meta)
