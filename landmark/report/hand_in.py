"""Hands a checked submission to Kaggle, only when asked; else prints what would be run.

python -m landmark.report.hand_in SUBMISSION.csv [competition=NAME] [message=TEXT] [submit=1]
python -m landmark.report.hand_in ready [submit=1] …      # only checks that it could be done
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from landmark.error import UserError

# Its queries and gallery are GLDv2's test and index photos, and it takes a CSV.
COMPETITION = "landmark-retrieval-2019"
_DEFAULTS = {"competition": COMPETITION, "message": "landmark", "submit": "0"}


def client() -> str:
    """Where Kaggle's command is: on the PATH, or in the environment that runs this.

    Raises:
        UserError: it is not installed.
    """
    places = [os.environ.get("PATH", ""), str(Path(sys.executable).parent)]
    found = shutil.which("kaggle", path=os.pathsep.join(places))
    if found is None:
        raise UserError(
            "SUBMIT=1: there is no command kaggle; pip install kaggle, set up its token, try again"
        )
    return found


def ready(competition: str, submit: str) -> bool:
    """Whether a file is to be handed in; checked before the hours that making it takes.

    Args:
        competition: the last part of its address.
        submit: 1: hand it in; 0 or empty: do not.

    Raises:
        UserError: another value of `submit`, no client, or no competition.
    """
    if submit not in ("", "0", "1"):
        raise UserError(f"SUBMIT={submit}: 1 hands the file in, 0 does not")
    if not competition or competition.startswith("-"):
        raise UserError(
            f"COMPETITION={competition}: give the last part of the competition's address, "
            f"such as {COMPETITION}"
        )
    if submit == "1":
        client()
    return submit == "1"


def hand_in(file: str | Path, competition: str, message: str, submit: str) -> int:
    """Hands the file in where `submit` is 1; else prints what would be run.

    Args:
        file: the checked submission.
        competition: as in `ready`.
        message: what to call the submission.
        submit: as in `ready`.

    Returns:
        The exit status: 0, or 1 where the client failed.

    Raises:
        UserError: there is no such file, or as `ready`.
    """
    asked = ready(competition, submit)
    if not Path(file).is_file():
        raise UserError(f"{file}: no such submission; make submit RUN=… writes it")
    words = ["competitions", "submit", competition, "--file", str(file), "--message", message]
    shown = shlex.join(["kaggle", *words])
    if not asked:
        print(f"not handed in; SUBMIT=1 runs: {shown}")
        return 0
    print(f"running: {shown}", flush=True)
    status = subprocess.run([client(), *words], check=False).returncode
    if status:
        print(f"error: kaggle ended with status {status}: not handed in", file=sys.stderr)
        return 1
    return 0


def main(arguments: Sequence[str]) -> int:
    """Does what the command line says; returns the exit status."""
    if not arguments:
        print("error: give the submission.csv that make submit wrote", file=sys.stderr)
        return 2
    file, *pairs = arguments
    try:
        options = _options(pairs)
        if file == "ready":
            ready(options["competition"], options["submit"])
            return 0
        return hand_in(file, **options)
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2


def _options(pairs: Sequence[str]) -> dict[str, str]:
    options = dict(_DEFAULTS)
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in options:
            raise UserError(f"{pair}: no such option; options: {', '.join(options)}")
        options[name] = value
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
