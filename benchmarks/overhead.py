"""Overhead of the framework: a training step and an extraction, and bare PyTorch loops.

python benchmarks/overhead.py
python benchmarks/overhead.py --photos PHOTOS --model resnet50 --steps 20 --rounds 5

Both sides of each comparison run in turns in this process with the same network and the same
batches. The medians over the rounds are compared.
"""

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from _recipe import first_photos, image_sizes, sgd
from torch.utils.data import DataLoader

from landmark.data import Folder, Toy
from landmark.data.batches import grouped_batches
from landmark.data.dataset import ScaledPhotoDataset
from landmark.extract.describe import describe
from landmark.extract.multiscale import MultiScale
from landmark.image import ImageFormat
from landmark.loss import ArcFace
from landmark.model.build import build_embedder
from landmark.pooling import GeM
from landmark.task import RetrievalTask
from landmark.task.schedule import cosine

CLASSES = 1000


class StepClock(pl.Callback):
    """Measure the seconds from the start of the first batch to the end of the last one."""

    def on_train_batch_start(self, trainer, task, batch, batch_idx) -> None:
        """Start at the first batch."""
        if batch_idx == 0:
            self.start = time.perf_counter()

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx) -> None:
        """Stop at the last batch."""
        self.seconds = time.perf_counter() - self.start


def bare_training(embedder, loss, batches) -> float:
    """Return the seconds of a hand-written training loop."""
    embedder.train()
    optimizer = sgd([*embedder.parameters(), *loss.parameters()])
    schedule = cosine(optimizer, len(batches))
    start = time.perf_counter()
    for images, labels, _rows in batches:
        value = loss(embedder(images), labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    return time.perf_counter() - start


def framework_training(embedder, loss, batches) -> float:
    """Return the seconds of the same steps with Trainer and RetrievalTask."""
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=1,
            default_root_dir=folder,
            logger=pl.loggers.CSVLogger(folder),
            callbacks=[clock],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=True,
        )
        loader = DataLoader(batches, batch_size=None)
        trainer.fit(RetrievalTask(embedder, loss, sgd, cosine), loader)
    return clock.seconds


@torch.inference_mode()
def bare_extraction(embedder, tensors) -> float:
    """Return the seconds of the forward passes over decoded photos."""
    embedder.eval()
    start = time.perf_counter()
    for scales in tensors:
        for images in scales:
            embedder(images)
    return time.perf_counter() - start


def framework_extraction(embedder, table, image_format, method, batch_size, workers) -> float:
    """Return the seconds from photo files to descriptors."""
    descriptors = np.empty((len(table), embedder.embedding_dim), np.float32)
    start = time.perf_counter()
    photos = ScaledPhotoDataset(table, image_format, method.scales)
    batches = grouped_batches(photos.groups, batch_size)
    for rows, batch in describe(embedder, photos, batches, method, workers=workers):
        descriptors[rows] = batch
    return time.perf_counter() - start


def report(name: str, bare: list[float], ours: list[float], count: int) -> None:
    """Print the milliseconds of each, the ratio of the medians and the range of the ratios."""
    bare_median, our_median = statistics.median(bare), statistics.median(ours)
    ratios = sorted(b / a for a, b in zip(bare, ours, strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{name:<12} bare {bare_median / count * 1e3:8.1f} ms  "
        f"ours {our_median / count * 1e3:8.1f} ms  ratio {our_median / bare_median:.3f} "
        f"({ratios[0]:.3f} to {ratios[-1]:.3f})  peak {peak:.2f} GiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--photos", type=Path, help="folder of landmarks; default: the toy world")
    parser.add_argument("--count", type=int, default=96, help="photos extracted")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    shape = (options.batch_size, 3, options.side, options.side)
    batches = [
        (
            torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
            torch.randint(0, CLASSES, shape[:1], generator=generator),
            torch.arange(options.batch_size),
        )
        for _ in range(options.steps)
    ]
    embedder = build_embedder(options.model, pooling=GeM())
    loss = ArcFace(embedder.embedding_dim, CLASSES)
    bare_training(embedder, loss, batches[:2])
    pairs = [
        (bare_training(embedder, loss, batches), framework_training(embedder, loss, batches))
        for _ in range(options.rounds)
    ]
    report("train step", *map(list, zip(*pairs, strict=True)), count=options.steps)

    table = first_photos(Folder(options.photos) if options.photos else Toy(), options.count)
    image_format, method = ImageFormat(image_sizes("ss2")), MultiScale()
    dataset = ScaledPhotoDataset(table, image_format, method.scales)
    groups = grouped_batches(dataset.groups, options.batch_size)
    tensors = [images for images, _ in DataLoader(dataset, batch_sampler=groups)]
    bare_extraction(embedder, tensors[:1])
    pairs = [
        (
            bare_extraction(embedder, tensors),
            framework_extraction(
                embedder, table, image_format, method, options.batch_size, options.workers
            ),
        )
        for _ in range(options.rounds)
    ]
    report("extraction", *map(list, zip(*pairs, strict=True)), count=len(table))


if __name__ == "__main__":
    main()
