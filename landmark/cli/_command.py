"""What every Hydra command does: parse, check, run, and turn the outcome into an exit status.

Exit status: 0 done, 2 the user's mistake (one line on standard error), 1 anything else.
"""

import inspect
import os
import sys
from collections.abc import Callable, Sequence, Set
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from landmark.cli._check import check_config
from landmark.cli._errors import exit_if_user_error
from landmark.cli._help import composed, print_help
from landmark.error import UserError

Settings = TypeVar("Settings")

_PACKAGE = Path(__file__).resolve().parents[1]
# In the wheel conf/ is inside the package, in a checkout beside it.
CONF = next(path for path in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if path.is_dir())
_DIRECTORY_FLAGS = ("--config-dir", "-cd")
_VALUE_FLAGS = {
    *_DIRECTORY_FLAGS,
    *("--config-name", "-cn", "--config-path", "-cp", "--cfg", "-c", "--package", "-p"),
    *("--info", "-i", "--experimental-rerun"),
}


def command(
    settings: type[Settings], lists: Set[str] = frozenset()
) -> Callable[[Callable[[Settings, DictConfig], Any]], Callable[[], None]]:
    """Make `work(settings, config)`, the body of a command, its entry point without arguments.

    The command is named after the module; conf/NAME.yaml is its configuration, the module's
    docstring its usage. `work` is called once a job, with the checked settings.

    Args:
        settings: Dataclass of the command's own settings.
        lists: Groups of which several choices may be given, in order.
    """

    def decorate(work: Callable[[Settings, DictConfig], Any]) -> Callable[[], None]:
        verb = work.__module__.rpartition(".")[2]

        @wraps(work)
        def job(config: DictConfig) -> Any:  # noqa: ANN401
            # Hydra announces exceptions of a job on standard error; it lets SystemExit pass.
            try:
                check_lists(HydraConfig.get().overrides.task, lists)
                return work(check_config(config, settings), config)
            except Exception as error:
                exit_if_user_error(error, config_folders())
                raise

        # Jobs of a sweep may run in other processes, which look the function up by its name.
        job.__qualname__ = f"{work.__qualname__}.job"

        def main() -> None:
            _prepare_environment()
            arguments = _arguments(verb)
            try:
                if {"--help", "-h"} & set(arguments):
                    _help(verb, work, arguments, settings)
                    return
                if _is_single_run(arguments):
                    _check_first(verb, arguments, settings, lists)
                _run_hydra(verb, job, arguments)
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)
                sys.exit(130)
            except BrokenPipeError:  # the reader of `… | head` has closed the pipe
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(1)
            except Exception as error:
                exit_if_user_error(error, config_folders())
                raise

        main.job = job  # type: ignore[attr-defined]
        return main

    return decorate


def _is_single_run(arguments: Sequence[str]) -> bool:
    """Whether one job is asked for, and no flag that only shows something."""
    if any(
        one.startswith("-") and one.partition("=")[0] not in _DIRECTORY_FLAGS for one in arguments
    ):
        return False
    overrides = OverridesParser.create().parse_overrides(_overrides(arguments))
    return not any(override.is_sweep_override() for override in overrides)


def _check_first(
    verb: str, arguments: Sequence[str], settings: type[Settings], lists: Set[str]
) -> None:
    """Check before Hydra creates the output folder, so that a wrong setting leaves nothing."""
    overrides = _overrides(arguments)
    check_lists(overrides, lists)
    check_config(composed(verb, overrides, config_folders()), settings)


def _run_hydra(verb: str, job: Callable[[DictConfig], Any], arguments: list[str]) -> None:
    """Have Hydra read `arguments`; the job sees the whole command line, as Lightning repeats it."""
    whole = sys.argv

    @wraps(job)
    def with_whole_command_line(config: DictConfig) -> Any:  # noqa: ANN401
        sys.argv = whole
        return job(config)

    sys.argv = [whole[0], *arguments]
    try:
        hydra.main(str(CONF), verb, version_base="1.3")(with_whole_command_line)()
    finally:
        sys.argv = whole


def _prepare_environment() -> None:
    """Variables that must be set before Hydra and PyTorch are used."""
    # Hydra prints and swallows exceptions unless this is set.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Have PyTorch ask for huge pages: without them page faults take up to three quarters of a
    # simple CPU step, such as bytes to normalised floats.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # A user's own package in the working folder can be named in a `_target_`.
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.append(str(Path.cwd()))


def _arguments(verb: str) -> list[str]:
    """The command line without the program and the verb (`landmark VERB …`, `python VERB.py …`)."""
    _, *arguments = sys.argv
    return arguments[1:] if arguments[:1] == [verb] else arguments


def _overrides(arguments: Sequence[str]) -> list[str]:
    """The overrides among the arguments: not the flags, nor the folder after --config-dir."""
    kept, skip = [], False
    for argument in arguments:
        if not skip and not argument.startswith("-"):
            kept.append(argument)
        skip = argument in _VALUE_FLAGS
    return kept


def flags() -> list[str]:
    """`--config-dir DIR` of this command line, for a command started by it."""
    arguments = sys.argv[1:]
    for place, argument in enumerate(arguments):
        name, equals, _ = argument.partition("=")
        if name in _DIRECTORY_FLAGS:
            return [argument] if equals else arguments[place : place + 2]
    return []


def config_folders() -> list[Path]:
    """The project's configuration folder, then the user's (`--config-dir`)."""
    given = [flag.removeprefix("--config-dir=") for flag in flags()][-1:]
    return [CONF, *(Path(path).resolve() for path in given if Path(path).is_dir())]


def _help(
    verb: str, work: Callable[..., Any], arguments: Sequence[str], settings: type[Settings]
) -> None:
    overrides = _overrides(arguments)
    usage = inspect.getdoc(inspect.getmodule(work)) or ""
    print_help(verb, usage, overrides, config_folders(), settings)
    sys.stdout.flush()  # here, so that a closed pipe is noticed here


def check_lists(overrides: Sequence[str], lists: Set[str]) -> None:
    """Refuse `group=[a,b]` for a group with one choice: Hydra would merge the two silently.

    Args:
        overrides: The job's overrides as written, Hydra's `overrides.task`.
        lists: The groups of which several choices may be given, each once, in order.

    Raises:
        UserError: Names the group.
    """
    for override in overrides:
        key, _, value = override.partition("=")
        group = key.lstrip("+").partition("@")[0]
        is_group = any((folder / group).is_dir() for folder in config_folders())
        if not value.startswith("[") or not is_group:
            continue
        names = [name.strip() for name in value.strip("[]").split(",")]
        if group not in lists:
            raise UserError(
                f"{override}: {group} takes one choice. Choose one, or sweep with -m {group}=a,b."
            )
        if len(set(names)) < len(names):
            raise UserError(f"{override} names a choice twice. Name each once.")
