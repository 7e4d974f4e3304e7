"""Describes photos with an embedder, a batch at a time."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from landmark.error import UserError
from landmark.extract.multiscale import MultiScale
from landmark.model.embedder import Embedder

PRECISIONS = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}
Described = tuple[NDArray[np.int64], NDArray[np.float32]]


def choose_device(name: str, number: int = 0, of: int = 1) -> torch.device:
    """The device of one process among those of this machine.

    Args:
        name: `auto` (the GPUs where there are any), `cpu`, `cuda` or `cuda:N`.
        number: of the process: with `auto` and `cuda` it takes the GPU of its number.
        of: number of processes.

    Raises:
        UserError: a device that this machine lacks or that PyTorch does not know, or one GPU
            for several processes.
    """
    gpus = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if gpus else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device={name}: choose auto, cpu, cuda or cuda:N") from error
    if device.type != "cuda":
        return device
    if not gpus:
        raise UserError(f"device={name}: no GPU here; choose device=cpu")
    if device.index is None:
        return torch.device("cuda", number % gpus)
    if of > 1:
        raise UserError(f"device={name}: one GPU for {of} processes; choose device=cuda")
    if device.index >= gpus:
        raise UserError(f"device={name}: there are {gpus} GPUs here, counted from 0")
    return device


@torch.inference_mode()
def describe(
    embedder: Embedder,
    photos: Dataset,
    batches: Sequence[NDArray[np.int64]],
    method: MultiScale,
    *,
    workers: int = 0,
    device: torch.device | None = None,
    precision: str = "32",
) -> Iterator[Described]:
    """Gives the descriptors of batch after batch: rows (B,) and unit-length vectors (B, D).

    Photos are read once each and described at every scale. Memory is that of the batches in
    flight; it does not grow with their number.

    Args:
        embedder: images → embeddings.
        photos: row → (one image a scale, row); a row given as -row - 1 says that its photo could
            not be read, and passes through to the caller.
        batches: rows of photos whose images can be stacked.
        method: scales and flip.
        workers: processes that decode; 0 decodes in this one.
        device: none: the CPU.
        precision: `32`, `bf16` or `16`: the precision of the forward passes.

    Raises:
        UserError: an unknown precision, or a photo that cannot be read.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision={precision}: choose one of {', '.join(PRECISIONS)}")
    dtype, place = PRECISIONS[precision], device or torch.device("cpu")
    loader = DataLoader(
        photos,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=workers,
        pin_memory=place.type == "cuda",
    )
    embedder = embedder.to(place).eval()
    for images, rows in loader:
        moved = [scaled.to(place, non_blocking=True) for scaled in images]
        with torch.autocast(place.type, dtype=dtype) if dtype else nullcontext():
            descriptors = method(embedder, moved)
        yield rows.numpy(), descriptors.cpu().numpy()
