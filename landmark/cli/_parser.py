"""Commands with argparse options instead of Hydra overrides."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from landmark.cli._exit import exit_status
from landmark.error import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise a UserError instead of printing the usage and exiting."""
        raise UserError(f"{message}. See {self.prog} --help.")


def parser_of(verb: str, usage: str | None) -> Parser:
    """Make the parser of a command; `usage` is the docstring of its module."""
    return Parser(
        f"landmark {verb}",
        description=usage,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def run(command: Callable[[Sequence[str]], str]) -> None:
    """Print what `command` returns for the arguments after the verb."""
    with exit_status():
        print(command(sys.argv[2:]))
