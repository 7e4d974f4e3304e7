"""What the framework adds: a training step and an extraction beside bare PyTorch loops.

python benchmarks/overhead.py
python benchmarks/overhead.py --photos PHOTOS --model resnet50 --steps 20 --rounds 5

Both sides of each comparison run in turns in this process, with the same network and the same
batches. The median over the rounds is compared.
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

SS2 = [[480, 320], [480, 352], [384, 384], [352, 480], [320, 480]]
CLASSES = 1000


class StepClock(pl.Callback):
    """Seconds from the first batch's start to the last batch's end."""

    def on_train_batch_start(self, trainer, task, batch, batch_idx) -> None:
        """Starts at the first batch."""
        if batch_idx == 0:
            self.began = time.perf_counter()

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx) -> None:
        """Stops at the last."""
        self.seconds = time.perf_counter() - self.began


def sgd(groups):
    return torch.optim.SGD(groups, lr=1e-3, momentum=0.9, weight_decay=1e-5)


def bare_training(embedder, loss, batches) -> float:
    """Seconds of the loop that one would write by hand."""
    embedder.train()
    optimizer = sgd([*embedder.parameters(), *loss.parameters()])
    schedule = cosine(optimizer, len(batches))
    began = time.perf_counter()
    for images, labels, _rows in batches:
        value = loss(embedder(images), labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    return time.perf_counter() - began


def framework_training(embedder, loss, batches) -> float:
    """Seconds of the same steps by Trainer and RetrievalTask."""
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
    """Seconds of the forward passes alone, photos already decoded."""
    embedder.eval()
    began = time.perf_counter()
    for scales in tensors:
        for images in scales:
            embedder(images)
    return time.perf_counter() - began


def framework_extraction(embedder, table, image_format, method, batch_size, workers) -> float:
    """Seconds from photo files to descriptors."""
    into = np.empty((len(table), embedder.embedding_dim), np.float32)
    began = time.perf_counter()
    photos = ScaledPhotoDataset(table, image_format, method.scales)
    batches = grouped_batches(photos.groups, batch_size)
    for rows, descriptors in describe(embedder, photos, batches, method, workers=workers):
        into[rows] = descriptors
    return time.perf_counter() - began


def report(name: str, bare: list[float], ours: list[float], unit: int) -> None:
    """One line: milliseconds of each, the ratio of the medians, the spread of the ratios."""
    first, second = statistics.median(bare), statistics.median(ours)
    pairs = sorted(b / a for a, b in zip(bare, ours, strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{name:<12} bare {first / unit * 1e3:8.1f} ms  ours {second / unit * 1e3:8.1f} ms  "
        f"ratio {second / first:.3f} ({pairs[0]:.3f} to {pairs[-1]:.3f})  peak {peak:.2f} GiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--photos", type=Path, help="folder of landmarks; none: the toy world")
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
    report("train step", *map(list, zip(*pairs, strict=True)), unit=options.steps)

    source = Folder(options.photos) if options.photos else Toy()
    table = source.read(None).with_sizes()
    table = type(table)(table.root, table.rows.iloc[: options.count].reset_index(drop=True))
    image_format, method = ImageFormat(SS2), MultiScale()
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
    report("extraction", *map(list, zip(*pairs, strict=True)), unit=len(table))


if __name__ == "__main__":
    main()
