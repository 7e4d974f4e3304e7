"""Exit status and one-line error message of every command."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def exit_status(folders: Sequence[Path] = ()) -> Iterator[None]:
    """Exit with 2 and one line on standard error for user errors, with 130 when interrupted.

    Other errors propagate; with LANDMARK_TRACEBACK=1 user errors do too.

    Args:
        folders: Configuration folders, whose choices the messages list.
    """
    try:
        yield
        sys.stdout.flush()  # so that a closed pipe raises here
    except KeyboardInterrupt as interrupt:
        with suppress(ValueError):  # outside the main thread
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C prints no traceback
        print(str(interrupt) or "interrupted", file=sys.stderr)
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
