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

from landmark.cli._parser import parser_of, run
from landmark.error import UserError

# Takes a CSV; queries and gallery are GLDv2's test and index photos.
COMPETITION = "landmark-retrieval-2019"


def main() -> None:
    """Run `landmark submit`."""
    run(submit)


def submit(arguments: Sequence[str]) -> str:
    """Check the submission, then send it; return the line to print."""
    parser = parser_of("submit", __doc__)
    add = parser.add_argument
    add("folder", metavar="DIR", type=Path, help="folder that make submit filled")
    add("--send", action="store_true", help="submit with Kaggle's client")
    add(
        "--ready", action="store_true", help="only check that sending is possible; DIR may be empty"
    )
    add("--competition", default=COMPETITION, metavar="NAME", help="last part of its address")
    add("--message", default="landmark", metavar="TEXT", help="name of the submission on Kaggle")
    options = parser.parse_args(arguments)
    if not options.competition or options.competition.startswith("-"):
        parser.error(
            f"--competition={options.competition} is not valid. Pass the last part of the "
            f"competition's address, such as {COMPETITION}"
        )
    client = kaggle_client() if options.send else ""
    if options.ready:
        return f"ready to send to {options.competition}" if client else "nothing will be sent"
    print(check_submission(options.folder), flush=True)
    kaggle_arguments = ["competitions", "submit", options.competition]
    kaggle_arguments += [
        "--file",
        str(options.folder / "submission.csv"),
        "--message",
        options.message,
    ]
    command = shlex.join(["kaggle", *kaggle_arguments])
    if not client:
        return f"not sent; --send (make submit SUBMIT=1) runs: {command}"
    print(f"running: {command}", flush=True)
    status = subprocess.run([client, *kaggle_arguments], check=False).returncode
    if status:
        print(f"error: kaggle exited with status {status}: not submitted.", file=sys.stderr)
        sys.exit(1)
    return "sent"


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
    """Check `folder/ranking/submission.csv`, copy it to `folder/submission.csv`, return a summary.

    Raises:
        UserError: The challenge would reject the file; names the first reason.
    """
    from landmark.artifact.descriptors import DescriptorStore
    from landmark.artifact.submission import check_retrieval
    from landmark.disk.atomic import atomic_file
    from landmark.disk.lock import locked

    query, gallery = (DescriptorStore.open(folder / name) for name in ("query", "gallery"))
    ranked, checked = folder / "ranking" / "submission.csv", folder / "submission.csv"
    with locked(checked), atomic_file(checked) as temporary:
        count = check_retrieval(ranked, gallery.ids, query.ids)
        shutil.copyfile(ranked, temporary)
    return (
        f"{checked}: {count:,} queries, all images among the gallery's {len(gallery):,}, no "
        "duplicates, at most 100 per query"
    )
