"""Read files of torch.save and safetensors without executing anything that they contain."""

import argparse
import pathlib
import types
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from landmark.error import UserError
from landmark.model.state_dict import flatten

WEIGHTS = "weights.safetensors"
_NO_STATE_DICT = (
    "does not contain a state dict (tensors by name). Save one with torch.save(model.state_dict(), "
    "path)."
)
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
_STARTS = (b"PK", b"\x80")  # of torch.save: a zip archive, formerly a pickle
_LFS = b"version https://git-lfs"
# Values that training scripts save beside the tensors. Constructing these types has no effect.
_PLAIN_TYPES: list[Any] = [
    argparse.Namespace,
    types.SimpleNamespace,
    np.dtype,
    np.ndarray,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefdSUO"},
]
_PLAIN_TYPES += [(pathlib.PurePosixPath, f"{m}.PosixPath") for m in ("pathlib", "pathlib._local")]
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _PLAIN_TYPES += [
        (np.float64(0).__reduce__()[0], f"{_module}.scalar"),
        (np.zeros(0).__reduce__()[0], f"{_module}._reconstruct"),
    ]


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file of torch.save or safetensors by name.

    Names in nested dictionaries are joined with their keys by dots.

    Raises:
        UserError: The file does not exist, is of another kind, or contains no state dict.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder. Pass a weights file.")
    if not path.is_file():
        raise UserError(f"weights file {path} does not exist. Pass an existing file.")
    with path.open("rb") as file:
        start = file.read(len(_LFS))
    if start == _LFS:
        raise UserError(f"{path} is a pointer of Git LFS, not the weights. Run git lfs pull.")
    is_safetensors = start[8:9] == b"{"  # after the length of the header
    if is_safetensors or (path.suffix == ".safetensors" and not start.startswith(_STARTS)):
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(
                f"{path} cannot be read as safetensors ({error}). Pass an undamaged file."
            ) from error
    if path.suffix not in _SUFFIXES and not start.startswith(_STARTS):
        raise UserError(
            f"{path} is not a weights file. Pass a file of torch.save or safetensors "
            "(.pth, .pt, .bin, .ckpt, .safetensors)."
        )
    state = flatten(read_checkpoint(path))
    if not state:
        raise UserError(f"{path} {_NO_STATE_DICT}")
    return state


def read_checkpoint(path: Path, mmap: bool = False) -> dict:
    """Read the dictionary in a file of torch.save, plain types and tensors only.

    Args:
        path: The file.
        mmap: Leave the tensors on disk until they are used.

    Raises:
        UserError: The file is missing, damaged, or contains anything else, which is never executed.
    """
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_PLAIN_TYPES):
            warnings.simplefilter("ignore")  # about foreign pickles, which are refused below
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing. Restore it, or start over in a new folder.") from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged file causes errors of many kinds
        raise UserError(
            f"{path} cannot be read: it is damaged or contains more than plain tensors"
            f"{_foreign_types(path)}. "
            "Save only the state dict, with torch.save(model.state_dict(), path)."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} {_NO_STATE_DICT}")
    return content


def _foreign_types(path: Path) -> str:
    """Return the types that are refused, in parentheses, if the file can be searched for them."""
    try:
        with torch.serialization.safe_globals(_PLAIN_TYPES):
            names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a damaged file, or one of PyTorch before 1.6
        return ""
    return f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else ""


def part_of_checkpoint(checkpoint: Mapping[str, Any], part: str) -> dict[str, Tensor]:
    """Return the tensors of a part of a checkpoint, "embedder" or "loss", without its prefix."""
    prefix = f"{part}."
    state = {key.replace("_orig_mod.", ""): t for key, t in checkpoint["state_dict"].items()}
    return {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}
