"""The exit status of every command, and the one line that comes with it."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exit_status(folders: Sequence[Path] = ()) -> Iterator[None]:
    """Exit with 2 and one line on standard error for the user's mistakes, 130 when interrupted.

    Any other error passes, and with LANDMARK_TRACEBACK=1 the user's mistakes do too.

    Args:
        folders: The configuration folders, for the names of existing choices.
    """
    try:
        yield
        sys.stdout.flush()  # here, so that a closed pipe is noticed here
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of `… | head` has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        from landmark.cli._errors import error_line

        line = error_line(error, folders)
        if line is None or os.environ.get("LANDMARK_TRACEBACK") == "1":
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
