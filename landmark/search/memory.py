"""The memory that a process may still take."""

import os
from pathlib import Path

from landmark.error import UserError

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def memory_at_hand() -> int:
    """Bytes that are free, or can be freed, within the limits of the container.

    Raises:
        UserError: This system does not say.
    """
    free = []
    if _MEMINFO.is_file():
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free.append(1024 * int(line.split()[1]))
    elif "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        free.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    limit, used = (_number(_CGROUP / f"memory.{name}") for name in ("max", "current"))
    if limit is not None and used is not None:
        free.append(max(0, limit - used))
    if not free:
        raise UserError("search.memory: this system does not say what is free; give GiB")
    return min(free)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # none there, or no limit: "max"
        return None
