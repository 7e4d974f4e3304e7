"""Exact search, and faiss.IndexFlatIP on the same arrays: time and peak memory.

Claims: Flat takes at most 1.05 times the time and the memory of IndexFlatIP on a float32 gallery,
and at most 1.3 times the time on a memory-mapped float16 store. ExactTorch is listed for
comparison. Each runs in a new process, in turns; the fastest round counts.

python benchmarks/search.py
python benchmarks/search.py --gallery 761757 --queries 1000 --dim 512 --k 100 --rounds 5
"""

import argparse
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
from _descriptors import landmark_descriptors
from _process import GIB, measure_in_new_process

from landmark.search import ExactTorch, Flat


def prepare(folder, dtype, k):
    """Warm up faiss and its threads; return queries, gallery and k."""
    query = np.load(folder / "query.npy")
    gallery = np.load(folder / f"{dtype}.npy", mmap_mode="r")
    faiss.knn(query[:64], query[:2048], 1, metric=faiss.METRIC_INNER_PRODUCT)
    return query, gallery, k


def flat(query, gallery, k):
    return Flat(device="cpu").build(gallery).search(query, k)[1]


def exact_torch(query, gallery, k):
    return ExactTorch(device="cpu").build(gallery).search(query, k)[1]


def index_flat(query, gallery, k):
    """Return the scores, and the seconds of the search without adding the gallery."""
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(np.asarray(gallery, np.float32))
    start = time.perf_counter()
    scores, _ = index.search(query, k)
    return scores, time.perf_counter() - start


def compare(folder, dtype, k, rounds):
    runs = {work: [] for work in (flat, index_flat, exact_torch)}
    for _ in range(rounds):
        for work, measurements in runs.items():
            measurements.append(measure_in_new_process(prepare, work, folder, dtype, k))
    faiss_seconds = min(run.seconds for run in runs[index_flat])
    faiss_search = min(run.result[1] for run in runs[index_flat])
    faiss_peak = min(run.peak for run in runs[index_flat])
    print(f"gallery in {dtype} on disk, memory-mapped")
    print(
        f"  {'IndexFlatIP, add and search':<30}{faiss_seconds:8.2f} s   "
        f"peak {faiss_peak / GIB:.2f} GiB"
    )
    print(f"  {'IndexFlatIP, search only':<30}{faiss_search:8.2f} s")
    for name, work in (("Flat", flat), ("ExactTorch", exact_torch)):
        seconds = min(run.seconds for run in runs[work])
        peak = min(run.peak for run in runs[work])
        same = np.allclose(runs[work][0].result, runs[index_flat][0].result[0], atol=1e-5)
        print(
            f"  {name:<30}{seconds:8.2f} s   peak {peak / GIB:.2f} GiB   "
            f"ratio {seconds / faiss_seconds:.2f} (to the search only "
            f"{seconds / faiss_search:.2f}), memory {peak / faiss_peak:.2f}   same scores: {same}",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gallery", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    photos, _ = landmark_descriptors(
        arguments.gallery + arguments.queries, max(1, arguments.gallery // 10), arguments.dim
    )
    print(
        f"{arguments.queries:,} queries, gallery {arguments.gallery:,} x {arguments.dim}, "
        f"k={arguments.k}, {faiss.omp_get_max_threads()} threads"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "query.npy", photos[: arguments.queries])
        np.save(folder / "float32.npy", photos[arguments.queries :])
        np.save(folder / "float16.npy", photos[arguments.queries :].astype(np.float16))
        del photos
        for dtype in ("float32", "float16"):
            compare(folder, dtype, arguments.k, arguments.rounds)


if __name__ == "__main__":
    main()
