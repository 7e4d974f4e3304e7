"""Exact search and two-stage re-ranking: time, and memory beside the vectors.

Claims: Flat costs no more than faiss.IndexFlatIP, and a memory-mapped float16 gallery is searched
without a float32 copy of it; two-stage re-ranking of GLDv2's whole test set, votes given, takes
under 10 s and 2 GB.

python benchmarks/search.py
python benchmarks/search.py --gallery 761757 --queries 1000 --dim 512
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np

from landmark.rerank import TwoStage
from landmark.rerank.voting import Votes
from landmark.search import Flat


def measured(name, work):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    print(f"{name:<44} {seconds:8.2f} s   peak memory +{max(more, 0):.2f} GiB", flush=True)
    return result


def index_flat(query, gallery, k):
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(np.asarray(gallery, np.float32))
    return index.search(np.asarray(query, np.float32), k)


def search(queries, rows, dim, folder):
    random = np.random.default_rng(0)
    query = random.standard_normal((queries, dim), dtype=np.float32)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    for dtype in ("float16", "float32"):
        path = folder / f"{dtype}.npy"
        stored = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(rows, dim))
        for first in range(0, rows, 65536):
            block = random.standard_normal((min(65536, rows - first), dim), dtype=np.float32)
            stored[first : first + len(block)] = block / np.linalg.norm(block, axis=1)[:, None]
        stored.flush()
        gallery = np.load(path, mmap_mode="r")
        flat = Flat(device="cpu")
        found = measured(f"Flat, {dtype} on disk", lambda g=gallery, f=flat: f(query, g, 100))
        peer = measured(f"IndexFlatIP, {dtype}", lambda g=gallery: index_flat(query, g, 100))
        print(f"  same scores: {np.allclose(found[1], peer[0], atol=1e-5)}")


def two_stage():
    random = np.random.default_rng(0)
    queries, gallery, landmarks = 117_577, 761_757, 81_313
    rows = np.sort(random.integers(0, gallery, (queries, 100), dtype=np.int32), axis=1)
    scores = -np.sort(-random.random((queries, 100), dtype=np.float32), axis=1)
    votes = [
        Votes(random.zipf(1.2, photos) % landmarks, random.random(photos))
        for photos in (queries, gallery)
    ]
    measured(
        "TwoStage, 117,577 x 100, votes given", lambda: TwoStage().rerank(rows, scores, *votes)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gallery", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--dim", type=int, default=512)
    given = parser.parse_args()
    two_stage()
    with tempfile.TemporaryDirectory() as folder:
        search(given.queries, given.gallery, given.dim, Path(folder))


if __name__ == "__main__":
    main()
