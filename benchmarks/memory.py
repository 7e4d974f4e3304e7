"""Memory of training and validation: it grows with neither steps nor, beyond the table, photos.

python benchmarks/memory.py
python benchmarks/memory.py --steps 10000 --rows 1000 1000000 --workers 2

For each table size a run of its own trains a tiny network for so many steps and validates every
tenth of them. Printed are the resident bytes of all its processes, in which pages that the workers
share with their parent count once (proportional set size), after a fifth of the steps, when every
worker is there, and at the end; and what the larger table costs beside the smaller one, next to the
size of its columns.
"""

import argparse
import multiprocessing
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

PHOTOS, LANDMARKS, VALIDATION = 32, 200, 400


def resident() -> float:
    """MB of this process and its children."""
    processes, waiting = [], [os.getpid()]
    while waiting:
        process = waiting.pop()
        processes.append(process)
        for thread in Path(f"/proc/{process}/task").iterdir():
            waiting += map(int, (thread / "children").read_text().split())
    total = 0
    for process in processes:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def make_table(folder: Path, rows: int) -> Path:
    """An image table of `rows` rows whose photos are a few files under many names."""
    from PIL import Image

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


def train(rows: int, steps: int, workers: int, answers: multiprocessing.SimpleQueue) -> None:
    """Trains and puts [(step, MB), …] and the bytes of the table's columns."""
    import pytorch_lightning as pl
    import torch

    from landmark.data import LandmarkData, Table
    from landmark.image import ImageFormat
    from landmark.loss import ArcFace
    from landmark.model.build import build_embedder
    from landmark.pooling import GeM
    from landmark.sampler import Aspect
    from landmark.task import RetrievalTask
    from landmark.task.schedule import cosine

    measured: list[tuple[int, float]] = []

    class Watch(pl.Callback):
        """Notes the memory ten times."""

        def on_train_batch_end(self, trainer, *_) -> None:
            if trainer.global_step % (steps // 10) == 0:
                measured.append((trainer.global_step, resident()))

    multiprocessing.set_start_method("fork", force=True)  # else the workers inherit spawn
    torch.set_num_threads(1)
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
            callbacks=[Watch()],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(task, datamodule=data)
        size = data.train_table.rows.memory_usage(deep=True).sum()
    answers.put((measured, int(size)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--rows", type=int, nargs=2, default=[1_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ends = []
    for rows in options.rows:
        answers = context.SimpleQueue()
        process = context.Process(
            target=train, args=(rows, options.steps, options.workers, answers)
        )
        process.start()
        measured, size = answers.get()
        process.join()
        (first, early), (last, late) = measured[1], measured[-1]
        print(
            f"{rows:>9,} rows: {early:,.1f} MB after {first:,} steps, {late:,.1f} MB after "
            f"{last:,}: {(late - early) * 1024 / (last - first):+.3f} kB a step"
        )
        ends.append((rows, late, size))
    (few, small, small_size), (many, large, large_size) = ends
    print(
        f"a row costs {(large - small) * 2**20 / (many - few):.0f} bytes in all processes; its "
        f"columns have {(large_size - small_size) / (many - few):.0f} bytes in pandas"
    )


if __name__ == "__main__":
    main()
