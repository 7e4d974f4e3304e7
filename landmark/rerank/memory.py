"""Measure the peak memory of a block of code."""

import re
import sys
import threading
from pathlib import Path
from types import TracebackType

_STATUS = Path("/proc/self/status")
_INTERVAL_SECONDS = 0.02


class PeakMemory:
    """Sample the process's memory, without memory-mapped files, while the block runs.

    Mapped stores do not count because the system drops their pages when memory is short. Memory is
    sampled fifty times a second, so shorter peaks may be missed. On systems without /proc the
    growth of the maximum resident set size is reported.

    Attributes:
        bytes: Peak memory during the block minus memory at its start; set when the block ends.

    Example:
        >>> with PeakMemory() as memory:
        ...     held = bytearray(2**24)
        >>> memory.bytes >= 0
        True
    """

    def __enter__(self) -> "PeakMemory":
        self.bytes = 0
        self._initial = self._peak = _memory()
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        self._watcher.join()
        self._peak = max(self._peak, _memory())
        self.bytes = self._peak - self._initial

    def _watch(self) -> None:
        while not self._done.wait(_INTERVAL_SECONDS):
            self._peak = max(self._peak, _memory())


def _memory() -> int:
    """Return resident bytes, without mapped files where /proc reports them."""
    try:
        anonymous = re.search(r"RssAnon:\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        anonymous = None
    if anonymous:
        return int(anonymous[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
