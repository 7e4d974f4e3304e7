"""Memory of training and validation, which must grow neither with the steps nor with the photos.

python benchmarks/memory.py
python benchmarks/memory.py --steps 10000 --rows 1000 1000000 --workers 2

For each table size, a new process trains a tiny network for some steps and validates after every
tenth of them. Prints the memory of all processes of the run (proportional set size: shared pages
count once) after a fifth of the steps, when all workers have started, and at the end; and the cost
of a row of the larger table, next to the size of its columns.
"""

import argparse
import multiprocessing
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from _process import MIB, run_in_new_process, tree_memory
from PIL import Image

from landmark.data import LandmarkData, Table
from landmark.image import ImageFormat
from landmark.loss import ArcFace
from landmark.model.build import build_embedder
from landmark.pooling import GeM
from landmark.sampler import Aspect
from landmark.task import RetrievalTask
from landmark.task.schedule import cosine

PHOTOS, LANDMARKS, VALIDATION = 32, 200, 400


def make_table(folder: Path, rows: int) -> Path:
    """Write an image table of `rows` rows that share a few photo files."""
    random = np.random.default_rng(0)
    for number in range(PHOTOS):
        pixels = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    split = np.full(rows + 2 * VALIDATION, "train", object)
    split[:VALIDATION], split[VALIDATION : 2 * VALIDATION] = "query", "gallery"
    numbers = np.arange(len(split))
    table = pd.DataFrame(
        {
            "id": [f"{number:016x}" for number in numbers],
            "path": [f"{number % PHOTOS}.jpg" for number in numbers],
            "landmark_id": (numbers % LANDMARKS).astype(str),
            "width": 48,
            "height": 40,
            "split": split,
        }
    )
    table.to_parquet(folder / "table.parquet", index=False)
    return folder / "table.parquet"


class MemoryLog(pl.Callback):
    """Record (step, bytes) ten times."""

    def __init__(self, steps: int) -> None:
        self.interval = steps // 10
        self.samples: list[tuple[int, int]] = []

    def on_train_batch_end(self, trainer, *_) -> None:
        """Record the memory of all processes at every tenth of the steps."""
        if trainer.global_step % self.interval == 0:
            self.samples.append((trainer.global_step, tree_memory()))


def train(rows: int, steps: int, workers: int) -> tuple[list[tuple[int, int]], int]:
    """Train and return [(step, bytes), …] and the bytes of the table's columns."""
    multiprocessing.set_start_method("fork", force=True)  # otherwise the workers are spawned too
    torch.set_num_threads(1)
    log = MemoryLog(steps)
    with tempfile.TemporaryDirectory() as folder:
        table = make_table(Path(folder), rows)
        data = LandmarkData(
            Table(folder, table.name),
            ImageFormat([[32, 32]]),
            Aspect,
            batch_size=4,
            workers=workers,
        )
        embedder = build_embedder("test_resnet", pooling=GeM(), embedding_dim=16)
        task = RetrievalTask(
            embedder, ArcFace(16, LANDMARKS), lambda p: torch.optim.SGD(p, lr=1e-3), cosine
        )
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=steps,
            val_check_interval=steps // 10,
            check_val_every_n_epoch=None,
            logger=pl.loggers.CSVLogger(folder),
            callbacks=[log],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(task, datamodule=data)
        size = data.train_table.rows.memory_usage(deep=True).sum()
    return log.samples, int(size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--rows", type=int, nargs=2, default=[1_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    results = []
    for rows in options.rows:
        samples, size = run_in_new_process(train, rows, options.steps, options.workers)
        (first, early), (last, late) = samples[1], samples[-1]
        print(
            f"{rows:>9,} rows: {early / MIB:,.1f} MiB after {first:,} steps, {late / MIB:,.1f} MiB "
            f"after {last:,}: {(late - early) / 1024 / (last - first):+.3f} KiB per step"
        )
        results.append((rows, late, size))
    (few, small, small_size), (many, large, large_size) = results
    print(
        f"a row costs {(large - small) / (many - few):.0f} bytes in all processes; its columns "
        f"take {(large_size - small_size) / (many - few):.0f} bytes in pandas"
    )


if __name__ == "__main__":
    main()
