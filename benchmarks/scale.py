"""Growth of each search with gallery and queries: seconds, bytes per photo, memory, recall.

Galleries are memory-mapped float16 files, as in descriptor stores. Each search of each gallery runs
in a new process: it builds the index, searches for the queries, and its ranking is compared with
the exact one, its first 10 rows and all k. Bytes per photo are those of the index, 8 for the row
number in an inverted list included. The last lines are slopes: the exponent of N with which seconds
and memory grow from one size to the next.

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
from _descriptors import landmark_descriptors
from _process import GIB, measure_in_new_process

from landmark.rerank.memory import PeakMemory
from landmark.search import HNSW, IVF, IVFPQ, ExactTorch, Flat, RaBitQ
from landmark.search.native import parts_of
from landmark.search.top_k import recall_at_k

SEARCHES = {
    "flat": Flat,
    "exact_torch": ExactTorch,
    "ivf": lambda: IVF(n_probe=64),
    "ivf sq8": lambda: IVF(n_probe=64, storage="sq8", refine=2),
    "ivfpq": lambda: IVFPQ(n_probe=64, refine=4),
    "rabitq": lambda: RaBitQ(n_probe=64, refine=4),
    "rabitq fs": lambda: RaBitQ(n_probe=64, refine=4, fast_scan=True),
    "ivfpq 128": lambda: IVFPQ(n_probe=64, refine=4, code_bytes=128),
    "rabitq 2": lambda: RaBitQ(bits=2, n_probe=64, refine=4),
    "hnsw": HNSW,
}
_FIRST = 10


def prepare(folder, name, queries, k):
    """Load the arrays and warm up faiss and PyTorch; return the arguments of `search`."""
    query = np.load(folder / "query.npy")
    gallery = np.load(folder / "gallery.npy", mmap_mode="r")
    for warm_up in (Flat(), ExactTorch("cpu")):
        warm_up.build(query[:512]).search(query[:64], 1)
    return folder, name, query, gallery, queries, k


def search(folder, name, query, gallery, queries, k):
    """Return the seconds to build and to search, peak and index bytes, and both recalls."""
    method = SEARCHES[name]()
    times = []
    with PeakMemory() as memory:
        start = time.perf_counter()
        index = method.build(gallery)
        built = time.perf_counter() - start
        for count in queries:
            start = time.perf_counter()
            rows, _ = index.search(query[:count], k)
            times.append(time.perf_counter() - start)
    truth = folder / "truth.npy"
    if not truth.exists():
        np.save(truth, rows)
    true = np.load(truth)[: len(rows)]
    recalls = [recall_at_k(rows[:, :most], true[:, :most]) for most in (_FIRST, k)]
    return built, times, memory.bytes, index_bytes(index), recalls


def index_bytes(index):
    """Return the bytes per photo of a faiss index; 0 of one that holds nothing."""
    native = getattr(index, "_index", None)
    for part in parts_of(native, with_quantizers=False) if native is not None else ():
        if hasattr(part, "invlists"):
            return part.code_size + 8
        if hasattr(part, "hnsw"):
            links = 4 * part.hnsw.neighbors.size() / part.ntotal
            return round(faiss.downcast_index(part.storage).code_size + links)
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gallery", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--queries", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--searches", nargs="+", default=list(SEARCHES), choices=SEARCHES)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument(
        "--hnsw-most", type=int, default=100_000, help="largest gallery of hnsw, slow to build"
    )
    arguments = parser.parse_args()
    arguments.searches = ["flat", *(name for name in arguments.searches if name != "flat")]
    queries = sorted(arguments.queries)
    columns = " ".join(f"{count:>8,} q" for count in queries)
    print(f"{arguments.dim}-d, k={arguments.k}, {faiss.omp_get_max_threads()} threads; seconds")
    recalls = f"recall@{_FIRST}  @{arguments.k}"
    print(f"{'gallery':>10}  {'search':<12}{'build':>9} {columns}   memory  bytes  {recalls}")
    measurements = {}
    for rows in arguments.gallery:
        photos, _ = landmark_descriptors(rows + queries[-1], max(1, rows // 10), arguments.dim)
        with tempfile.TemporaryDirectory() as directory:
            folder = Path(directory)
            np.save(folder / "query.npy", photos[: queries[-1]])
            np.save(folder / "gallery.npy", photos[queries[-1] :].astype(np.float16))
            del photos
            for name in arguments.searches:
                if name == "hnsw" and rows > arguments.hnsw_most:
                    continue
                built, times, memory, size, (first, recall) = measure_in_new_process(
                    prepare, search, folder, name, queries, arguments.k
                ).result
                measurements.setdefault(name, []).append((rows, built, *times, memory))
                seconds = " ".join(f"{value:>10.2f}" for value in times)
                print(
                    f"{rows:>10,}  {name:<12}{built:9.2f} {seconds} {memory / GIB:5.2f} GiB  "
                    f"{size:5,}  {first:9.4f}  {recall:.4f}",
                    flush=True,
                )
    print("\nslopes: build, then each number of queries, then memory")
    for name, results in measurements.items():
        for smaller, larger in pairwise(results):
            step = math.log(larger[0] / smaller[0])
            slopes = " ".join(
                f"{math.log(after / before) / step:6.2f}" if before > 0 < after else "     -"
                for before, after in zip(smaller[1:], larger[1:], strict=True)
            )
            print(f"{smaller[0]:>10,} to {larger[0]:>10,}  {name:<12}{slopes}")


if __name__ == "__main__":
    main()
