"""How the commands on stores end: 0 done, 2 the user's mistake in one line."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from landmark.error import UserError


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line too."""

    def error(self, message: str) -> NoReturn:
        """Raises a mistake in place of printing how the command is used."""
        raise UserError(f"{message}; see --help")


def run(main: Callable[[Sequence[str]], str]) -> None:
    """Prints what `main` gives for the command line's arguments, or its mistake."""
    try:
        print(main(sys.argv[1:]))
    except UserError as mistake:
        # The advice is written for the root scripts' way of saying it.
        line = str(mistake).replace("overwrite=true", "--overwrite")
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
