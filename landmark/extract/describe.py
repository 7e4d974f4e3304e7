"""Compute the descriptors of photos with an embedder, batch by batch."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from landmark.data.batches import START_METHOD
from landmark.device import Precision
from landmark.extract.multiscale import MultiScale
from landmark.model.embedder import Embedder
from landmark.settings import check_value

_DTYPES = {"bf16": torch.bfloat16, "16": torch.float16}


@torch.inference_mode()
def describe(
    embedder: Embedder,
    photos: Dataset,
    batches: Sequence[NDArray[np.int64]],
    method: MultiScale,
    *,
    workers: int = 0,
    device: torch.device | None = None,
    precision: Precision = "32",
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield rows (B,) and unit-length descriptors (B, D), batch by batch.

    Each photo is read once and described at every scale. Memory is bounded by the batches in
    flight.

    Args:
        embedder: Images → embeddings.
        photos: Row → (one image per scale, row). An unreadable photo has the row -row - 1, which is
            yielded unchanged.
        batches: Batches of rows whose images have the same size.
        method: Scales and flip.
        workers: Number of decoding processes. 0 decodes in this process.
        device: Torch device. Defaults to the CPU.
        precision: Precision of the forward passes.

    Raises:
        UserError: A photo cannot be read.
    """
    check_value("precision", precision, Precision)
    dtype, device = _DTYPES.get(precision), device or torch.device("cpu")
    loader = DataLoader(
        photos,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=workers,
        multiprocessing_context=START_METHOD if workers > 0 else None,
        pin_memory=device.type == "cuda",
    )
    embedder = embedder.to(device).eval()
    for images, rows in loader:
        on_device = [scaled.to(device, non_blocking=True) for scaled in images]
        with torch.autocast(device.type, dtype=dtype) if dtype else nullcontext():
            descriptors = method(embedder, on_device)
        yield rows.numpy(), descriptors.cpu().numpy()
