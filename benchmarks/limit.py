"""Exact search and description beside the limit of this machine: its own bare products.

Every row names what runs, what runs beside it in the same minutes, and the ratio, so that it can be
compared with another machine. Sections:

search       10,000 queries x 1,000,000 x 512, k=100, memory-mapped float32: rates in multiply-adds
exactness    random cases of near-ties, duplicates, clusters, extreme values, against float64
gldv2        GLDv2's test set at two scales: search, query expansion, two-stage with votes; slopes
neighbours   the 1,000 neighbours of each of 200,000 train photos among themselves, for cleaning
extraction   limit_extraction.py --end-to-end: from photos to descriptors, in float32 and bfloat16
engines      limit_extraction.py: forward passes of ONNX Runtime and OpenVINO beside ours
head         heads.py --limit: head=fused beside its own products
ivf          limit_ivf.py: training and search of ivf and ivfpq

python benchmarks/limit.py
python benchmarks/limit.py search exactness neighbours --device cuda
python benchmarks/limit.py search exactness --gallery 200000 --queries 2000 --cases 500
"""

import argparse
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _descriptors import landmark_descriptors
from _process import GIB, measure_in_new_process, run_in_new_process

from landmark.device import has_bf16_products
from landmark.search import Flat

SCRIPTS = {
    "extraction": ["limit_extraction.py", "--end-to-end", "--rounds", "1"],
    "engines": ["limit_extraction.py"],
    "head": ["heads.py", "--limit"],
    "ivf": ["limit_ivf.py"],
}
SECTIONS = ("search", "exactness", "gldv2", "neighbours", *SCRIPTS)
# Queries and gallery rows of a product; the fastest one counts.
SHAPES = {
    "cpu": [(1024, 8192), (2048, 2048), (2048, 4096), (1024, 16384), (4096, 4096)],
    "cuda": [(4096, 16384), (4096, 65536)],
}
GLDV2 = {"queries": 117_577, "gallery": 761_757, "train": 1_580_470}
TRAIN_PHOTOS = 4_132_914
DIM = 512


def bare_rate(dtype: str, dim: int, device: str, seconds: float = 5.0) -> float:
    """Return the multiply-adds a second of torch's product at its best shape.

    Every product reads other rows of 65,536, as a search does; each shape runs for a share of the
    seconds, since single products are faster than a search can be.
    """
    import torch

    random = torch.Generator().manual_seed(0)
    query, gallery = (
        torch.randn(count, dim, generator=random).to(device, getattr(torch, dtype))
        for count in (4096, 65_536)
    )
    best, shapes = 0.0, SHAPES[torch.device(device).type]
    for queries, rows in shapes:
        out, work = query.new_empty(queries, rows), 0
        torch.mm(query[:queries], gallery[:rows].T, out=out)
        start = time.perf_counter()
        while time.perf_counter() - start < seconds / len(shapes):
            for first in range(0, len(gallery), rows):
                torch.mm(query[:queries], gallery[first : first + rows].T, out=out)
                work += queries * rows * dim
            out[-1, -1].item()  # wait for a GPU
        best = max(best, work / (time.perf_counter() - start))
    return best


def open_arrays(folder, options):
    """Return the queries, the memory-mapped gallery and k; read the gallery once before."""
    import torch  # noqa: F401 - a second that is not the search's

    query = np.load(folder / "query.npy")
    gallery = np.load(folder / "gallery.npy", mmap_mode="r")
    gallery.max()
    return query, gallery, options


def flat(query, gallery, options):
    """Return some of the rows and the seconds of the search without starting a GPU."""
    index = Flat(**options["flat"]).build(gallery)
    if options["flat"]["device"] != "cpu":
        index.search(query[:1], options["k"])
    start = time.perf_counter()
    rows, _ = index.search(query, options["k"])
    return rows[:: max(1, len(rows) // 100)], time.perf_counter() - start


def topk_of_products(query, gallery, options):
    """Return the seconds of float32 products and topk, the usual search on a GPU."""
    import torch

    device, k = options["flat"]["device"], options["k"]
    queries = torch.from_numpy(query).to(device)
    start = time.perf_counter()
    for _ in range(2):
        best = None
        start = time.perf_counter()
        for first in range(0, len(gallery), 65536):
            block = torch.from_numpy(gallery[first : first + 65536].copy()).to(device)
            scores, rows = (queries @ block.T).topk(k)
            rows += first
            if best is not None:
                scores, rows = torch.cat([best[0], scores], 1), torch.cat([best[1], rows], 1)
                scores, order = scores.topk(k)
                rows = rows.gather(1, order)
            best = scores, rows
        best[1].cpu()
    return time.perf_counter() - start


def index_flat(query, gallery, options):
    """Return the rows, and the seconds of the search alone, of a part of the gallery."""
    import faiss

    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(np.ascontiguousarray(gallery[: options["faiss_rows"]]))
    start = time.perf_counter()
    index.search(query, options["k"])
    return time.perf_counter() - start


def search(options):
    """Compare exact search with the bare products and with IndexFlatIP."""
    rows, queries, k = options.gallery, options.queries, options.k
    work = rows * queries * DIM
    photos, _ = landmark_descriptors(rows + queries, max(1, rows // 10), DIM)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "query.npy", photos[:queries])
        np.save(folder / "gallery.npy", photos[queries:])
        del photos
        common = {"k": k, "faiss_rows": min(rows, options.faiss_rows)}
        device = options.device
        float32 = {"device": device, "engine": "torch", "precision": "32"}
        fastest = {"device": device}
        is_cpu = device == "cpu"
        peer, usual = (
            ("IndexFlatIP", index_flat) if is_cpu else ("products and topk", topk_of_products)
        )
        results = {}
        for round_ in range(options.rounds):
            rates = {
                dtype: run_in_new_process(bare_rate, dtype, DIM, device) for dtype in types(device)
            }
            for dtype, rate in rates.items():
                results.setdefault(f"bare {dtype} product", []).append((rate, 0, None))
            works = {"ours, float32": float32, "ours, auto": fastest}
            for label, settings in works.items():
                run = measure_in_new_process(
                    open_arrays, flat, folder, {**common, "flat": settings}, yields=False
                )
                some, seconds = run.result
                seconds = run.seconds if is_cpu else seconds
                results.setdefault(label, []).append((work / seconds, run.peak, some))
            if round_ == 0:
                settings = {**common, "flat": fastest}
                run = measure_in_new_process(open_arrays, usual, folder, settings, yields=False)
                peer_rows = common["faiss_rows"] if is_cpu else rows
                results[peer] = [(peer_rows * queries * DIM / run.result, run.peak, None)]
        best = {label: max(values, key=lambda one: one[0]) for label, values in results.items()}
        print(f"exact search, {queries:,} x {rows:,} x {DIM}, k={k}, float32 store, memory-mapped")
        bare, usual_rate = best["bare float32 product"][0], best[peer][0]
        for label, (rate, peak, _) in best.items():
            print(
                f"  {label:<26}{rate / 1e9:8.0f} G/s {work / rate:8.1f} s   "
                f"{rate / bare:5.2f} x float32 product {rate / usual_rate:6.2f} x {peer}   "
                f"peak {peak / GIB:.2f} GiB"
            )
        same = (best["ours, float32"][2] == best["ours, auto"][2]).all()
        print(f"  same rows: {same}; {peer} on {peer_rows:,} rows\n", flush=True)


def types(device):
    """Return the types of the products that are compared."""
    if device != "cpu":
        return ["float32", "float16"]
    return ["float32", "bfloat16"] if has_bf16_products() else ["float32"]


def exactness(options):
    """Compare all engines with float64 on random adversarial cases."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from adversarial_vectors import KINDS, adversarial, oracle

    np.seterr(all="ignore")  # huge and tiny values
    engines = [("torch", "32"), ("torch", "bf16"), ("torch", "16")]
    if options.device == "cpu":
        engines.append(("faiss", "auto"))
    wrong = dict.fromkeys(KINDS, 0)
    largest, start = 0.0, time.perf_counter()
    for case in range(options.cases):
        random = np.random.default_rng(case)
        kind = KINDS[case % len(KINDS)]
        engine, precision = engines[case // len(KINDS) % len(engines)]
        queries, rows = int(random.integers(1, 13)), int(random.integers(1, 1200))
        dim = int(random.choice([1, 3, 16, 65, 512]))
        query, gallery = adversarial(kind, random, queries, rows, dim)
        k = rows if random.random() < 0.2 else min(rows, int(random.integers(1, 41)))
        expected_rows, expected = oracle(query, gallery, k)
        index = Flat(
            options.device,
            int(random.integers(1, 500)),
            engine,
            precision,
            int(random.integers(1, 9)),
        ).build(gallery)
        found, scores = index.search(query, k)
        relative = np.abs(scores - expected) / np.maximum(1, np.abs(expected))
        largest = max(largest, float(np.nan_to_num(relative).max()))
        wrong[kind] += bool((found != expected_rows).any())
    print(
        f"exactness: {options.cases:,} cases of {len(KINDS)} kinds and {len(engines)} engines: "
        f"{sum(wrong.values())} with other rows, largest error of a score {largest:.1e} "
        f"(relative above 1), {time.perf_counter() - start:.0f} s"
    )
    print(f"  wrong by kind: {wrong}\n", flush=True)


def gldv2(options):
    """Time search, query expansion with its second search, and two-stage, at two scales."""
    from landmark.rerank import AlphaQE, TwoStage
    from landmark.rerank.retrieval import Retrieval

    print("GLDv2: test queries in the index set, with the votes of the train set; float16 stores")
    seconds = {}
    for scale in (options.scale / 2, options.scale):
        sizes = {name: max(200, round(count * scale)) for name, count in GLDV2.items()}
        photos, labels = landmark_descriptors(
            sum(sizes.values()), max(2, round(81_313 * scale)), DIM
        )
        with tempfile.TemporaryDirectory() as name:
            file, stores, first = Path(name), {}, 0
            for store, count in sizes.items():
                np.save(file / f"{store}.npy", photos[first : first + count].astype(np.float16))
                stores[store] = np.load(file / f"{store}.npy", mmap_mode="r")
                first += count
            train_labels = labels[first - sizes["train"] :].astype(str)
            del photos
            times = [time.perf_counter()]
            ranking = Retrieval.from_search(
                stores["queries"],
                stores["gallery"],
                100,
                Flat("cpu"),
                stores["train"],
                train_labels,
            )
            times.append(time.perf_counter())
            ranking = AlphaQE()(ranking)
            times.append(time.perf_counter())
            TwoStage()(ranking)
            times.append(time.perf_counter())
        seconds[scale] = np.diff(times)
        shown = " ".join(f"{value:8.1f} s" for value in seconds[scale])
        print(f"  scale {scale:g}: {sizes}: search, alpha_qe, two_stage {shown}", flush=True)
    small, large = seconds.values()
    exponents = np.log(large / small) / math.log(2)
    whole = large / options.scale**2
    print(
        f"  exponents of the scale {exponents.round(2).tolist()} (products: 2); at 2, all of "
        f"GLDv2: {[f'{value / 60:.1f} min' for value in whole]}\n",
        flush=True,
    )


def neighbours(options):
    """Time the neighbours of train photos among themselves."""
    rows, k = options.train, 1000
    photos, _ = landmark_descriptors(rows, max(1, rows // 20), DIM)
    device = options.device
    index = Flat(device).build(photos.astype(np.float16))
    bare = max(run_in_new_process(bare_rate, dtype, DIM, device) for dtype in types(device))
    start = time.perf_counter()
    for first in range(0, rows, 65536):
        index.search(photos[first : first + 65536], k)
    seconds = time.perf_counter() - start
    rate = rows * rows * DIM / seconds
    hours = seconds * (TRAIN_PHOTOS / rows) ** 2 / 3600
    print(
        f"neighbours: {rows:,} x {rows:,} x {DIM}, k={k}: {seconds:.1f} s, {rate / 1e9:.0f} G/s, "
        f"{rate / bare:.2f} of the bare product\n  extrapolated to {TRAIN_PHOTOS:,}: {hours:.2f} h "
        + (
            f"on these 2 cores, {hours / 8:.1f} h on 16, {hours / 32:.2f} h on 64\n"
            if device == "cpu"
            else f"on {device}\n"
        ),
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", help=" ".join(SECTIONS))
    parser.add_argument("--device", default="cpu", help="of search, exactness and neighbours")
    parser.add_argument("--gallery", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--faiss-rows", type=int, default=200_000, help="rows for IndexFlatIP")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--scale", type=float, default=0.1, help="part of GLDv2")
    parser.add_argument("--train", type=int, default=200_000)
    parser.add_argument(
        "--photos", help="folder of landmarks for extraction; default: drawn photos"
    )
    options = parser.parse_args()
    hardware = "has" if has_bf16_products() else "lacks"
    print(f"this CPU {hardware} AMX or AVX-512 BF16\n", flush=True)
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"unknown sections {sorted(unknown)}")
    for section in options.sections or SECTIONS:
        if section not in SCRIPTS:
            globals()[section](options)
            continue
        script, *arguments = SCRIPTS[section]
        if options.photos and script == "limit_extraction.py":
            arguments += ["--photos", options.photos, "--count", "100"]
        command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
        subprocess.run(command, check=True)
        print(flush=True)


if __name__ == "__main__":
    main()
