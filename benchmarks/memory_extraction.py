"""Memory of an extraction, which must not grow with the number of photos.

The table lists the same few photos again and again, and the network is one layer: what is measured
is the loop, that is table, batches, decoding, and the vectors and marks on disk. What counts is the
anonymous memory of the process (RssAnon), because the vectors are memory-mapped and the kernel may
drop their pages at any time.

python benchmarks/memory_extraction.py
python benchmarks/memory_extraction.py --photos 10000 100000 1000000 --dim 512 --workers 2
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _process import MIB, own_memory, run_in_new_process
from PIL import Image

from landmark.data import ImageTable
from landmark.extract.extraction import Extraction
from landmark.extract.multiscale import MultiScale
from landmark.extract.plan import Plan
from landmark.extract.store import write_store
from landmark.image import ImageFormat

SIDE, BATCH_SIZE = 16, 32


class OneLayer(torch.nn.Module):
    """The cheapest embedder: a linear projection of a photo's mean colour."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.embedding_dim = dim
        self.linear = torch.nn.Linear(3, dim)

    def forward(self, images):
        """(B, 3, h, w) → (B, dim)."""
        return self.linear(images.float().mean((2, 3)))


def anonymous_mib() -> float:
    return own_memory("RssAnon") / MIB


def write_photos(root: Path, count: int = 16) -> list[str]:
    random = np.random.default_rng(0)
    names = [f"{number}.jpg" for number in range(count)]
    for name in names:
        pixels = random.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    return names


def make_rows(root: Path, photos: int) -> pd.DataFrame:
    names = write_photos(root)
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "id": pd.Series([f"{number:016x}" for number in range(photos)], dtype="str"),
            "path": pd.Series(np.resize(names, photos), dtype="str"),
            "width": SIDE,
            "height": random.integers(SIDE // 2, SIDE * 2, photos),
        }
    )


def sample_memory(every: int) -> list[float]:
    """Return a list to which each extraction appends its memory in MiB after `every` batches."""
    samples, batches_done = [], 0
    run = Extraction.run

    def run_sampled(self, work, batches, report, **options):
        def report_sampled(count):
            nonlocal batches_done
            batches_done += 1
            if batches_done % every == 0:
                samples.append(anonymous_mib())
            report(count)

        run(self, work, batches, report_sampled, **options)

    Extraction.run = run_sampled
    return samples


def measure(root: Path, photos: int, options: argparse.Namespace) -> None:
    """Run one extraction and print its memory."""
    rows = make_rows(root, photos)
    start = anonymous_mib()
    table = ImageTable(root, rows)
    extraction = Extraction(
        root,
        table,
        ImageFormat([[24, 16], [20, 16], [16, 16], [16, 20], [16, 24]]),
        MultiScale((1.0,)),
        batch_size=BATCH_SIZE,
        workers=options.workers,
        device="cpu",
        save_every=5.0,
    )
    plan = Plan(extraction, OneLayer(options.dim), root / "s", "float32", {"table": table.digest})
    before = anonymous_mib()
    samples = sample_memory(every=max(1, photos // BATCH_SIZE // 20))
    began = time.perf_counter()
    write_store(plan)
    seconds = time.perf_counter() - began
    table_size = rows.memory_usage(deep=True).sum() / MIB
    output = sum(path.stat().st_size for path in (root / "s").iterdir()) / MIB
    first, last = samples[len(samples) // 10], samples[-1]
    print(
        f"{photos:>9,} photos: table {table_size:.1f} MiB (process {start:.0f} to {before:.0f}), "
        f"output {output:8.1f} MiB, {seconds:6.1f} s; memory without files: "
        f"{first:6.0f} MiB at a tenth, {last:6.0f} at the end ({last - first:+.1f}), "
        f"peak {max(samples):6.0f}",
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
            run_in_new_process(measure, Path(folder), photos, options)


if __name__ == "__main__":
    main()
