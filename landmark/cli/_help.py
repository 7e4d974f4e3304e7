"""`--help` of a command: usage, groups with their choices, settings with values and ranges."""

import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from landmark.cli._errors import choices
from landmark.cli._signature import read_signature
from landmark.settings import in_words

_SETTING_WIDTH = 52
_INDENT = "  "


def print_help(
    verb: str, usage: str, overrides: Sequence[str], folders: Sequence[Path], settings: type
) -> None:
    """Print a command's settings, with `overrides` applied.

    Args:
        verb: Name of the command.
        usage: Docstring of the command's module.
        overrides: Overrides on the command line, such as `loss=cosface`.
        folders: Configuration folders, the project's own first.
        settings: Dataclass of the command's own settings.
    """
    config = composed(verb, overrides, folders)
    print(usage.strip())
    chosen = [group for group in groups_of(verb, folders) if choices(group, folders)]
    if chosen:
        print("\n== Groups (group=choice) ==")
        for group in chosen:
            print(f"{group}: {', '.join(choices(group, folders))}")
    print("\n== Settings (key.sub=value) ==")
    for line in _lines(config, settings):
        print(line)
    print("\nFlags of Hydra: --cfg job, --multirun (-m), --config-dir DIR, --info, --hydra-help.")


def composed(
    verb: str, overrides: Sequence[str], folders: Sequence[Path], with_hydra: bool = False
) -> DictConfig:
    """Compose the configuration of a command without running it."""
    project_folder, *user_folders = folders
    paths = ",".join(f"file://{path}" for path in user_folders)
    search_path = [f"hydra.searchpath=[{paths}]"] if user_folders else []
    with initialize_config_dir(str(project_folder), version_base="1.3"):
        return compose(verb, [*overrides, *search_path], return_hydra_config=with_hydra)


def groups_of(verb: str, folders: Sequence[Path]) -> dict[str, str | list[str] | None]:
    """Return the groups in a command's defaults list with their choices, in order.

    A group of another package is `group@package`. Settings that the command's own file groups, such
    as task, have the choice "".
    """
    text = (folders[0] / f"{verb}.yaml").read_text()
    plain: Any = OmegaConf.to_container(OmegaConf.create(text))
    entries = [entry for entry in plain.pop("defaults", []) if isinstance(entry, dict)]
    pairs = [pair for entry in entries for pair in entry.items()]
    groups = {name: choice for name, choice in pairs if not name.startswith("override ")}
    own = [key for key, value in plain.items() if isinstance(value, dict) and key != "hydra"]
    return groups | dict.fromkeys(own, "")


def _lines(config: DictConfig, settings: type) -> Iterator[str]:
    with open_dict(config):
        config.pop("hydra", None)
    hints = typing.get_type_hints(settings, include_extras=True)
    plain: Any = OmegaConf.to_container(config, resolve=False)
    yield from _node(plain, hints, "")


def _node(node: Mapping[str, Any], hints: Mapping[str, Any], indent: str) -> Iterator[str]:
    target = node.get("_target_")
    signature = read_signature(target) if isinstance(target, str) else None
    if signature is not None:
        hints = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    for key, value in node.items():
        if key.startswith("_") and key != "_target_":
            continue
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}:"
            yield from _node(value, {}, indent + _INDENT)
            continue
        setting = f"{indent}{key}: {_yaml(value)}"
        words = in_words(hints[key]) if key in hints else ""
        yield f"{setting:<{_SETTING_WIDTH}}{_INDENT}# {words}" if words else setting


def _yaml(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "{}" if value == {} else str(value)
