"""Describes every photo of a table with an embedder, in the table's order."""

from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from tqdm import tqdm

from landmark.data.batches import default_workers, grouped_batches
from landmark.data.dataset import ScaledPhotoDataset
from landmark.data.image_table import ImageTable
from landmark.extract.multiscale import MultiScale
from landmark.image.format import ImageFormat
from landmark.mistake import UserMistake
from landmark.model.embedder import Embedder

PRECISIONS = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}


def choose_device(name: str) -> torch.device:
    """`auto` takes the first GPU where there is one.

    Raises:
        UserMistake: a device that this machine lacks or that PyTorch does not know.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserMistake(f"device={name}: choose auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserMistake(f"device={name}: no GPU here; choose device=cpu")
    return device


@torch.inference_mode()
def describe(
    embedder: Embedder,
    table: ImageTable,
    image_format: ImageFormat,
    method: MultiScale,
    into: NDArray[np.floating],
    *,
    batch_size: int = 32,
    workers: int | None = None,
    device: str = "auto",
    precision: str = "32",
) -> None:
    """Writes the unit-length descriptor of each row of `table` to the same row of `into`.

    Photos are read once each, in batches of one aspect group, and described at every scale.
    Memory beside `into` is that of the batches in flight; it does not grow with the table.

    Args:
        embedder: images → embeddings.
        table: N photos with their sizes.
        image_format: sizes of the aspect groups.
        method: scales and flip.
        into: (N, D) float16 or float32, may be memory-mapped.
        batch_size: photos at once.
        workers: processes that decode; 0 decodes in this one, None takes one a core, at most 8.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `32`, `bf16` or `16`: the precision of the forward passes.

    Raises:
        UserMistake: an unknown precision or device, or a photo that cannot be read.
    """
    if str(precision) not in PRECISIONS:
        raise UserMistake(f"precision={precision}: choose one of {', '.join(PRECISIONS)}")
    dtype = PRECISIONS[str(precision)]
    place = choose_device(device)
    groups = image_format.groups(table.rows["width"].to_numpy(), table.rows["height"].to_numpy())
    loader = DataLoader(
        ScaledPhotoDataset(table, image_format, method.scales),
        batch_sampler=grouped_batches(groups, batch_size),  # type: ignore[arg-type]
        num_workers=default_workers() if workers is None else workers,
        pin_memory=place.type == "cuda",
    )
    embedder = embedder.to(place).eval()
    progress = tqdm(total=len(table), desc="describe", unit="photo", disable=None)
    for images, rows in loader:
        moved = [scaled.to(place, non_blocking=True) for scaled in images]
        with torch.autocast(place.type, dtype=dtype) if dtype else nullcontext():
            descriptors = method(embedder, moved)
        into[rows.numpy()] = descriptors.cpu().numpy()
        progress.update(len(rows))
    progress.close()
