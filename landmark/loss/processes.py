"""What the processes of a training run tell one another about a batch."""

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
