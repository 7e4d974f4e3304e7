"""The processes that a launcher (torchrun, srun) started, and what they tell one another."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from landmark.error import UserError

Value = TypeVar("Value")

# Shares end at different times, and the last may take days: no wait is too long.
_PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class Group:
    """This process among those that were started together; alone without a launcher.

    Attributes:
        rank: 0 … size - 1; the process 0 is the one that prints and writes what stands once.
        size: number of processes.
        local_rank: this process among those of its machine.
        local_size: processes on this machine.
        address: host and port of process 0.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    address: str = "127.0.0.1:12910"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Group":
        """As torchrun (RANK, WORLD_SIZE, …) or else srun (SLURM_PROCID, …) say.

        Raises:
            UserError: one of the variables is missing or no number.
        """
        try:
            if "RANK" in environment and "WORLD_SIZE" in environment:
                return _of_torchrun(environment)
            if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
                return _of_srun(environment)
        except (KeyError, ValueError) as error:
            raise UserError(
                f"RANK, WORLD_SIZE or SLURM_…: the launcher left no place to take ({error})"
            ) from error
        return cls()

    @property
    def is_first(self) -> bool:
        """Whether this process prints and writes what stands once."""
        return self.rank == 0

    def told(self, value: Value) -> Value:
        """What the first process gives; the others wait for it and give anything."""
        if self.size == 1:
            return value
        with _peers_may_end():
            from torch import distributed

            self._meet()
            box = [value]
            distributed.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Waits until every process is here."""
        if self.size > 1:
            with _peers_may_end():
                from torch import distributed

                self._meet()
                distributed.barrier()

    @contextmanager
    def first_goes_ahead(self) -> Iterator[None]:
        """The others enter the block when the first has left it."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def _meet(self) -> None:
        """Opens the connections, once a process: a sweep's next job finds them open."""
        from torch import distributed

        if not distributed.is_initialized():
            distributed.init_process_group(
                "gloo",
                init_method="env://" if "MASTER_ADDR" in os.environ else f"tcp://{self.address}",
                rank=self.rank,
                world_size=self.size,
                timeout=_PATIENCE,
            )


@contextmanager
def _peers_may_end() -> Iterator[None]:
    """A process that ends early has said why: the others end without a traceback."""
    try:
        yield
    except RuntimeError as error:
        raise SystemExit(f"another process of this extraction ended early ({error})") from error


def _of_torchrun(environment: Mapping[str, str]) -> Group:
    rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    return Group(
        rank,
        size,
        int(environment.get("LOCAL_RANK", rank)),
        int(environment.get("LOCAL_WORLD_SIZE", size)),
    )


def _of_srun(environment: Mapping[str, str]) -> Group:
    size = int(environment["SLURM_STEP_NUM_TASKS"])
    nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_NODELIST", "127.0.0.1"))
    # A port that all processes know and other jobs of the machine do not take.
    port = 15000 + int(environment.get("SLURM_JOB_ID", "0")[-4:])
    return Group(
        int(environment["SLURM_PROCID"]),
        size,
        int(environment["SLURM_LOCALID"]),
        -(-size // int(environment.get("SLURM_STEP_NUM_NODES", "1"))),
        f"{_first_of(nodes)}:{port}",
    )


def _first_of(nodes: str) -> str:
    """The first machine of Slurm's list: gpu07 of `gpu[07-09,12],cpu1`."""
    name, bracket, numbers = nodes.split(",", maxsplit=1)[0].partition("[")
    return name + numbers.split("-")[0].rstrip("]") if bracket else name
