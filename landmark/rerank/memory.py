"""How much more memory a piece of work takes at its peak."""

import re
import sys
import threading
from pathlib import Path
from types import TracebackType

_STATUS = Path("/proc/self/status")
_SECONDS = 0.02


class PeakMemory:
    """Watch the process's memory, without the files mapped into it, while the block runs.

    Mapped stores do not count: the system drops their pages when memory is short. The memory is
    sampled fifty times a second, so a shorter peak may be missed. Where /proc does not tell it, the
    growth of the process's highest resident set counts.

    Attributes:
        bytes: The highest memory during the block over that at its start; known at its end.

    Example:
        >>> with PeakMemory() as memory:
        ...     held = bytearray(2**24)
        >>> memory.bytes >= 0
        True
    """

    def __enter__(self) -> "PeakMemory":
        self.bytes = 0
        self._before = self._highest = _memory()
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
        self._highest = max(self._highest, _memory())
        self.bytes = self._highest - self._before

    def _watch(self) -> None:
        while not self._done.wait(_SECONDS):
            self._highest = max(self._highest, _memory())


def _memory() -> int:
    """Bytes of memory held, without mapped files where /proc tells."""
    try:
        anonymous = re.search(r"RssAnon:\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        anonymous = None
    if anonymous:
        return int(anonymous[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
