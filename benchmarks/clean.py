"""Apply thresholds to ten million verified pairs, find their components, and write the report.

Claim: with the pairs of 1,000,000 photos of 50,000 landmarks in pairs.parquet, a rule, near-
duplicates, likely mislabels, landmarks of several places, the cleaned tables and the page take less
than 60 s together, and memory grows linearly with the pairs: half of them need about half of it.

The pairs are synthetic: of each landmark's photos, in rings of neighbours, with scores of the two
kinds of pairs as measured on photos; a tenth of the pairs is of different landmarks.

OMP_NUM_THREADS=1 python benchmarks/clean.py
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from _measure import measure

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.folder import write_json
from landmark.clean.candidates import Candidates
from landmark.clean.cleaning import Cleaning
from landmark.clean.output import META, PAIRS, PHOTOS, facts_table, new_meta
from landmark.clean.pairs import Pairs
from landmark.clean.result import Result
from landmark.clean.selection import Rule
from landmark.clean.train_photos import TrainPhotos
from landmark.clean.write import writing_files
from landmark.disk.lock import locked
from landmark.report.cleaning import write_cleaning_page
from landmark.report.photos import StorePhotos
from landmark.search import Flat

GLDV2_PHOTOS, CANDIDATES = 4_132_914, 100


def synthetic(folder: Path, count: int, photos: int, landmarks: int) -> Cleaning:
    """Write a store and the output folder of a cleaning with `count` pairs."""
    random = np.random.default_rng(0)
    labels = random.integers(0, landmarks, photos)
    vectors = random.standard_normal((photos, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"{number:016x}" for number in range(photos)]
    DescriptorStore.write(folder / "train", ids, vectors, [f"{label}" for label in labels])
    train = TrainPhotos.open(folder / "train")
    order = np.argsort(train.labels, kind="stable").astype(np.int32)
    first = random.integers(0, photos, count)
    step = random.integers(1, 10, count)
    step[: count // 10] = random.integers(photos // 3, photos // 2, count // 10)
    a, b = order[first], order[(first + step) % photos]
    same = train.labels[a] == train.labels[b]
    scores = np.where(same, random.exponential(20, count), random.exponential(3, count))
    pairs = Pairs(
        np.minimum(a, b),
        np.maximum(a, b),
        random.beta(5, 3, count).astype(np.float32),
        (3 + scores).astype(np.int32),
        scores.astype(np.float32),
    )
    shares = random.dirichlet([3, 1, 1], photos).astype(np.float32)
    rivals = random.integers(0, landmarks, photos).astype(np.int32) % len(train.names)
    found = Candidates(np.empty((0, 2), np.int32), shares[:, 0], rivals, shares[:, 1])
    output = folder / "cleaned"
    output.mkdir()
    pairs.write(output / PAIRS, train.store.ids, train.store.ids)
    facts = facts_table(train.store.rows, found, train.names)
    facts.to_parquet(output / PHOTOS, index=False)
    settings = {"geometry": True}
    write_json(output / META, new_meta(pairs=settings))
    return Cleaning(
        output, train, None, None, None, None, Flat("cpu"), 1, 1, 1, 1, 1, 1, settings, None
    )


def run(folder: Path, count: int, photos: int, landmarks: int) -> float:
    """Measure each step for one number of pairs; return the seconds of all."""
    print(f"\n{count:,} pairs of {photos:,} photos of {landmarks:,} landmarks")
    cleaning = synthetic(folder, count, photos, landmarks)
    (pairs, facts), read = measure(
        "read pairs.parquet and photos.parquet",
        lambda: cleaning.verified_pairs({"pairs": {"geometry": True}}, overwrite=False),
    )
    result, applied = measure(
        "thresholds, findings, components", lambda: Result.of(pairs, facts, Rule(), 0.95)
    )

    def write():
        with locked(cleaning.output), writing_files(cleaning, result) as output:
            store = StorePhotos(cleaning.train.store)
            write_cleaning_page(output / "report.html", cleaning, result, store)

    _, written = measure("cleaned tables and report.html", write)
    print(result.summary())
    total = read + applied + written
    print(f"in all {total:.1f} s", flush=True)
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--photos", type=int, default=1_000_000)
    parser.add_argument("--landmarks", type=int, default=50_000)
    parser.add_argument("--milliseconds", type=float, default=5.0, help="of one pair on one core")
    parser.add_argument("--cores", type=int, default=64)
    arguments = parser.parse_args()
    for share in (2, 1):
        with tempfile.TemporaryDirectory() as folder:
            run(
                Path(folder),
                arguments.pairs // share,
                arguments.photos // share,
                arguments.landmarks // share,
            )
    pairs = GLDV2_PHOTOS * CANDIDATES
    hours = pairs * arguments.milliseconds / 3.6e6
    print(
        f"\nGLDv2 on paper: {pairs / 1e6:.0f} M pairs at {arguments.milliseconds:g} ms are "
        f"{hours:,.0f} core hours, {hours / arguments.cores:.0f} h on {arguments.cores} cores; "
        f"features {GLDV2_PHOTOS * 136e3 / 1e9:,.0f} GB, "
        f"pairs.parquet about {pairs * 20 / 1e9:.0f} GB"
    )


if __name__ == "__main__":
    main()
