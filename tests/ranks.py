"""Start the ranks of a test that needs several processes."""

from collections.abc import Callable

import torch


def run_ranks(work: Callable[..., None], *arguments: object, ranks: int = 2) -> None:
    """Call `work(rank, *arguments)` in one process per rank and wait for all of them.

    The processes are forked, because importing torch takes longer than most tests; with CUDA, which
    does not survive a fork, they are spawned.
    """
    start_method = "spawn" if torch.cuda.is_available() else "fork"
    torch.multiprocessing.start_processes(work, arguments, nprocs=ranks, start_method=start_method)
