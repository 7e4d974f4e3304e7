"""Check a submission and, with --send, submit it to Kaggle.

landmark submit DIR
landmark submit DIR --send --competition=NAME --message=TEXT
landmark submit DIR --send --ready

DIR is what `make submit` fills: the stores DIR/query and DIR/gallery, and DIR/ranking, whose
submission.csv is checked against their ids and copied to DIR/submission.csv. Without --send the
command for Kaggle's client is printed, not run.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from landmark.cli._parser import Parser, run
from landmark.error import UserError

# Its queries and gallery are GLDv2's test and index photos, and it takes a CSV.
COMPETITION = "landmark-retrieval-2019"


def main() -> None:
    """Run `landmark submit`."""
    run(submit)


def submit(arguments: Sequence[str]) -> str:
    """Check the submission, then send it or say what would be run; return the last line."""
    parser = Parser("submit", __doc__)
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder that make submit filled")
    parser.add_argument("--send", action="store_true", help="submit it with Kaggle's client")
    parser.add_argument(
        "--ready", action="store_true", help="check only that it could be sent; DIR may be empty"
    )
    parser.add_argument(
        "--competition",
        default=COMPETITION,
        metavar="NAME",
        help="last part of the competition's address (default: %(default)s)",
    )
    parser.add_argument(
        "--message", default="landmark", metavar="TEXT", help="of the submission on Kaggle"
    )
    given = parser.parse_args(arguments)
    check_ready(given.competition, given.send)
    if given.ready:
        return f"ready to send to {given.competition}" if given.send else "nothing will be sent"
    print(check_submission(given.folder), flush=True)
    file = str(given.folder / "submission.csv")
    words = ["competitions", "submit", given.competition, "--file", file]
    return send([*words, "--message", given.message], given.send)


def check_ready(competition: str, is_sent: bool) -> None:
    """Check what can be checked before a submission exists, which takes hours to make.

    Args:
        competition: Last part of the competition's address.
        is_sent: Whether the submission is to be sent.

    Raises:
        UserError: The competition is not valid, or Kaggle's client is needed and missing.
    """
    if not competition or competition.startswith("-"):
        raise UserError(
            f"--competition={competition} is not valid. Pass the last part of the competition's "
            f"address, such as {COMPETITION}."
        )
    if is_sent:
        kaggle_client()


def kaggle_client() -> str:
    """Return the path of Kaggle's command: on the PATH, or in the environment of this Python.

    Raises:
        UserError: It is not installed.
    """
    folders = [os.environ.get("PATH", ""), str(Path(sys.executable).parent)]
    client = shutil.which("kaggle", path=os.pathsep.join(folders))
    if client is None:
        raise UserError(
            "--send needs the command kaggle, which is not installed. Run pip install kaggle and "
            "set up its token."
        )
    return client


def check_submission(folder: Path) -> str:
    """Check `folder/ranking/submission.csv` and copy it to `folder/submission.csv`.

    Returns:
        One line: where it is, and how many queries and gallery photos it is about.

    Raises:
        UserError: The challenge would refuse the file; names the first reason.
    """
    from landmark.artifact.descriptors import DescriptorStore
    from landmark.artifact.submission import check_retrieval
    from landmark.disk.atomic import atomic_file

    query, gallery = (DescriptorStore.open(folder / name) for name in ("query", "gallery"))
    ranked, checked = folder / "ranking" / "submission.csv", folder / "submission.csv"
    count = check_retrieval(ranked, gallery.ids, query.ids)
    with atomic_file(checked) as temporary:
        shutil.copyfile(ranked, temporary)
    return (
        f"{checked}: {count:,} queries, all images among the gallery's {len(gallery):,}, no "
        "duplicates, at most 100 per query"
    )


def send(words: Sequence[str], is_sent: bool) -> str:
    """Run Kaggle's client with these words, or say what would be run; return the last line.

    Raises:
        SystemExit: The client failed; status 1.
    """
    command = shlex.join(["kaggle", *words])
    if not is_sent:
        return f"not sent; --send (make submit SUBMIT=1) runs: {command}"
    print(f"running: {command}", flush=True)
    status = subprocess.run([kaggle_client(), *words], check=False).returncode
    if status:
        print(f"error: kaggle exited with status {status}: not submitted.", file=sys.stderr)
        sys.exit(1)
    return "sent"
