"""How every root script ends: 0 done, 2 the user's mistake in one line, 1 anything else."""

import errno
import os
import sys
from collections.abc import Callable, Sequence, Set
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from landmark.mistake import UserMistake

Result = TypeVar("Result")

# What a disk or its permissions refuse is for the user to mend.
_REFUSED_BY_DISK = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
}

# Configurations that only a plugin of Hydra brings, and what to install for them.
_PLUGINS = {
    "hydra/launcher/joblib": "hydra-joblib-launcher",
    "hydra/launcher/submitit_local": "hydra-submitit-launcher",
    "hydra/launcher/submitit_slurm": "hydra-submitit-launcher",
    "hydra/launcher/ray": "hydra-ray-launcher",
    "hydra/launcher/ray_aws": "hydra-ray-launcher",
    "hydra/sweeper/optuna": "hydra-optuna-sweeper",
}


def run(main: Callable[[], object]) -> None:
    """Calls a script's Hydra entry point and turns its outcome into the exit status.

    A mistake of the user (a `UserMistake`, a wrong override, a missing value) becomes one line
    on standard error and status 2. Set LANDMARK_TRACEBACK=1 to see the traceback as well.
    """
    # Hydra prints and swallows exceptions unless this is set.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # PyTorch then asks for huge pages, without which the CPU spends up to three quarters of the
    # time of a simple step (bytes to normalised floats) on the page faults of its result.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        _exit_if_mistake(error)
        raise


def plain_mistakes(task: Callable[[Any], Result]) -> Callable[[Any], Result]:
    """Decorates the function under `hydra.main`, so that Hydra adds no words to a mistake's line.

    Hydra announces every exception of a job on standard error; it lets SystemExit pass.
    """

    @wraps(task)
    def wrapper(config: Any) -> Result:  # noqa: ANN401
        try:
            return task(config)
        except Exception as error:
            _exit_if_mistake(error)
            raise

    return wrapper


def _exit_if_mistake(error: Exception) -> None:
    line = mistake_line(error)
    if line is not None and os.environ.get("LANDMARK_TRACEBACK") != "1":
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)


def refuse_lists(overrides: Sequence[str], chains: Set[str] = frozenset()) -> None:
    """Refuses `group=[a,b]` where one choice is meant: Hydra would merge the two silently.

    Args:
        overrides: the job's overrides as written, Hydra's `overrides.task`.
        chains: the groups of which several may be chosen, each once, in order.

    Raises:
        UserMistake: names the group.
    """
    for override in overrides:
        key, _, value = override.partition("=")
        group = key.lstrip("+").partition("@")[0]
        if not value.startswith("[") or not (_configuration() / group).is_dir():
            continue
        names = [name.strip() for name in value.strip("[]").split(",")]
        if group not in chains:
            raise UserMistake(f"{override}: choose one, or sweep over them with -m {group}=a,b")
        if len(set(names)) < len(names):
            raise UserMistake(f"{override}: each may stand in the chain once")


def mistake_line(error: BaseException) -> str | None:
    """One line that tells the user what to mend, or None where the error is not the user's."""
    kind = {base.__name__ for base in type(error).__mro__ if base.__module__ == "hydra.errors"}
    if isinstance(error, UserMistake):
        line = str(error)
    elif isinstance(error, MissingMandatoryValue):
        key = error.full_key or error.key
        line = f"{key}: a value is needed, say {key}=…"
    elif "InstantiationException" in kind:
        return _instantiation_line(error)
    elif "MissingConfigException" in kind:
        line = _missing_choice_line(error)
    elif kind or isinstance(error, OmegaConfBaseException):
        line = _composition_line(error)
    elif type(error).__name__ == "MisconfigurationException":
        line = f"trainer: {error}"
    elif isinstance(error, OSError) and error.errno in _REFUSED_BY_DISK and error.filename:
        line = f"{error.filename}: {error.strerror}; make room there or choose another place"
    elif isinstance(error, ValueError) and _raised_in(error).startswith("hydra."):
        line = str(error)
    else:
        return None
    return _one_line(line)


def _raised_in(error: BaseException) -> str:
    """The module whose frame raised `error`."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return "" if frame is None else str(frame.tb_frame.f_globals.get("__name__", ""))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _instantiation_line(error: BaseException) -> str | None:
    """Hydra wraps what a constructor raises; an argument it does not know is the user's."""
    cause = error.__cause__ or error.__context__
    if cause is None:
        return _one_line(str(error))
    if isinstance(cause, TypeError) and (
        "unexpected keyword" in str(cause) or "missing" in str(cause)
    ):
        key = str(error).rpartition("full_key: ")[2].strip()
        return _one_line(f"{key}: {cause}")
    return mistake_line(cause)


def _missing_choice_line(error: BaseException) -> str:
    """`loss=arcfac`: names the choices that exist."""
    missing = str(getattr(error, "missing_cfg_file", None) or "").removesuffix(".yaml")
    group, _, choice = missing.rpartition("/")
    if missing in _PLUGINS:
        return f"{group}={choice}: a plugin of Hydra is needed, pip install {_PLUGINS[missing]}"
    if not group or not (_configuration() / group).is_dir():
        return str(error)
    names = sorted(file.stem for file in (_configuration() / group).glob("*.yaml"))
    return f"{group}={choice}: no such choice{_nearest(choice, names)}; choose {', '.join(names)}"


def _composition_line(error: BaseException) -> str:
    """An override of a key or group that does not exist: names those that do."""
    cause = error.__cause__
    text = str(error)
    key = text.partition("'")[2].partition("'")[0]
    if isinstance(cause, OmegaConfBaseException) and cause.parent_node is not None:
        names = sorted(str(name) for name in cause.parent_node)
        last = key.rpartition(".")[2]
        if last != str(cause.key):
            return f"{key}: there is no {cause.key} here; choose {cause.key}=… first"
        return f"{key}: no such key{_nearest(last, names)}; valid keys: {', '.join(names)}"
    if "No match in the defaults list" in text:
        key = key.partition("@")[0]
        names = sorted(folder.name for folder in _configuration().iterdir() if folder.is_dir())
        return f"{key}: no such group{_nearest(key, names)}; groups: {', '.join(names)}"
    return _one_line(text)


def _configuration() -> Path:
    return Path(sys.argv[0]).resolve().parent / "conf"


def _nearest(name: str, names: list[str]) -> str:
    near = get_close_matches(name, names, n=1)
    return f" (did you mean {near[0]}?)" if near else ""
