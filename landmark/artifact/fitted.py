"""The folder of a fitted model: `weights.safetensors` and `fit.yaml`, which names the method."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from landmark import __version__
from landmark.artifact.folder import check_files, check_schema, damage
from landmark.disk.atomic import atomic_folder
from landmark.disk.space import disk_errors
from landmark.error import UserError

SCHEMA = 1
WEIGHTS, META = "weights.safetensors", "fit.yaml"


@dataclass(frozen=True)
class Fitted:
    """What a folder holds.

    Attributes:
        path: The folder.
        method: Method of the fit.
        weights: Arrays by name.
        meta: The other keys of fit.yaml.
    """

    path: Path
    method: str
    weights: dict[str, NDArray[Any]]
    meta: dict[str, Any]

    def check_method(self, methods: tuple[str, ...], kind: str, writer: str) -> None:
        """Check that the model was fitted by one of some methods.

        Args:
            methods: The methods.
            kind: What they fit, with an article, for the message.
            writer: What writes such folders.

        Raises:
            UserError: It is a fit of another method.
        """
        if self.method not in methods:
            raise UserError(
                f"{self.path} is not {kind}, but a fit of method {self.method!r}. Pass a folder "
                f"that {writer} wrote."
            )


def write_fitted(
    path: str | Path,
    method: str,
    weights: Mapping[str, NDArray[Any]],
    meta: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Write the folder of a fitted model atomically.

    Raises:
        UserError: `path` already exists, or cannot be written.
    """
    from safetensors.numpy import save_file

    with atomic_folder(path, overwrite, marker=META) as folder, disk_errors(path):
        save_file({k: np.ascontiguousarray(v) for k, v in weights.items()}, folder / WEIGHTS)
        record = {"schema": SCHEMA, "version": __version__, "method": method, **meta}
        (folder / META).write_text(yaml.safe_dump(record, sort_keys=False))


@contextmanager
def reading_fitted(path: str | Path, kind: str, writer: str) -> Iterator[Fitted]:
    """Read a folder that `write_fitted` wrote; a ValueError of the block means that it is damaged.

    Args:
        path: The folder.
        kind: What it must hold, with an article, for the message.
        writer: What writes such folders.

    Raises:
        UserError: A file is missing, the folder is damaged or of a later version.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(path)
    check_files(path, (WEIGHTS, META), kind, writer)
    with damage(path, "Fit it again."):
        try:
            meta = yaml.safe_load((path / META).read_text())
            weights = load_file(path / WEIGHTS)
        except (yaml.YAMLError, SafetensorError) as error:
            raise ValueError(" ".join(str(error).split())) from error
        if not isinstance(meta, dict):
            raise ValueError(f"{META} is not a mapping")  # noqa: TRY004 - damage converts it
        check_schema(path, meta, SCHEMA)
        method = str(meta.pop("method", None))
        for key in ("schema", "version"):
            meta.pop(key, None)
        yield Fitted(path, method, weights, meta)
