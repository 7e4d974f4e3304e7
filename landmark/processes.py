"""Ranks, collectives and worker processes, under torchrun, srun or Lightning.

Ranks come from the process group if one is initialised, else from the launcher's environment
variables. `torch` is imported only when processes communicate.
"""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from landmark.error import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup

Value = TypeVar("Value")

# Ranks may finish their shards of an extraction days apart: never time out.
_TIMEOUT = timedelta(days=30)
_POLL_SECONDS = 0.1
_INTERRUPTED = 130


@dataclass(frozen=True)
class Launch:
    """This process as its launcher describes it. Defaults to a single process.

    Attributes:
        rank: Rank, 0 … world_size - 1.
        world_size: Number of processes.
        local_rank: Rank among the processes of this machine.
        local_world_size: Processes on this machine.
        address: Rendezvous URL of the process group.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    address: str = "env://"


def launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """Read the variables of torchrun (RANK, WORLD_SIZE, …), else of srun (SLURM_PROCID, …).

    Raises:
        UserError: A variable is missing or is not a number.
    """
    try:
        if "RANK" in environment and "WORLD_SIZE" in environment:
            return _torchrun(environment)
        if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
            return _srun(environment)
    except (KeyError, ValueError) as error:
        raise UserError(
            f"the launcher's variables are incomplete ({error}). Start with torchrun or srun, or "
            "unset RANK, WORLD_SIZE and SLURM_STEP_NUM_TASKS."
        ) from error
    return Launch()


def _torchrun(environment: Mapping[str, str]) -> Launch:
    rank, world_size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    return Launch(
        rank,
        world_size,
        int(environment.get("LOCAL_RANK", rank)),
        int(environment.get("LOCAL_WORLD_SIZE", world_size)),
        "env://" if "MASTER_ADDR" in environment else "tcp://127.0.0.1:12910",
    )


def _srun(environment: Mapping[str, str]) -> Launch:
    from lightning_fabric.plugins.environments import SLURMEnvironment

    world_size = int(environment["SLURM_STEP_NUM_TASKS"])
    nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_NODELIST", "127.0.0.1"))
    # From the job id: the same on all ranks, different from other jobs on the machine.
    port = 15000 + int(environment.get("SLURM_JOB_ID", "0")[-4:])
    address = f"tcp://{SLURMEnvironment.resolve_root_node_address(nodes)}:{port}"
    return Launch(
        int(environment["SLURM_PROCID"]),
        world_size,
        int(environment["SLURM_LOCALID"]),
        -(-world_size // int(environment.get("SLURM_STEP_NUM_NODES", "1"))),
        "env://" if "MASTER_ADDR" in environment else address,
    )


def _initialized() -> ModuleType | None:
    """Return `torch.distributed` if a process group exists, without importing torch to check."""
    if "torch" not in sys.modules:
        return None
    from torch import distributed

    return distributed if distributed.is_available() and distributed.is_initialized() else None


def rank() -> int:
    """Return the rank of this process; 0 for a single process."""
    distributed = _initialized()
    return distributed.get_rank() if distributed else launch().rank


def world_size() -> int:
    """Return the number of processes."""
    distributed = _initialized()
    return distributed.get_world_size() if distributed else launch().world_size


def is_alone() -> bool:
    """Whether this is the only process."""
    return world_size() == 1


def launched_as_rank_zero() -> bool:
    """Whether torchrun, srun or Lightning started this process as rank 0, or none of them did.

    Unlike `rank` it knows the variables with which Lightning starts the other ranks, and needs no
    process group.
    """
    if launch().world_size > 1:
        return launch().rank == 0
    return all(os.environ.get(name, "0") == "0" for name in ("NODE_RANK", "LOCAL_RANK"))


def rank_and_size() -> tuple[int, int]:
    """Return rank and world size of the initialised process group; (0, 1) without one.

    For collectives inside a training step. `rank` and `world_size` may come from the launcher's
    variables, which do not imply that the processes train together.
    """
    distributed = _initialized()
    return (distributed.get_rank(), distributed.get_world_size()) if distributed else (0, 1)


def initialize() -> None:
    """Initialise a gloo process group, once; a single process needs none."""
    this = launch()
    if this.world_size == 1 or _initialized():
        return
    from torch import distributed

    with _exit_with_peers():
        distributed.init_process_group(
            "gloo",
            init_method=this.address,
            rank=this.rank,
            world_size=this.world_size,
            timeout=_TIMEOUT,
        )
    # Its threads may still run when the interpreter has exited, which would abort the process.
    atexit.register(_destroy_process_group)


def _destroy_process_group() -> None:
    distributed = _initialized()
    if distributed:
        distributed.destroy_process_group()


def broadcast(value: Value) -> Value:
    """Broadcast rank 0's picklable value; the argument of the other ranks is ignored."""
    if is_alone():
        return value
    initialize()
    from torch import distributed

    values = [value]
    with _exit_with_peers():
        distributed.broadcast_object_list(values, src=0)
    return values[0]


def barrier() -> None:
    """Wait until every rank has reached this call."""
    if not is_alone():
        initialize()
        from torch import distributed

        with _exit_with_peers():
            distributed.barrier()


def gather(rows: "Tensor", group: "ProcessGroup | None" = None, uneven: bool = False) -> "Tensor":
    """Concatenate the rows (B, …) of every rank, in rank order, on every rank. No gradient flows.

    Args:
        rows: Rows of this rank.
        group: Process group. Defaults to all processes.
        uneven: Allow B to differ between ranks, at the cost of one more collective.

    Returns:
        (Σ B, …); `rows` itself without a process group.
    """
    distributed = _initialized()
    if distributed is None:
        return rows
    import torch

    if uneven:
        from torchmetrics.utilities.distributed import gather_all_tensors

        return torch.cat(gather_all_tensors(rows.detach().contiguous(), group))
    parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(parts, rows.contiguous(), group=group)
    return torch.cat(parts)


def gather_on_rank_zero(rows: "Tensor", counts: Sequence[int]) -> "Tensor":
    """Concatenate the rows (R, …) of every rank on rank 0; other ranks get their own rows back.

    Unlike `gather` it costs the other ranks no memory.

    Args:
        rows: Rows of this rank.
        counts: R of every rank.
    """
    distributed = _initialized()
    if distributed is None:
        return rows
    import torch

    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts] if distributed.get_rank() == 0 else None
    distributed.gather(padded, parts, dst=0)
    if parts is None:
        return rows
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def gather_objects(value: Value) -> list[Value]:
    """Return the picklable value of every rank, in rank order, on every rank."""
    if is_alone():
        return [value]
    initialize()
    from torch import distributed

    values: list[Any] = [None] * world_size()
    with _exit_with_peers():
        distributed.all_gather_object(values, value)
    return values


def total(values: "Tensor") -> "Tensor":
    """Sum tensors of one shape over the ranks, on every rank."""
    distributed = _initialized()
    if distributed is None:
        return values
    values = values.contiguous()
    distributed.all_reduce(values)
    return values


def shard(count: int, of_rank: int | None = None, ranks: int | None = None) -> slice:
    """Return the contiguous slice of `count` items that a rank owns; sizes differ by at most one.

    Example:
        >>> [shard(5, of_rank, ranks=2) for of_rank in range(2)]
        [slice(0, 2, None), slice(2, 5, None)]
    """
    of_rank = rank() if of_rank is None else of_rank
    ranks = world_size() if ranks is None else ranks
    return slice(of_rank * count // ranks, (of_rank + 1) * count // ranks)


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Run the block on rank 0 first, which may fill a cache, then on the other ranks."""
    if rank() > 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


@contextmanager
def silence_other_ranks() -> Iterator[None]:
    """Discard what ranks other than 0 print inside the block."""
    if rank() == 0:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield


def notice(line: str) -> None:
    """Print one line about the input on standard error, on rank 0 only."""
    # Lightning's other processes read the photos before they have a rank.
    if rank() == 0 and os.environ.get("LOCAL_RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)


@contextmanager
def _exit_with_peers() -> Iterator[None]:
    """Exit without a traceback when a peer has exited: it has printed the reason."""
    try:
        yield
    except RuntimeError as error:
        raise SystemExit(f"another process exited early ({error})") from error


def start(
    work: Callable[..., None],
    arguments: Sequence[tuple[Any, ...]],
    poll: Callable[[], None],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run `work` in fresh interpreters, one per tuple of arguments; the first failure ends all.

    Workers exit when this process dies, even by SIGKILL.

    Args:
        work: Picklable function.
        arguments: Positional arguments of each worker, picklable.
        poll: Called several times a second while they run, and once at the end.
        environment: Environment variables of the workers, in addition to those of this process.

    Raises:
        UserError: A worker raised a UserError.
        RuntimeError: A worker raised another exception, or was killed.
    """
    # Not fork: a CUDA context does not survive it.
    context = multiprocessing.get_context("spawn")
    workers: dict[Any, BaseProcess] = {}
    try:
        for worker_arguments in arguments:
            receiver, sender = context.Pipe(duplex=False)
            worker: BaseProcess = context.Process(
                target=_run_worker, args=(sender, work, worker_arguments)
            )
            with _environment(environment or {}):
                worker.start()
            sender.close()  # only the worker's copy remains open: the pipe closes when it exits
            workers[receiver] = worker
        running = list(workers)
        while running:
            for ready in wait(running, timeout=_POLL_SECONDS):
                _raise_failure(ready, workers[ready])
                running.remove(ready)
            poll()
    finally:
        for worker in workers.values():
            worker.terminate()
        for worker in workers.values():
            worker.join()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, which a worker inherits when it starts."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _raise_failure(receiver: Any, worker: BaseProcess) -> None:  # noqa: ANN401 - a connection
    """Raise the exception that a finished worker sent, or report that it was killed."""
    try:
        failure = receiver.recv()
    except EOFError:
        worker.join()
        killed = " (killed, possibly out of memory)" if worker.exitcode == -signal.SIGKILL else ""
        raise RuntimeError(
            f"worker exited with status {worker.exitcode}{killed}. Run the same command to resume."
        ) from None
    if failure is not None:
        raise failure


def _run_worker(sender: Connection, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    failure: Exception | None = None
    try:
        work(*arguments)
    except UserError as error:
        failure = UserError(str(error))
    except Exception:
        failure = RuntimeError(f"a worker process failed:\n{traceback.format_exc()}")
    except KeyboardInterrupt:  # Ctrl-C reaches the parent too, which reports it
        raise SystemExit(_INTERRUPTED) from None
    sender.send(failure)


def _exit_with_parent() -> None:
    """Exit when the parent dies: a SIGKILLed parent cannot clean up its children."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
