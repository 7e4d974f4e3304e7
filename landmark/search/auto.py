"""A search that measures on a sample which kind of index is fastest."""

import math
import os
import time
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from landmark.device import Device
from landmark.error import UserError
from landmark.search import blas
from landmark.search.blocks import Vectors
from landmark.search.faiss_index import FaissIndex, FaissSearch, IndexOptions, Seed
from landmark.search.flat import Flat, FlatIndex
from landmark.search.gpu import gpus_of
from landmark.search.index import Index
from landmark.search.ivf import IVF, InvertedLists
from landmark.search.ivfpq import IVFPQ
from landmark.search.native import ROWS_OF_A_LIST
from landmark.search.top_k import recall_at_k
from landmark.settings import checked

_GIB = 2**30
_INSTANT_SECONDS = 1.0  # an index is not worth building if exact search is this fast
_SAMPLE_ROWS = 16384  # gallery rows that candidates are built on
_FLAT_QUERIES = 1024  # queries on which exact search is timed
_RUNS = 3
_KMEANS_ITERATIONS = 10  # faiss's default for inverted files
_CGROUP, _MEMINFO = Path("/sys/fs/cgroup"), Path("/proc/meminfo")


class Auto:
    """Choose between exact search, IVF and IVFPQ by measuring, and print the reason.

    Exact search and the most precise index that fits into memory (IVF as float32, float16 or sq8,
    or IVFPQ) are timed on a sample of the queries and the gallery, and the times are extrapolated
    by the number of operations. If the index is predicted to be faster, it is built. Its recall is
    then measured against exact search on a sample of the queries, and the search is widened until
    the recall reaches `recall`. If exact search is not slower then, exact search is used.

    The choice is made at the first search, and again at a search with more than twice as many
    queries or with more results.

    Args:
        recall: Required share of the true k nearest neighbours; 1 means exact search.
        memory: Memory for the index in GiB. Defaults to 80 % of the free memory.
        searches: Expected number of searches of the gallery with as many queries, over which the
            time to build an index is amortised. Query expansion searches twice.
        sample: Number of queries to measure on.
        seed: Seed of the samples and of the training.
        device: See `Flat`.
        block_rows: Gallery rows read together.

    Example:
        >>> index = Auto().build(np.eye(3, dtype=np.float32))
        >>> index.search(np.array([[0, 0.6, 0.8]], np.float32), k=2)[0].tolist()
        search=auto: 1 queries in 3 x 3, k=2
          flat: exact search takes about 0.00 s
        [[2, 1]]
    """

    widened_by = "search.recall"

    @checked
    def __init__(
        self,
        recall: Annotated[float, Field(gt=0, le=1)] = 0.95,
        memory: PositiveFloat | None = None,
        searches: PositiveInt = 1,
        sample: PositiveInt = 200,
        seed: Seed = 0,
        device: Device = "auto",
        block_rows: PositiveInt = 65536,
    ) -> None:
        self.recall = recall
        self.memory = memory
        self.searches = searches
        self.sample = sample
        self.seed = seed
        self.device = device
        self.block_rows = block_rows

    def build(self, gallery: Vectors) -> "AutoIndex":
        """Return an index of a gallery (N, D) that chooses its method at its first search."""
        return AutoIndex(gallery, self)


class AutoIndex(Index):
    """A gallery searched by `Auto`.

    Attributes:
        chosen: The chosen index. None before the first search.

    Example:
        >>> index = Auto(recall=1).build(np.eye(2, dtype=np.float32))
        >>> _ = index.search(np.array([[0, 1]], np.float32), k=1)
        search=auto: 1 queries in 2 x 2, k=1
          flat: recall=1
        >>> type(index.chosen).__name__
        'FlatIndex'
    """

    settings: Auto
    chosen: Index | None = None
    _queries, _k = 0, 0

    @property
    def is_exact(self) -> bool:
        """Whether the chosen index is exact."""
        return self.chosen is not None and self.chosen.is_exact

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Choose an index unless the previous choice holds, and search (see `Index.search`)."""
        if self.chosen is None or len(query) > 2 * self._queries or k > self._k:
            self.chosen = None  # free the old index before another is built
            self.chosen = self._choose(query, k)
            self._queries, self._k = len(query), k
        return self.chosen.search(query, k)

    def _choose(self, query: np.ndarray, k: int) -> Index:
        """Time exact search and a candidate on samples; build the candidate if it is faster."""
        s, (rows, dim) = self.settings, self.gallery.shape
        exact = FlatIndex(self.gallery, Flat(s.device, s.block_rows))
        print(f"search=auto: {len(query):,} queries in {rows:,} x {dim}, k={k}", flush=True)
        if s.recall == 1 or not rows or not len(query):
            print(f"  flat: {'recall=1' if s.recall == 1 else 'nothing to search'}", flush=True)
            return exact
        random = np.random.default_rng(s.seed)
        query_sample = _random_rows(random, query, s.sample)
        sample = _random_rows(random, self.gallery, _SAMPLE_ROWS)
        more_rows, more_queries = rows / len(sample), len(query) / len(query_sample)

        flat = exact.fixed(query, k).build(sample)
        true_rows, _ = flat.search(query_sample, k)
        # Fast products need many queries, as the gallery is rounded for them.
        many = _random_rows(random, query, max(s.sample, _FLAT_QUERIES))
        _, seconds = _timed(flat, many, k, _RUNS)
        flat_seconds = seconds * more_rows * len(query) / len(many) * s.searches
        if flat_seconds <= _INSTANT_SECONDS:
            print(f"  flat: exact search takes about {flat_seconds:.2f} s", flush=True)
            return exact
        print(f"  flat    {flat_seconds:9.1f} s, estimated on a sample", flush=True)
        candidate = self._candidate()
        if candidate is None:
            return exact
        if not gpus_of(s.device):
            # Measure now, so that the sample is clustered with the products of the whole gallery.
            blas.torch_is_faster(_build_work(candidate, rows) * dim)
        began = time.perf_counter()
        index = candidate.build_whole(sample)
        building = time.perf_counter() - began
        building *= _build_work(candidate, rows) / _build_work(candidate, len(sample))
        recall, seconds = _widened(index, query_sample, k, true_rows, s.recall)
        # The number of lists, and of photos per list, grow with the square root of the gallery.
        seconds *= np.sqrt(more_rows) * more_queries * s.searches
        # Building, and one exact search of the query sample to measure the recall.
        seconds += building + flat_seconds / s.searches / more_queries
        is_chosen = recall >= s.recall and seconds < flat_seconds
        print(
            f"  {candidate.name:<7} {seconds:9.1f} s, recall {recall:.2f}, "
            f"{_bytes(candidate, rows, dim) / _GIB:.2f} GiB: {_command(index.settings)}\n"
            f"  {candidate.name if is_chosen else 'flat'} is chosen",
            flush=True,
        )
        return self._verified(index.settings, exact, query_sample, k) if is_chosen else exact

    def _verified(
        self, search: FaissSearch, exact: Index, query_sample: np.ndarray, k: int
    ) -> Index:
        """Build the index and widen it to the required recall; return `exact` if that is faster."""
        began = time.perf_counter()
        index = search.build_whole(self.gallery)
        print(f"  built in {time.perf_counter() - began:.1f} s", flush=True)
        true_rows, flat_seconds = _timed(exact, query_sample, k)
        recall, seconds = _widened(
            index, query_sample, k, true_rows, self.settings.recall, flat_seconds
        )
        print(
            f"  measured on {len(query_sample)} queries: recall@{k} {recall:.4f} in {seconds:.2f} "
            f"s, flat {flat_seconds:.2f} s: {_command(index.settings)}",
            flush=True,
        )
        if recall >= self.settings.recall and seconds < flat_seconds:
            return index
        print(f"  flat is chosen: {search.name} is no faster at that recall", flush=True)
        return exact

    def _candidate(self) -> InvertedLists | None:
        """Return the most precise index that fits into memory."""
        s = self.settings
        shared: IndexOptions = {"seed": s.seed, "device": s.device, "block_rows": s.block_rows}
        candidates: list[InvertedLists] = [
            IVF(storage="float32", **shared),
            IVF(storage="float16", **shared),
            IVF(storage="sq8", refine=2, **shared),
            IVFPQ(**shared),
        ]
        memory = 0.8 * free_memory(s.device) if s.memory is None else s.memory * _GIB
        for candidate in candidates:
            required = _bytes(candidate, *self.gallery.shape)
            if required <= memory:
                return candidate
        print(f"  no index fits {memory / _GIB:.2f} GiB, ivfpq needs {required / _GIB:.2f} GiB")
        return None


def _random_rows(random: np.random.Generator, vectors: Vectors, count: int) -> np.ndarray:
    """Draw up to `count` rows, in ascending order."""
    drawn = random.choice(len(vectors), min(count, len(vectors)), replace=False)
    return np.ascontiguousarray(vectors[np.sort(drawn)])


def _timed(index: Index, query: np.ndarray, k: int, runs: int = 1) -> tuple[np.ndarray, float]:
    """Return the rows of a search, and the seconds of the fastest run."""
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        rows, _ = index.search(query, k)
        seconds.append(time.perf_counter() - began)
    return rows, min(seconds)


def _widened(
    index: FaissIndex,
    query: np.ndarray,
    k: int,
    true_rows: np.ndarray,
    least_recall: float,
    most_seconds: float = math.inf,
) -> tuple[float, float]:
    """Widen the search until it reaches the recall, is too slow, or is exhaustive.

    Returns:
        Recall and seconds of the last search.
    """
    while True:
        rows, seconds = _timed(index, query, k)
        recall = recall_at_k(rows, true_rows)
        assert isinstance(index.settings, InvertedLists)
        wider = index.settings.wider(len(index.gallery), k)
        if recall >= least_recall or seconds >= most_seconds or wider is None:
            return recall, seconds
        index.settings = wider


def _bytes(search: InvertedLists, rows: int, dim: int) -> int:
    """Return the memory of an index: codes, row numbers, centroids and training rows."""
    lists = search.lists(rows)
    centroids = 4 * dim * (lists + min(rows, ROWS_OF_A_LIST * lists))
    return (search.bytes_of(dim) + 8) * rows + centroids


def _build_work(search: InvertedLists, rows: int) -> int:
    """Count the comparisons of vectors with centroids, for k-means and for filling the lists."""
    lists = search.lists(rows)
    return (_KMEANS_ITERATIONS * min(rows, ROWS_OF_A_LIST * lists) + rows) * lists


def _command(search: FaissSearch) -> str:
    """Return the command line that selects this search without measuring."""
    keys = ("storage", "n_probe", "refine")
    settings = [f"search.{key}={vars(search)[key]}" for key in keys if key in vars(search)]
    return " ".join([f"search={search.name}", *settings])


def free_memory(device: str = "cpu") -> int:
    """Return the available bytes within the limits of the container, and on the GPUs if used.

    Raises:
        UserError: This system does not report its free memory.

    Example:
        >>> free_memory() > 0
        True
    """
    free = []
    if _MEMINFO.is_file():
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free.append(1024 * int(line.split()[1]))
    elif "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        free.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    limit, used = (_number(_CGROUP / f"memory.{name}") for name in ("max", "current"))
    if limit is not None and used is not None:
        free.append(max(0, limit - used))
    if not free:
        raise UserError(
            "search.memory: this system does not report its free memory. Pass a number of GiB."
        )
    gpus = gpus_of(device)
    if gpus:
        import torch

        free.append(sum(torch.cuda.mem_get_info(number)[0] for number in gpus))
    return min(free)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # the file is missing, or "max" for no limit
        return None
