"""A search that measures on a sample which kind of index is the fastest, and says why."""

import math
import os
import time
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from landmark.device import Device
from landmark.error import UserError
from landmark.search.blocks import Vectors
from landmark.search.faiss_index import ROWS_OF_A_LIST, FaissIndex, FaissSearch, IndexOptions
from landmark.search.flat import Flat
from landmark.search.gpu import gpus_of
from landmark.search.index import Index
from landmark.search.ivf import IVF, InvertedLists
from landmark.search.ivfpq import IVFPQ
from landmark.search.top_k import recall_at_k
from landmark.settings import checked

_GIB = 2**30
_INSTANT_SECONDS = 1.0  # exact search that takes no longer is not worth an index
_SAMPLE_ROWS = 16384  # of the gallery, on which candidates are built
_RUNS = 3
_KMEANS_ROUNDS = 10  # faiss's default for inverted files
_CGROUP, _MEMINFO = Path("/sys/fs/cgroup"), Path("/proc/meminfo")


class Auto:
    """Choose between exact search, inverted lists and codes by measuring, and print why.

    Exact search and an index that fits the memory, IVF in the widest storage, or IVFPQ, are timed
    on a sample of queries and gallery, and extrapolated by the operations that they count. The
    index is built where it should be faster than exact search. Then its recall on a sample of the
    queries is measured against exact search, and it looks wider until that reaches `recall`; where
    exact search is as fast, exact search it is.

    An index decides at its first search, and again at one with more than twice as many queries or
    more results.

    Args:
        recall: Share of the true k nearest to find; 1 is exact.
        memory: GiB for the index. Defaults to four fifths of what is free.
        searches: How often the gallery will be searched with as many queries; they share the
            building of an index. Query expansion searches twice.
        sample: Queries to measure on.
        seed: Seed of the samples and of the training.
        device: As of `Flat`.
        block_rows: Gallery rows read together.

    Example:
        >>> index = Auto().build(np.eye(3, dtype=np.float32))
        >>> index.search(np.array([[0, 0.6, 0.8]], np.float32), k=2)[0].tolist()
        search=auto: 1 queries in 3 x 3, k=2
          flat: exact search takes about 0.00 s
        [[2, 1]]
    """

    @checked
    def __init__(
        self,
        recall: Annotated[float, Field(gt=0, le=1)] = 0.95,
        memory: PositiveFloat | None = None,
        searches: PositiveInt = 1,
        sample: PositiveInt = 200,
        seed: NonNegativeInt = 0,
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
        """Return an index of a gallery (N, D) that decides at its first search."""
        return AutoIndex(gallery, self)


class AutoIndex(Index):
    """A gallery searched by `Auto`.

    Attributes:
        chosen: The index that is searched; None before the first search.
    """

    settings: Auto
    chosen: Index | None = None
    _queries, _k = 0, 0

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Choose an index where none suits, and search it (see `Index.search`)."""
        if self.chosen is None or len(query) > 2 * self._queries or k > self._k:
            self.chosen = None  # free the old one before another is built
            self.chosen = self._choose(query, k)
            self._queries, self._k = len(query), k
        return self.chosen.search(query, k)

    def _choose(self, query: np.ndarray, k: int) -> Index:
        """Time exact search and a candidate on samples; build the candidate where it is faster."""
        s, (rows, dim) = self.settings, self.gallery.shape
        exact = Flat(s.device, s.block_rows).build(self.gallery)
        print(f"search=auto: {len(query):,} queries in {rows:,} x {dim}, k={k}", flush=True)
        if s.recall == 1 or not rows or not len(query):
            print(f"  flat: {'recall=1' if s.recall == 1 else 'nothing to search'}", flush=True)
            return exact
        random = np.random.default_rng(s.seed)
        query_sample = _drawn(random, query, s.sample)
        sample = _drawn(random, self.gallery, _SAMPLE_ROWS)
        more_rows, more_queries = rows / len(sample), len(query) / len(query_sample)

        true_rows, seconds = _timed(exact.settings.build(sample), query_sample, k, _RUNS)
        flat_seconds = seconds * more_rows * more_queries * s.searches
        if flat_seconds <= _INSTANT_SECONDS:
            print(f"  flat: exact search takes about {flat_seconds:.2f} s", flush=True)
            return exact
        print(f"  flat    {flat_seconds:9.1f} s, estimated on a sample", flush=True)
        candidate = self._candidate()
        if candidate is None:
            return exact
        began = time.perf_counter()
        index = candidate.build(sample)
        building = time.perf_counter() - began
        building *= _build_work(candidate, rows) / _build_work(candidate, len(sample))
        recall, seconds = _widened(index, query_sample, k, true_rows, s.recall)
        # The lists, and the photos in each, grow with the square root of the gallery.
        seconds *= np.sqrt(more_rows) * more_queries * s.searches
        seconds += building + flat_seconds / s.searches / more_queries  # the latter proves it
        is_chosen = recall >= s.recall and seconds < flat_seconds
        print(
            f"  {candidate.name:<7} {seconds:9.1f} s, recall {recall:.2f}, "
            f"{_bytes(candidate, rows, dim) / _GIB:.2f} GiB: {_command(index.settings)}\n"
            f"  {candidate.name if is_chosen else 'flat'} is chosen",
            flush=True,
        )
        return self._proven(index.settings, exact, query_sample, k) if is_chosen else exact

    def _proven(self, search: FaissSearch, exact: Index, query_sample: np.ndarray, k: int) -> Index:
        """Build the index and widen it until it reaches the recall; else return the exact one."""
        began = time.perf_counter()
        index = search.build(self.gallery)
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
        """The first of the indexes, from the most exact to the smallest, that fits the memory."""
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
            needed = _bytes(candidate, *self.gallery.shape)
            if needed <= memory:
                return candidate
        print(f"  no index fits {memory / _GIB:.2f} GiB, ivfpq needs {needed / _GIB:.2f} GiB")
        return None


def _drawn(random: np.random.Generator, vectors: Vectors, most: int) -> np.ndarray:
    """Up to so many rows drawn at random, in order."""
    drawn = random.choice(len(vectors), min(most, len(vectors)), replace=False)
    return np.ascontiguousarray(vectors[np.sort(drawn)])


def _timed(index: Index, query: np.ndarray, k: int, runs: int = 1) -> tuple[np.ndarray, float]:
    """The rows of a search, and the seconds of the fastest run."""
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
    """Widen an index until it reaches a recall or sees all; return the recall and the seconds."""
    while True:
        rows, seconds = _timed(index, query, k)
        recall = recall_at_k(rows, true_rows)
        assert isinstance(index.settings, InvertedLists)
        wider = index.settings.wider(len(index.gallery), k)
        if recall >= least_recall or seconds >= most_seconds or wider is None:
            return recall, seconds
        index.settings = wider


def _bytes(search: InvertedLists, rows: int, dim: int) -> int:
    """Memory of an index: what it stores, row numbers, centres, and the rows it trains on."""
    lists = search.lists(rows)
    centres = 4 * dim * (lists + min(rows, ROWS_OF_A_LIST * lists))
    return (search.bytes_of(dim) + 8) * rows + centres


def _build_work(search: InvertedLists, rows: int) -> int:
    """Comparisons of vectors with centres, in the clustering and to fill the lists."""
    lists = search.lists(rows)
    return (_KMEANS_ROUNDS * min(rows, ROWS_OF_A_LIST * lists) + rows) * lists


def _command(search: FaissSearch) -> str:
    """The command line that chooses this search without measuring."""
    keys = ("storage", "n_probe", "refine")
    settings = [f"search.{key}={vars(search)[key]}" for key in keys if key in vars(search)]
    return " ".join([f"search={search.name}", *settings])


def free_memory(device: str = "cpu") -> int:
    """Bytes that are free, or can be freed, within the limits of the container and on the GPUs.

    Raises:
        UserError: This system does not tell.
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
        raise UserError("search.memory: this system does not tell what is free. Pass GiB.")
    gpus = gpus_of(device)
    if gpus:
        import torch

        free.append(sum(torch.cuda.mem_get_info(number)[0] for number in gpus))
    return min(free)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such file, or no limit: "max"
        return None
