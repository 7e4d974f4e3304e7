"""Photos that cannot be used: a mistake to mend, or left out and listed, by `data.bad_image`.

Skipped photos never shift others: one whose header cannot be read is taken out of the table before
its rows are numbered; one that turns out broken when it is decoded keeps its row. In training the
next good photo of its aspect group takes its place in the batch. Elsewhere a grey image stands for
it, and its row comes marked as `skipped_row`, for the receiver to leave out.
"""

import csv
import os
from pathlib import Path

import pandas as pd

from landmark.error import UserError

POLICIES = ("error", "skip")
_COLUMNS = ["id", "path", "reason"]


def check_policy(policy: str) -> None:
    """Refuses an unknown policy.

    Raises:
        UserError: it is none of `POLICIES`.
    """
    if policy not in POLICIES:
        raise UserError(f"data.bad_image={policy}: choose {' or '.join(POLICIES)}")


def skipped_row(row: int) -> int:
    """The mark of a skipped row, a negative number; of a mark, the row."""
    return -row - 1


def reason_of(mistake: str, photo: str) -> str:
    """What a mistake says of a photo file, without its path and without what to do about it."""
    return mistake.removeprefix(f"{photo}: ").partition("; ")[0]


class BadImageList:
    """A CSV of skipped photos (id, path, reason), to which several processes append.

    Args:
        file: the CSV; made with the first photo.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)

    def note(self, photo: str, path: str, reason: str) -> None:
        """Appends one photo: a single write, so that lines of several processes never mix."""
        line = _csv_line((photo, path, " ".join(reason.split())))
        handle = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def tidy(self) -> int:
        """Leaves one line a photo, sorted by id, under a header; returns how many there are."""
        if not self.file.is_file():
            return 0
        frame = pd.read_csv(self.file, names=_COLUMNS, dtype=str, keep_default_na=False)
        frame = frame[(frame != _COLUMNS).any(axis=1)].drop_duplicates("id").sort_values("id")
        frame.to_csv(self.file, index=False)
        return len(frame)


def _csv_line(fields: tuple[str, ...]) -> str:
    from io import StringIO

    text = StringIO()
    csv.writer(text, lineterminator="\n").writerow(fields)
    return text.getvalue()
