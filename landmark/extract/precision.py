"""Choose the precision of an extraction: measure float32 and bfloat16 on its first photos."""

import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import default_collate

from landmark.artifact.descriptors import META, DescriptorStore
from landmark.artifact.partial_store import recorded_settings
from landmark.data.dataset import ScaledPhotoDataset
from landmark.device import MIN_SPEEDUP, Precision, multiplies_bf16, seconds_of, torch_device
from landmark.disk.lock import staging_folder
from landmark.extract.describe import Describer
from landmark.extract.extraction import Extraction
from landmark.model.embedder import Embedder

# Lowest cosine between a photo's descriptors in float32 and bfloat16.
MIN_COSINE = 0.9995
_BATCHES, _PHOTOS = 4, 4


@dataclass(frozen=True)
class Choice:
    """A precision, and the line that says why."""

    precision: Precision
    line: str


def recorded_precision(output: Path, overwrite: bool) -> Choice | None:
    """Return the precision of the store or of the stopped extraction at `output`; None without one.

    A store is resumed and extended in the precision in which it was begun.
    """
    if overwrite:
        return None
    if (output / META).is_file():
        recorded: Any = DescriptorStore.open(output).meta
    else:
        recorded = recorded_settings(staging_folder(output)) or {}
    precision = recorded.get("precision")
    if precision is None:
        return None
    return Choice(precision, f"precision=auto: {precision}, as {output} was begun.")


def measured_precision(extraction: Extraction, embedder: Embedder) -> Choice:
    """Choose bfloat16 if it is faster on the first photos and their descriptors agree.

    Only forward passes are timed: decoding takes the same time in both precisions.

    Raises:
        UserError: A photo cannot be read.
    """
    device = torch_device(extraction.device)
    if not multiplies_bf16(device):
        why = f"since this {device.type} has no bfloat16 products"
        return Choice("32", f"precision=auto: 32, {why}.")
    photos = ScaledPhotoDataset(extraction.table, extraction.image_format, extraction.method.scales)
    names: tuple[Precision, Precision] = ("32", "bf16")
    networks = [Describer(embedder, extraction.method, device, name) for name in names]
    ratios, seconds, cosines = [], np.zeros(2), [1.0]
    for number, rows in enumerate(extraction.batches()[:_BATCHES]):
        images, read = default_collate([photos[row] for row in rows[:_PHOTOS].tolist()])
        if not number:
            _describe(networks, images, device)  # kernels are compiled in the first pass
        descriptors, times = _describe(networks, images, device)
        ratios.append(times[0] / times[1])
        seconds += times / len(read) / min(_BATCHES, len(extraction.batches()))
        if extraction.whitening is not None:
            descriptors = [extraction.whitening(each) for each in descriptors]
        is_read = read.numpy() >= 0
        cosines += (descriptors[0] * descriptors[1]).sum(axis=1)[is_read].tolist()
    speedup, cosine = statistics.median(ratios), float(np.min(cosines))  # NaN stays NaN
    precision = names[bool(speedup >= MIN_SPEEDUP and cosine >= MIN_COSINE)]
    return Choice(
        precision,
        f"precision=auto: {precision}. bf16 takes {seconds[1] * 1e3:.3g} ms a photo and float32 "
        f"{seconds[0] * 1e3:.3g} ms ({speedup:.2f} x, at least {MIN_SPEEDUP} x is needed); lowest "
        f"cosine {cosine:.5f} in {len(cosines) - 1} photos (at least {MIN_COSINE} is needed). Pass "
        f"precision={precision} to skip the measurement.",
    )


@torch.inference_mode()
def _describe(
    networks: list[Describer], images: list[torch.Tensor], device: torch.device
) -> tuple[list[NDArray[np.floating]], NDArray[np.float64]]:
    """Return the descriptors (B, D) and the seconds of each network."""
    descriptors: list[NDArray[np.floating]] = []

    def describe(network: Describer) -> None:
        descriptors.append(network(images).cpu().numpy())

    times = [seconds_of(partial(describe, network), device) for network in networks]
    return descriptors, np.array(times)
