"""The decorator of every Hydra command: parse, check, run, and exit with a status."""

import inspect
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence, Set
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.main import get_args_parser
from hydra.types import RunMode
from omegaconf import DictConfig

from landmark.cli._check import check_config, check_groups, check_toy_root
from landmark.cli._errors import is_group
from landmark.cli._exit import exit_status
from landmark.cli._help import composed, groups_of, print_help
from landmark.cli._overrides import quote_overrides
from landmark.cli._run_lock import release
from landmark.error import UserError

Settings = TypeVar("Settings")

_PACKAGE = Path(__file__).resolve().parents[1]
# In the wheel conf/ is inside the package, in a checkout beside it.
CONF = next(path for path in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if path.is_dir())


def command(
    settings: type[Settings], lists: Set[str] = frozenset()
) -> Callable[[Callable[[Settings, DictConfig], Any]], Callable[[], None]]:
    """Turn `work(settings, config)`, the body of a command, into its entry point.

    The command is named after the module; conf/NAME.yaml is its configuration, the module's
    docstring its usage. `work` is called once per job, with the checked settings.

    Args:
        settings: Dataclass of the command's own settings.
        lists: Groups that accept several choices, in order.
    """

    def decorate(work: Callable[[Settings, DictConfig], Any]) -> Callable[[], None]:
        verb = work.__module__.rpartition(".")[2]

        def check(
            config: DictConfig, overrides: Sequence[str], folders: Sequence[Path]
        ) -> Settings:
            check_lists(overrides, lists, folders)
            check_groups(config, groups_of(verb, [CONF]), lists)
            check_toy_root(config, overrides)
            return check_config(config, settings)

        @wraps(work)
        def job(config: DictConfig) -> Any:  # noqa: ANN401
            sources = HydraConfig.get().runtime.config_sources
            folders = [Path(source.path) for source in sources if source.schema == "file"]
            # Hydra prints other exceptions of a job on standard error; SystemExit passes through.
            with exit_status(folders):
                return work(check(config, HydraConfig.get().overrides.task, folders), config)

        # Sweep jobs may run in other processes, which look up the function by its name.
        job.__qualname__ = f"{work.__qualname__}.job"

        def main() -> None:
            _prepare_environment()
            # `landmark VERB …` or `python VERB.py …`
            arguments = sys.argv[2:] if sys.argv[1:2] == [verb] else sys.argv[1:]
            options = get_args_parser().parse_intermixed_args(arguments)
            user_folder = Path(options.config_dir or "").resolve()
            folders = [CONF, user_folder] if options.config_dir and user_folder.is_dir() else [CONF]
            with exit_status(folders):
                compose = cache(lambda *overrides: composed(verb, overrides, folders))
                defaults = groups_of(verb, folders)
                is_sweep = options.multirun or _config_is_sweep(verb, options.overrides, folders)
                overrides = quote_overrides(
                    options.overrides, settings, defaults, compose, folders, is_sweep
                )
                if options.help:
                    usage = inspect.getdoc(inspect.getmodule(work)) or ""
                    print_help(verb, usage, overrides, folders, settings)
                    return
                if _is_single_run(options, overrides):
                    # Before Hydra creates the output folder: a wrong setting leaves no files.
                    check(compose(*overrides), overrides, folders)
                quoted = dict(zip(options.overrides, overrides, strict=True))
                _run_hydra(verb, job, [quoted.get(one, one) for one in arguments])

        main.job = job  # type: ignore[attr-defined]
        return main

    return decorate


def _config_is_sweep(verb: str, overrides: Sequence[str], folders: Sequence[Path]) -> bool:
    """Whether an experiment or `hydra.mode` makes the command a sweep without `-m`."""
    has_commas = any("," in override for override in overrides)
    choosing = [one for one in overrides if one.startswith(("experiment=", "hydra.mode="))]
    if not (has_commas and choosing):
        return False
    hydra_config = composed(verb, choosing, folders, with_hydra=True).hydra
    return bool(hydra_config.mode == RunMode.MULTIRUN)


def _is_single_run(options: Namespace, overrides: Sequence[str]) -> bool:
    """Whether the command line runs one job: no sweep, and no flag that only prints something."""
    if any(
        value for flag, value in vars(options).items() if flag not in ("overrides", "config_dir")
    ):
        return False
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return not any(override.is_sweep_override() for override in parsed)


def _run_hydra(verb: str, job: Callable[[DictConfig], Any], arguments: list[str]) -> None:
    """Run Hydra on `arguments`; the job sees the original sys.argv, which Lightning relaunches."""
    command_line = sys.argv

    @wraps(job)
    def with_command_line(config: DictConfig) -> Any:  # noqa: ANN401
        sys.argv = command_line
        return job(config)

    sys.argv = [command_line[0], *arguments]
    try:
        hydra.main(str(CONF), verb, version_base="1.3")(with_command_line)()
    finally:
        sys.argv = command_line
        release()


def _prepare_environment() -> None:
    """Set what Hydra and PyTorch read when they start."""
    # Hydra prints and swallows exceptions unless this is set.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Let PyTorch allocate huge pages: otherwise page faults take up to three quarters of the time
    # of simple CPU work, such as converting bytes to normalised floats.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # So that a `_target_` can name a user's package in the working folder.
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.append(str(Path.cwd()))


def check_lists(overrides: Sequence[str], lists: Set[str], folders: Sequence[Path]) -> None:
    """Reject `group=[a,b]` for a group with one choice: Hydra would merge the two silently.

    Args:
        overrides: Overrides of the job as written, Hydra's `overrides.task`.
        lists: Groups that accept several choices, each once, in order.
        folders: Configuration folders.

    Raises:
        UserError: A group has several choices but accepts one, or a choice is repeated.
    """
    for override in overrides:
        key, _, value = override.partition("=")
        group = key.lstrip("+").partition("@")[0]
        if not value.startswith("[") or not is_group(group, folders):
            continue
        names = [name.strip() for name in value.strip("[]").split(",")]
        if group not in lists:
            raise UserError(
                f"{override}: {group} accepts one choice. Choose one, or sweep with -m {group}=a,b."
            )
        if len(set(names)) < len(names):
            raise UserError(f"{override}: duplicate choice. Pass each choice once.")
