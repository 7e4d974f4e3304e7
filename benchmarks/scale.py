"""How each search grows with gallery and queries: seconds, memory, recall.

Galleries lie on the disk in float16, memory-mapped, as descriptor stores do. Each search of each
gallery has a process of its own: it builds the index, searches for the queries, and its ranking is
held against the exact one. Printed last are the slopes: the power of N that the seconds and the
memory grow with from one size to the next.

python benchmarks/scale.py
python benchmarks/scale.py --gallery 10000 100000 1000000 --queries 1000 10000 --searches flat ivf
"""

import argparse
import math
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import faiss
import numpy as np
from landmark_descriptors import landmark_descriptors
from own_process import alone

from landmark.rerank.memory import PeakMemory
from landmark.search import HNSW, IVF, IVFPQ, ExactTorch, Flat
from landmark.search.top_k import recall_at_k

SEARCHES = {
    "flat": Flat,
    "exact_torch": ExactTorch,
    "ivf": lambda: IVF(n_probe=64),
    "ivf sq8": lambda: IVF(n_probe=64, storage="sq8", refine=2),
    "ivfpq": lambda: IVFPQ(n_probe=64),
    "hnsw": HNSW,
}
GIB = 2**30


def arrays(folder, name, queries, k):
    """The stored arrays, and faiss warmed up."""
    query = np.load(folder / "query.npy")
    gallery = np.load(folder / "gallery.npy", mmap_mode="r")
    for warm in (Flat(), ExactTorch("cpu")):
        warm.build(query[:512]).search(query[:64], 1)
    return folder, name, query, gallery, queries, k


def searched(folder, name, query, gallery, queries, k):
    """Seconds of building and of each number of queries, bytes beside the gallery, recall."""
    search = SEARCHES[name]()
    found = []
    with PeakMemory() as memory:
        began = time.perf_counter()
        index = search.build(gallery)
        built = time.perf_counter() - began
        for count in queries:
            began = time.perf_counter()
            rows, _ = index.search(query[:count], k)
            found.append(time.perf_counter() - began)
    truth = folder / "truth.npy"
    if not truth.exists():
        np.save(truth, rows)
    return built, found, memory.bytes, recall_at_k(rows, np.load(truth)[: len(rows)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gallery", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--queries", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--searches", nargs="+", default=list(SEARCHES), choices=SEARCHES)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument(
        "--hnsw-most", type=int, default=100_000, help="photos; beyond it waits long"
    )
    given = parser.parse_args()
    given.searches = ["flat", *(name for name in given.searches if name != "flat")]
    queries = sorted(given.queries)
    asked = " ".join(f"{count:>8,} q" for count in queries)
    print(f"{given.dim}-d, k={given.k}, {faiss.omp_get_max_threads()} threads; seconds")
    print(f"{'gallery':>10}  {'search':<12}{'build':>9} {asked}   memory  recall")
    grown = {}
    for rows in given.gallery:
        photos, _ = landmark_descriptors(rows + queries[-1], max(1, rows // 10), given.dim)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            np.save(folder / "query.npy", photos[: queries[-1]])
            np.save(folder / "gallery.npy", photos[queries[-1] :].astype(np.float16))
            del photos
            for search in given.searches:
                if search == "hnsw" and rows > given.hnsw_most:
                    continue
                built, found, held, recall = alone(
                    arrays, searched, folder, search, queries, given.k
                ).result
                grown.setdefault(search, []).append((rows, built, *found, held))
                seconds = " ".join(f"{value:>10.2f}" for value in found)
                print(
                    f"{rows:>10,}  {search:<12}{built:9.2f} {seconds} {held / GIB:5.2f} GiB  "
                    f"{recall:.4f}",
                    flush=True,
                )
    print("\nslopes: build, then each number of queries, then memory")
    for search, lines in grown.items():
        for smaller, larger in pairwise(lines):
            step = math.log(larger[0] / smaller[0])
            slopes = " ".join(
                f"{math.log(after / before) / step:6.2f}" if before > 0 < after else "     -"
                for before, after in zip(smaller[1:], larger[1:], strict=True)
            )
            print(f"{smaller[0]:>10,} to {larger[0]:>10,}  {search:<12}{slopes}")


if __name__ == "__main__":
    main()
