"""What the processes of a training run tell one another about a batch."""

from typing import Any

import torch
import torch.distributed
from torch import Tensor


def of_all_processes(values: Tensor) -> Tensor:
    """The values (B, …) of all processes, (processes · B, …) by rank; alone: the values.

    No gradient flows back. Every process must bring a tensor of the same shape, as the batch
    samplers see to.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    gathered = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(gathered, values.contiguous())
    return torch.cat(gathered)


def joined_batch(embeddings: Tensor) -> Tensor:
    """The embeddings (B, D) of all processes as one batch (processes · B, D), alone: unchanged.

    The rows of the processes take turns, as they do in the batch that the processes share. Each
    process computes the same loss of the whole batch; gradients flow to its own rows, times the
    number of processes: the mean over the processes, which DistributedDataParallel takes, is then
    the gradient of that one loss. Nothing is sent on the way back.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return embeddings
    return _Joined.apply(embeddings)


def joined_labels(labels: Tensor) -> Tensor:
    """The labels (B,) of the rows of `joined_batch`, (processes · B,)."""
    return of_all_processes(labels).view(-1, len(labels)).T.reshape(-1)


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:  # noqa: ANN401
        ctx.processes = torch.distributed.get_world_size()
        everyone = of_all_processes(own).view(ctx.processes, *own.shape)
        return everyone.transpose(0, 1).reshape(-1, own.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        rank = torch.distributed.get_rank()
        return gradient[rank :: ctx.processes] * ctx.processes
