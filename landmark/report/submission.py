"""Checks a submission before it is handed in.

python -m landmark.report.submission DIR

DIR is what `make submit` fills: the stores `query` and `gallery`, and `ranking`, whose
submission.csv is checked against their ids and copied to DIR/submission.csv.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.submission import check_retrieval
from landmark.disk.atomic import atomic_file
from landmark.error import UserError


def checked_submission(folder: str | Path) -> str:
    """Checks `folder/ranking/submission.csv` and copies it to `folder/submission.csv`.

    Returns:
        One line: where it lies, how many queries and gallery photos it is about.

    Raises:
        UserError: the file would be refused by the challenge; names the first reason.
    """
    folder = Path(folder)
    query, gallery = (DescriptorStore.open(folder / name) for name in ("query", "gallery"))
    made = folder / "ranking" / "submission.csv"
    count = check_retrieval(made, gallery.ids, query.ids)
    with atomic_file(folder / "submission.csv") as temporary:
        shutil.copyfile(made, temporary)
    return (
        f"{folder / 'submission.csv'}: {count:,} queries, every image one of the gallery's "
        f"{len(gallery):,}, none twice, at most 100 a query"
    )


def main(arguments: Sequence[str]) -> int:
    """Checks one folder; returns the exit status."""
    if len(arguments) != 1:
        print("error: give the folder that make submit filled", file=sys.stderr)
        return 2
    try:
        print(checked_submission(arguments[0]))
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
