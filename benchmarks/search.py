"""Exact search beside faiss.IndexFlatIP called on the same arrays: time, and peak of memory.

Claims: Flat takes at most 1.05 times the time and the memory of IndexFlatIP on a gallery in
float32, and from a memory-mapped float16 store at most 1.3 times the time. ExactTorch stands beside
them. Each runs in a process of its own, in turns; the least of the rounds counts.

python benchmarks/search.py
python benchmarks/search.py --gallery 761757 --queries 1000 --dim 512 --k 100 --rounds 5
"""

import argparse
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
from landmark_descriptors import landmark_descriptors
from own_process import GIB, alone

from landmark.search import ExactTorch, Flat

_WARM = 2048


def arrays(folder, dtype, k):
    """The stored arrays, and faiss and its threads warmed up."""
    query = np.load(folder / "query.npy")
    gallery = np.load(folder / f"{dtype}.npy", mmap_mode="r")
    faiss.knn(query[:64], query[:_WARM], 1, metric=faiss.METRIC_INNER_PRODUCT)
    return query, gallery, k


def flat(query, gallery, k):
    return Flat(device="cpu").build(gallery).search(query, k)[1]


def with_torch(query, gallery, k):
    return ExactTorch(device="cpu").build(gallery).search(query, k)[1]


def index_flat(query, gallery, k):
    """The scores, and the seconds of the search without the adding."""
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(np.asarray(gallery, np.float32))
    began = time.perf_counter()
    scores, _ = index.search(query, k)
    return scores, time.perf_counter() - began


def compare(folder, dtype, k, rounds):
    runs = {work: [] for work in (flat, index_flat, with_torch)}
    for _ in range(rounds):
        for work, measured in runs.items():
            measured.append(alone(arrays, work, folder, dtype, k))
    theirs = min(one.seconds for one in runs[index_flat])
    search_alone = min(one.result[1] for one in runs[index_flat])
    their_peak = min(one.peak for one in runs[index_flat])
    print(f"gallery in {dtype} on disk, memory-mapped")
    print(f"  {'IndexFlatIP, add and search':<30}{theirs:8.2f} s   peak {their_peak / GIB:.2f} GiB")
    print(f"  {'IndexFlatIP, search alone':<30}{search_alone:8.2f} s")
    for name, work in (("Flat", flat), ("ExactTorch", with_torch)):
        seconds = min(one.seconds for one in runs[work])
        peak = min(one.peak for one in runs[work])
        same = np.allclose(runs[work][0].result, runs[index_flat][0].result[0], atol=1e-5)
        print(
            f"  {name:<30}{seconds:8.2f} s   peak {peak / GIB:.2f} GiB   "
            f"ratio {seconds / theirs:.2f} (to the search alone {seconds / search_alone:.2f}), "
            f"memory {peak / their_peak:.2f}   same scores: {same}",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gallery", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    photos, _ = landmark_descriptors(
        given.gallery + given.queries, max(1, given.gallery // 10), given.dim
    )
    print(
        f"{given.queries:,} queries, gallery {given.gallery:,} x {given.dim}, k={given.k}, "
        f"{faiss.omp_get_max_threads()} threads"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "query.npy", photos[: given.queries])
        np.save(folder / "float32.npy", photos[given.queries :])
        np.save(folder / "float16.npy", photos[given.queries :].astype(np.float16))
        del photos
        for dtype in ("float32", "float16"):
            compare(folder, dtype, given.k, given.rounds)


if __name__ == "__main__":
    main()
