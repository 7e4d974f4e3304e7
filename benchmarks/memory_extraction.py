"""Memory of an extraction over a table of many photos: does it grow with the photos?

The table names the same few photos again and again; the network is one layer, so that the loop
itself is measured: table, batches, decoding, vectors and marks on the disk. What counts is the
memory that belongs to the process alone (RssAnon): the vectors are memory-mapped, and the kernel
may drop their pages at any time.

python benchmarks/memory_extraction.py
python benchmarks/memory_extraction.py --photos 10000 100000 1000000 --dim 512 --workers 2
"""

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from landmark.data import ImageTable
from landmark.extract.extraction import Extraction
from landmark.extract.multiscale import MultiScale
from landmark.extract.plan import Plan
from landmark.extract.store import write_store
from landmark.image import ImageFormat

SIDE = 16


class OneLayer(torch.nn.Module):
    """The cheapest embedder: the mean colour of a photo, projected."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.embedding_dim = dim
        self.linear = torch.nn.Linear(3, dim)

    def forward(self, images):
        """(B, 3, h, w) → (B, dim)."""
        return self.linear(images.float().mean((2, 3)))


def memory() -> float:
    """MiB of this process that are no file's pages."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def write_photos(root: Path, count: int = 16) -> list[str]:
    random = np.random.default_rng(0)
    names = [f"{number}.jpg" for number in range(count)]
    for name in names:
        pixels = random.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    return names


def measure(root: Path, photos: int, options) -> None:
    """Prints what one extraction takes; runs in a process of its own."""
    names = write_photos(root)
    random = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "id": pd.Series([f"{number:016x}" for number in range(photos)], dtype="str"),
            "path": pd.Series(np.resize(names, photos), dtype="str"),
            "width": SIDE,
            "height": random.integers(SIDE // 2, SIDE * 2, photos),
        }
    )
    start = memory()
    table = ImageTable(root, rows)
    sizes = [[24, 16], [20, 16], [16, 16], [16, 20], [16, 24]]
    extraction = Extraction(
        root,
        table,
        ImageFormat(sizes),
        MultiScale((1.0,)),
        batch_size=32,
        workers=options.workers,
        device="cpu",
        save_every=5.0,
    )
    plan = Plan(extraction, OneLayer(options.dim), root / "s", "float32", {"table": table.digest})
    before, samples, reports = memory(), [], 0
    run = Extraction.run

    def sampled(self, work, batches, report, **more):
        def reported(count):
            nonlocal reports
            reports += 1
            if reports % max(1, photos // 32 // 20) == 0:
                samples.append(memory())
            report(count)

        run(self, work, batches, reported, **more)

    Extraction.run = sampled
    began = time.perf_counter()
    write_store(plan)
    seconds = time.perf_counter() - began
    table_size = rows.memory_usage(deep=True).sum() / 2**20
    output = sum(path.stat().st_size for path in (root / "s").iterdir()) / 2**20
    first, last = samples[len(samples) // 10], samples[-1]
    print(
        f"{photos:>9,} photos: table {table_size:.1f} MiB (process {start:.0f} to {before:.0f}), "
        f"output {output:8.1f} MiB, {seconds:6.1f} s; memory beside the files: "
        f"{first:6.0f} MiB at a tenth, {last:6.0f} at the end ({last - first:+.1f}), "
        f"highest {max(samples):6.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    for photos in options.photos:
        with tempfile.TemporaryDirectory() as folder:
            process = multiprocessing.get_context("spawn").Process(
                target=measure, args=(Path(folder), photos, options)
            )
            process.start()
            process.join()
            assert process.exitcode == 0


if __name__ == "__main__":
    main()
