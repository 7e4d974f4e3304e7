"""Photos that cannot be used: `data.bad_image` raises an error, or skips and lists them.

Skipping a photo never changes the rows of others. A photo whose header cannot be read is removed
from the table before rows are numbered. A photo that fails to decode keeps its row: in training the
next good photo of its aspect group replaces it; otherwise a grey image does, and `skipped_row`
encodes its row, so that the receiver drops it.
"""

import csv
import io
import os
from pathlib import Path
from typing import Literal

import pandas as pd

BadImage = Literal["error", "skip"]
_COLUMNS = ["id", "path", "reason"]


def skipped_row(row: int) -> int:
    """Encode a skipped row as -row - 1 (its own inverse)."""
    return -row - 1


def reason_of(message: str, photo: str) -> str:
    """Return the reason in an error of `landmark.image`, without path and advice."""
    from landmark.image.decode import ADVICE

    return message.removeprefix(f"{photo} ").removesuffix(f". {ADVICE}")


class BadImageList:
    """A CSV of skipped photos (id, path, reason), to which several processes append.

    Args:
        file: Path of the CSV, which the first photo creates.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)

    def note(self, photo: str, path: str, reason: str) -> None:
        """Append one photo, in a single write, so that lines of several processes never mix."""
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow((photo, path, " ".join(reason.split())))
        handle = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line.getvalue().encode())
        finally:
            os.close(handle)

    def tidy(self) -> int:
        """Add a header, sort by id and drop repeated photos; return the number of photos."""
        if not self.file.is_file():
            return 0
        frame = pd.read_csv(self.file, names=_COLUMNS, dtype=str, keep_default_na=False)
        frame = frame[(frame != _COLUMNS).any(axis=1)].drop_duplicates("id").sort_values("id")
        frame.to_csv(self.file, index=False)
        return len(frame)
