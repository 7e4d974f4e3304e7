"""The commands: one file each, named after it. `landmark VERB …` runs it."""

import ast
import importlib
import os
import sys
from pathlib import Path

from landmark.cli._exit import exit_status

_FOLDER = Path(__file__).parent


def verbs() -> dict[str, str]:
    """Map each command to the first line of its docstring."""
    files = sorted(file for file in _FOLDER.glob("*.py") if not file.stem.startswith("_"))
    docstrings = {file.stem: ast.get_docstring(ast.parse(file.read_text())) for file in files}
    return {verb: (text or "").partition("\n")[0] for verb, text in docstrings.items()}


def main() -> None:
    """Run `landmark VERB …`: exit status 0 on success, 2 for a user error, 1 for any other."""
    with exit_status():
        _run()


def _run() -> None:
    commands = verbs()
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb in ("--help", "-h"):
        print("Instance-level image retrieval and recognition of landmarks.\n")
        for name, summary in commands.items():
            print(f"  landmark {name:<9} {summary}")
        print("\nlandmark VERB --help lists the settings of a command.")
        return
    if verb == "--version":
        from landmark import __version__

        print(__version__)
        return
    if verb not in commands:
        print(
            f"error: landmark has no command {verb}. Pass {', '.join(commands)}.", file=sys.stderr
        )
        sys.exit(2)
    run(verb)


def _complete_streams() -> None:
    """Print to a closed stream or in a small character set without an error."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: `>&-`
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def run(verb: str) -> None:
    """Run the command `verb`; an interrupt while its modules are imported is one line too."""
    _complete_streams()
    with exit_status():
        importlib.import_module(f"landmark.cli.{verb}").main()
