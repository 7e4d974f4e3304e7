"""Processes of its own: shares of an extraction worked off side by side."""

import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from landmark.artifact.unfinished import UnfinishedStore
from landmark.error import UserError
from landmark.extract.extraction import Extraction

Batches = Sequence[NDArray[np.int64]]


def run_in_processes(
    extraction: Extraction, folder: Path, shares: Sequence[Batches], report: Callable[[int], object]
) -> None:
    """Works each share off in a process of its own; the first that fails ends all.

    Args:
        extraction: what to do.
        folder: of the unfinished store, which they share.
        shares: batches of each process.
        report: is told how many photos were described.

    Raises:
        UserError: one met it.
        RuntimeError: one failed otherwise, or was killed.
    """
    # A fresh interpreter each: a GPU cannot be used in a forked process.
    context = multiprocessing.get_context("spawn")
    processes: dict[Any, BaseProcess] = {}
    try:
        for number, batches in enumerate(shares):
            ours, theirs = context.Pipe(duplex=False)
            process: BaseProcess = context.Process(
                target=_work, args=(extraction, folder, batches, number, len(shares), theirs)
            )
            process.start()
            theirs.close()  # so that the pipe ends with the process
            processes[ours] = process
        waiting = set(processes)
        while waiting:
            for pipe in wait(list(waiting)):
                if not _heard(pipe, processes[pipe], report):  # type: ignore[arg-type]
                    waiting.discard(pipe)
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.join()


def _heard(pipe: Connection, process: BaseProcess, report: Callable[[int], object]) -> bool:
    """Whether the process has more to say."""
    try:
        kind, content = pipe.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"a process of the extraction ended with status {process.exitcode} (-9: killed, "
            "perhaps for want of memory); the same command goes on"
        ) from None
    if kind == "mistake":
        raise UserError(content)
    if kind == "failed":
        raise RuntimeError(f"a process of the extraction failed:\n{content}")
    if kind == "described":
        report(content)
    return bool(kind != "done")


def _work(
    extraction: Extraction, folder: Path, batches: Batches, number: int, of: int, pipe: Connection
) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, torch.get_num_threads() // of))
    try:
        extraction.run(
            UnfinishedStore(folder),
            batches,
            lambda count: pipe.send(("described", count)),
            number=number,
            of=of,
        )
        pipe.send(("done", None))
    except UserError as mistake:
        pipe.send(("mistake", str(mistake)))
    except KeyboardInterrupt:
        pass
    except BaseException:
        pipe.send(("failed", traceback.format_exc()))


def _end_with_parent() -> None:
    """A parent that was killed can end nobody: each child sees to it itself."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
