"""An embedder on disk: its weights and the settings to reconstruct it.

A folder contains `weights.safetensors`, `embedder.yaml` (model, pooling, image, package version)
and, if the classes are known, `classes.csv` (label, landmark_id).
"""

import csv
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from landmark import __version__
from landmark.disk.atomic import atomic_folder
from landmark.disk.digest import digest_of_files
from landmark.disk.space import disk_errors
from landmark.error import UserError
from landmark.model.embedder import Embedder
from landmark.model.weights import check_finite
from landmark.model.weights_file import (
    WEIGHTS,
    part_of_checkpoint,
    read_checkpoint,
    read_state_dict,
)

DESCRIPTION = "embedder.yaml"
CLASSES = "classes.csv"


def embedder_state(embedder: nn.Module) -> dict[str, Tensor]:
    """Return an embedder's tensors by name, on the CPU, for safetensors; compiled or not."""
    return {
        key.replace("_orig_mod.", ""): tensor.detach().cpu().contiguous()
        for key, tensor in embedder.state_dict().items()
    }


def describe_embedder(
    model: dict[str, Any],
    pooling: dict[str, Any],
    image: dict[str, Any],
    split_table: str | None = None,
) -> str:
    """Return the text of embedder.yaml.

    Args:
        model: `_target_` and keyword arguments of `build_embedder`, without the pooling.
        pooling: `_target_` and keyword arguments of the pooling.
        image: Settings of the image format.
        split_table: Name of the table of splits in the run folder. Defaults to none.
    """
    model = {key: value for key, value in model.items() if key not in ("_partial_", "weights")}
    description = {"version": __version__, "model": model, "pooling": pooling, "image": image}
    if split_table is not None:
        description["split_table"] = split_table
    return yaml.safe_dump(description, sort_keys=False)


def write_embedder(
    folder: Path | str,
    embedder: nn.Module,
    description: str,
    classes: Sequence[str] | None = None,
) -> Path:
    """Write an embedder folder atomically, replacing an existing one.

    Args:
        folder: Folder to write.
        embedder: Trained embedder.
        description: Text of embedder.yaml, see `describe_embedder`.
        classes: landmark_id of each label, for classes.csv. None writes no classes.csv.

    Returns:
        The folder.
    """
    folder = Path(folder)
    with atomic_folder(folder, overwrite=True) as temporary, disk_errors(folder):
        save_file(embedder_state(embedder), temporary / WEIGHTS)
        (temporary / DESCRIPTION).write_text(description)
        if classes is not None:
            with (temporary / CLASSES).open("w", newline="") as file:
                csv.writer(file).writerows([("label", "landmark_id"), *enumerate(classes)])
    return folder


def load_embedder(path: Path | str) -> tuple[Embedder, dict[str, Any]]:
    """Load an embedder folder, or a training checkpoint (.ckpt), which contains a description.

    The weights are the checkpoint's `state_dict`, in which Lightning stores the averaged weights if
    training averages them.

    Returns:
        The embedder in evaluation mode, and its description (version, model, pooling, image).

    Raises:
        UserError: The path is not an embedder, or its weights do not fit its description or are NaN
            or infinite.
    """
    path = Path(path)
    text, state = _read_embedder_checkpoint(path) if path.is_file() else _read_embedder_folder(path)
    check_finite(state, str(path))
    try:
        description = yaml.safe_load(text)
        pooling = _construct(description["pooling"])
        embedder = _construct(description["model"], pooling=pooling)
        embedder.load_state_dict(state)
    except (yaml.YAMLError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()
        raise UserError(
            f"{path} is not an embedder of this version ({' '.join(reason[:2])}). "
            f"Pass RUN/embedder of landmark {__version__}, or a checkpoint."
        ) from error
    return embedder.eval(), description


def _read_embedder_folder(folder: Path) -> tuple[str, dict[str, Tensor]]:
    _check_folder(folder)
    return (folder / DESCRIPTION).read_text(), read_state_dict(folder / WEIGHTS)


def _check_folder(folder: Path) -> None:
    for name in (WEIGHTS, DESCRIPTION):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} is not an embedder folder: {name} is missing. Pass RUN/embedder."
            )


def _read_embedder_checkpoint(path: Path) -> tuple[str, dict[str, Tensor]]:
    if path.name == WEIGHTS:
        raise UserError(f"{path} is one file of an embedder folder. Pass {path.parent}.")
    checkpoint = read_checkpoint(path)
    text = checkpoint.get("embedder_yaml")
    if not isinstance(text, str):
        raise UserError(
            f"{path} is not a checkpoint of train.py: embedder_yaml is missing. "
            "Pass RUN/embedder or RUN/checkpoints/best.ckpt, or train from other weights with "
            "weights=FILE."
        )
    return text, part_of_checkpoint(checkpoint, "embedder")


def _construct(settings: dict[str, Any], **extra: Any) -> Any:  # noqa: ANN401
    """Call the class or function of this package that `_target_` names, with the other settings."""
    module_name, _, name = settings["_target_"].rpartition(".")
    if not module_name.startswith("landmark."):
        raise UserError(
            f"_target_={settings['_target_']} is outside this package. "
            "Pass an embedder whose embedder.yaml names landmark.… only."
        )
    try:
        target = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"_target_={settings['_target_']} is not in landmark {__version__}. "
            "Install the version that wrote the embedder."
        ) from error
    keywords = {key: value for key, value in settings.items() if not key.startswith("_")}
    return target(**keywords, **extra)


def embedder_digest(path: Path | str) -> str:
    """Return the digest of an embedder's weights and description, or of a checkpoint file."""
    path = Path(path)
    if path.is_file():
        return digest_of_files(path)
    _check_folder(path)
    return digest_of_files(path / WEIGHTS, path / DESCRIPTION)
