"""Names of devices and precisions, the same for every command."""

import os
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from landmark.error import UserError

if TYPE_CHECKING:
    import torch

# auto: CUDA GPUs if available, else Apple's GPU (mps), else the CPU.
DEVICES = "auto, cpu, mps, cuda or cuda:N"
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description=DEVICES)]
# Of forward passes: float32, bfloat16 or float16.
Precision = Literal["32", "bf16", "16"]


def torch_device(name: str, local_rank: int = 0, local_world_size: int = 1) -> "torch.device":
    """Return the torch device of one process.

    Args:
        name: One of auto, cpu, mps, cuda or cuda:N. With auto or cuda a process uses the GPU of
            its local rank.
        local_rank: Rank of this process on this machine.
        local_world_size: Processes on this machine.

    Raises:
        UserError: This machine has no such device, or several processes would share one GPU.

    Example:
        >>> torch_device("cpu")
        device(type='cpu')
    """
    import torch

    gpus = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if gpus else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device={name} is unknown. Pass {DEVICES}.") from error
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"device={name} is not available on this machine. Pass device=cpu.")
    if device.type != "cuda":
        return device
    if not gpus:
        raise UserError(f"device={name}: this machine has no GPU. Pass device=cpu.")
    if device.index is None:
        return torch.device("cuda", local_rank % gpus)
    if local_world_size > 1:
        raise UserError(
            f"device={name} is one GPU for {local_world_size} processes. Pass device=cuda."
        )
    if device.index >= gpus:
        raise UserError(f"device={name} does not exist. There are {gpus} GPUs, from cuda:0.")
    return device


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def has_bf16_products() -> bool:
    """Return whether this CPU multiplies bfloat16 matrices in hardware: AMX or AVX-512 BF16.

    Elsewhere PyTorch's bfloat16 products are correct, but slower than those of float32.

    Example:
        >>> isinstance(has_bf16_products(), bool)
        True
    """
    import torch

    # PyTorch reaches these instructions through oneDNN. `torch.cpu.get_capabilities` is public,
    # but torch 2.6 does not have it.
    return torch.backends.mkldnn.is_available() and bool(
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    )
