"""The processes that torchrun started, which share a search among them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from landmark.search.sharded import Search


def rank() -> int:
    """The number of this process; 0 where it is alone."""
    return int(os.environ["RANK"]) if _several() else 0


def among_processes(search: "Search") -> "Search":
    """Share a search out among the processes; alone, it stays as it is."""
    if not _several():
        return search
    import torch.distributed as dist

    from landmark.search.sharded import Sharded

    if not dist.is_initialized():
        dist.init_process_group("gloo")
    return Sharded(search)


@contextmanager
def first_process_speaks() -> Iterator[None]:
    """Prints of the other processes go nowhere."""
    if rank() == 0:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield


def _several() -> bool:
    named = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"))
    return named and int(os.environ["WORLD_SIZE"]) > 1
