"""Convert an exception to one line that tells the user what to correct."""

import errno
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from landmark.disk.space import DENIED, FULL
from landmark.error import UserError

# Disk and permission errors.
_DISK_ERRORS = FULL | DENIED | {errno.EISDIR, errno.ENAMETOOLONG}
_WANDB_ADVICE = "Run `wandb login`, set WANDB_API_KEY, or pass logger.offline=true."
# Choices that a Hydra plugin provides, and the package to install.
_PLUGINS = {
    "hydra/launcher/joblib": "hydra-joblib-launcher",
    "hydra/launcher/submitit_local": "hydra-submitit-launcher",
    "hydra/launcher/submitit_slurm": "hydra-submitit-launcher",
    "hydra/launcher/ray": "hydra-ray-launcher",
    "hydra/launcher/ray_aws": "hydra-ray-launcher",
    "hydra/sweeper/optuna": "hydra-optuna-sweeper",
}


def error_line(error: BaseException, folders: Sequence[Path] = ()) -> str | None:
    """Return one line that tells the user what to correct; None if it is not a user error."""
    if isinstance(error, UserError):
        line = str(error)
    elif isinstance(error, MissingMandatoryValue):
        key = error.full_key or error.key
        line = f"missing required setting '{key}'. Pass {key}=<value>."
    elif isinstance(error, InstantiationException):
        return _instantiation_line(error, folders)
    elif isinstance(error, MissingConfigException):
        line = _missing_choice_line(error, folders)
    elif isinstance(error, HydraException | OmegaConfBaseException):
        line = _composition_line(error, folders)
    elif _is_from_trainer(error):
        line = f"trainer: {error}"
    elif type(error).__module__.startswith("wandb.errors"):
        line = f"logger=wandb: {str(error).rstrip('.')}. {_WANDB_ADVICE}"
    elif isinstance(error, ValueError) and _raised_in(error).startswith("hydra."):
        line = str(error)
    else:
        line = _resource_line(error) or ""
    return " ".join(line.split()) or None


def _lacks_shared_memory(error: BaseException | None) -> bool:
    """Whether PyTorch reports a full or missing /dev/shm, in the error or its cause."""
    return error is not None and (
        "shared memory" in str(error) or _lacks_shared_memory(error.__cause__)
    )


def _is_from_trainer(error: BaseException) -> bool:
    """Whether Lightning, which is not imported here, rejects its settings."""
    is_value_error = isinstance(error, ValueError)
    return type(error).__name__ == "MisconfigurationException" or (
        is_value_error and _raised_in(error).startswith("pytorch_lightning.")
    )


def _resource_line(error: BaseException) -> str | None:
    """Return the line for a lack of disk, memory or photos; None for other errors."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS and error.filename:
        return f"{error.filename}: {error.strerror}. Free some space or choose another location."
    if isinstance(error, OSError) and error.errno in FULL:  # such as redirected output
        return f"the output: {error.strerror}. Free some space or choose another location."
    if isinstance(error, RuntimeError) and _lacks_shared_memory(error):
        return (
            "the workers that decode photos have too little shared memory. Pass workers=0, or "
            "enlarge /dev/shm (docker run --shm-size=8g)."
        )
    is_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if is_memory or (isinstance(error, RuntimeError) and "can't allocate memory" in text):
        return (
            f"not enough memory ({text}). Pass a smaller batch_size, or smaller sizes or numbers."
        )
    if isinstance(error, ValueError) and text.startswith("Expected more than 1 value per channel"):
        return (
            "BatchNorm cannot learn from a batch of one photo. Pass batch_size=2 or more, larger "
            "images or task.freeze_batchnorm=true."
        )
    return None


def _raised_in(error: BaseException) -> str:
    """Return the module whose frame raised `error`."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", ""))


def _instantiation_line(error: BaseException, folders: Sequence[Path]) -> str | None:
    """Unwrap what a constructor raised; a wrong argument name is a user error."""
    cause = error.__cause__ or error.__context__
    if cause is None:
        return " ".join(str(error).split())
    if isinstance(cause, TypeError) and (
        "unexpected keyword" in str(cause) or "missing" in str(cause)
    ):
        key = str(error).rpartition("full_key: ")[2].strip()
        return " ".join(f"{key}: {cause}".split())
    return error_line(cause, folders)


def _missing_choice_line(error: MissingConfigException, folders: Sequence[Path]) -> str:
    """For a choice that does not exist, such as `loss=arcfac`: list the valid ones."""
    missing = str(error.missing_cfg_file or "").removesuffix(".yaml")
    group, _, choice = missing.rpartition("/")
    if missing in _PLUGINS:
        return f"{group}={choice} needs a Hydra plugin. Run pip install {_PLUGINS[missing]}."
    while group and not choices(group, folders):  # the choice contains slashes
        group, _, part = group.rpartition("/")
        choice = f"{part}/{choice}"
    if group.endswith("/"):
        group, choice = group.rstrip("/"), f"/{choice}"
    if not group:
        return str(error)
    names = choices(group, folders)
    line = f"{group}={choice} does not exist.{nearest(choice, names)} Choose {', '.join(names)}."
    is_photos = group == "data" and Path(choice).is_dir()
    return f"{line} For your photos pass data=folder data.root={choice}." if is_photos else line


def _composition_line(error: BaseException, folders: Sequence[Path]) -> str:
    """For a key or group that does not exist: list the valid ones."""
    cause = error.__cause__
    text = str(error)
    key = text.partition("'")[2].partition("'")[0]
    if text.startswith("Ambiguous value for argument"):
        override = text.partition("'")[2].partition("'\n")[0]
        return f"{override} has several values. Add -m to run one job for each, or pass one value."
    if isinstance(cause, OmegaConfBaseException) and cause.parent_node is not None:
        names = sorted(str(name) for name in cause.parent_node if not str(name).startswith("_"))
        return _unknown_key_line(key, str(cause.key), names, folders)
    if "No match in the defaults list" in text:
        key = key.partition("@")[0]
        names = groups(folders)
        return f"{key} does not exist.{nearest(key, names)} Valid groups: {', '.join(names)}."
    return text


def _unknown_key_line(key: str, part: str, names: Sequence[str], folders: Sequence[Path]) -> str:
    """For a setting that the chosen choices do not have.

    Args:
        key: The setting, such as `loss.margin`; empty if Hydra does not name it.
        part: The part of it that does not exist.
        names: Valid names in its place.
        folders: Configuration folders.
    """
    group, _, rest = key.partition(".")
    if not key:
        return f"{part} cannot be set to this value. Set the keys below it."
    if key.rpartition(".")[2] != part:
        choice = rest.partition(".")[0]
        choice = choice if choice in choices(part, folders) else "…"
        return f"{key}: {part} is not chosen. Pass {part}={choice} first."
    if others := _choices_with(group, rest, folders):
        keys = f" Valid keys: {', '.join(names)}." if names else ""
        return f"{key} is a setting of other choices: {group}={', '.join(others)}. Pass one.{keys}"
    if not names:
        return f"{key} does not exist: {key.rpartition('.')[0]} has no settings. Remove it."
    return f"{key} does not exist.{nearest(part, names)} Valid keys: {', '.join(names)}."


def _choices_with(group: str, name: str, folders: Sequence[Path]) -> list[str]:
    """Return the choices of a group that have the setting `name`."""
    return [choice for choice in choices(group, folders) if name in _keys(group, choice, folders)]


def _keys(group: str, choice: str, folders: Sequence[Path]) -> set[str]:
    """Return the keys of a choice and of those that it inherits from."""
    files = (folder / group / f"{choice}.yaml" for folder in folders)
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return set()
    node: Any = OmegaConf.to_container(OmegaConf.load(file))
    inherited = (one for one in node.get("defaults", []) if isinstance(one, str))
    return set(map(str, node)).union(*(_keys(group, one, folders) for one in inherited))


def groups(folders: Sequence[Path]) -> list[str]:
    """Return the names of the configuration groups."""
    return sorted({path.name for folder in folders for path in folder.iterdir() if path.is_dir()})


def is_group(name: str, folders: Sequence[Path]) -> bool:
    """Whether `name` is a configuration group."""
    return bool(name) and any((folder / name).is_dir() for folder in folders)


def choices(group: str, folders: Sequence[Path]) -> list[str]:
    """Return the choices of a group, without the `_base.yaml` that they inherit from."""
    files = [file for folder in folders for file in (folder / group).glob("*.yaml")]
    return sorted({file.stem for file in files if not file.stem.startswith("_")})


def nearest(name: str, names: Sequence[str]) -> str:
    """Return a hint to the most similar name; empty if no name is similar."""
    near = get_close_matches(name, names, n=1)
    return f" Did you mean {near[0]}?" if near else ""
