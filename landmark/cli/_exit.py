"""Exit status and one-line error message of every command."""

import os
import select
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_CLOSED_PIPE = 141  # as shells report a process that SIGPIPE ended


@contextmanager
def exit_status(folders: Sequence[Path] = ()) -> Iterator[None]:
    """Exit with 2 and one line on standard error for user errors, with 130 when interrupted.

    Exit with 141, silently, when the reader of the output has closed the pipe, as `… | head` does.
    Other errors propagate; with LANDMARK_TRACEBACK=1 user errors do too.

    Args:
        folders: Configuration folders, whose choices the messages list.
    """
    try:
        yield
        sys.stdout.flush()  # so that a closed pipe or a full device raises here
    except KeyboardInterrupt as interrupt:
        with suppress(ValueError):  # outside the main thread
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C prints no traceback
        _print_error(str(interrupt) or "interrupted")
        sys.exit(130)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _is_output_closed():
            sys.exit(_CLOSED_PIPE)
        from landmark.cli._errors import error_line

        line = error_line(error, folders)
        if line is None or os.environ.get("LANDMARK_TRACEBACK") == "1":
            raise
        _print_error(f"error: {line}")
        sys.exit(2)
    finally:
        _drop_unwritten_output()


def _print_error(line: str) -> None:
    with suppress(BrokenPipeError):
        print(line, file=sys.stderr)


def _is_output_closed() -> bool:
    """Whether standard output or error is a pipe that nobody reads any more."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # not a file
            poll.register(stream.fileno(), select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _drop_unwritten_output() -> None:
    """Discard what cannot be written: Python would try again at exit, and print a traceback."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(ValueError):  # not a file
            try:
                stream.flush()
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
