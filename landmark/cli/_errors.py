"""Convert an exception to one line that tells the user what to correct."""

import errno
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from hydra.errors import HydraException, InstantiationException, MissingConfigException
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
    elif type(error).__name__ == "MisconfigurationException":  # Lightning's: not imported here
        line = f"trainer: {error}"
    elif isinstance(error, OSError) and error.errno in _DISK_ERRORS and error.filename:
        line = f"{error.filename}: {error.strerror}. Free some space or choose another location."
    elif isinstance(error, OSError) and error.errno in FULL:  # such as redirected output
        line = f"the output: {error.strerror}. Free some space or choose another location."
    elif type(error).__module__.startswith("wandb.errors"):
        line = f"logger=wandb: {str(error).rstrip('.')}. {_WANDB_ADVICE}"
    elif isinstance(error, RuntimeError) and _lacks_shared_memory(error):
        line = "the workers that decode photos have too little shared memory. Pass workers=0, or "
        line += "enlarge /dev/shm (docker run --shm-size=8g)."
    elif isinstance(error, ValueError) and _raised_in(error).startswith("hydra."):
        line = str(error)
    else:
        return None
    return " ".join(line.split())


def _lacks_shared_memory(error: BaseException | None) -> bool:
    """Whether PyTorch reports a full or missing /dev/shm, in the error or its cause."""
    return error is not None and (
        "shared memory" in str(error) or _lacks_shared_memory(error.__cause__)
    )


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
    names = choices(group, folders) if group else []
    if not names:
        return str(error)
    return f"{group}={choice} does not exist.{nearest(choice, names)} Choose {', '.join(names)}."


def _composition_line(error: BaseException, folders: Sequence[Path]) -> str:
    """For a key or group that does not exist: list the valid ones."""
    cause = error.__cause__
    text = str(error)
    key = text.partition("'")[2].partition("'")[0]
    if isinstance(cause, OmegaConfBaseException) and cause.parent_node is not None:
        names = sorted(str(name) for name in cause.parent_node)
        last = key.rpartition(".")[2]
        if last != str(cause.key):
            return f"{key}: {cause.key} is not chosen. Pass {cause.key}=… first."
        return f"{key} does not exist.{nearest(last, names)} Valid keys: {', '.join(names)}."
    if "No match in the defaults list" in text:
        key = key.partition("@")[0]
        names = groups(folders)
        return f"{key} does not exist.{nearest(key, names)} Valid groups: {', '.join(names)}."
    return text


def groups(folders: Sequence[Path]) -> list[str]:
    """Return the names of the configuration groups."""
    return sorted({path.name for folder in folders for path in folder.iterdir() if path.is_dir()})


def choices(group: str, folders: Sequence[Path]) -> list[str]:
    """Return the choices of a group, without the `_base.yaml` that they inherit from."""
    files = [file for folder in folders for file in (folder / group).glob("*.yaml")]
    return sorted({file.stem for file in files if not file.stem.startswith("_")})


def nearest(name: str, names: Sequence[str]) -> str:
    """Return a hint to the most similar name; empty if no name is similar."""
    near = get_close_matches(name, names, n=1)
    return f" Did you mean {near[0]}?" if near else ""
