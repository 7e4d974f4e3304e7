"""Exact search by inner product, with faiss or torch, in blocks of the gallery."""

import copy
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from landmark.artifact.vectors import row_blocks
from landmark.device import Device
from landmark.error import UserError
from landmark.processes import launch, shard
from landmark.search import blas, gpu
from landmark.search.blocks import Vectors, float32_blocks
from landmark.search.engine import (
    FAISS,
    MEASURED_ROWS,
    SMALL_WORK,
    AnyPrecision,
    Choice,
    Engine,
    choose,
)
from landmark.search.faiss_scan import FaissScan
from landmark.search.index import BlockwiseIndex, Index, local_torch_device
from landmark.search.leading import LeadingIndex, leading
from landmark.search.product_scan import ProductScan
from landmark.search.rounding import full_accumulation
from landmark.search.top_k import best_in_order
from landmark.search.transfer import download
from landmark.settings import checked

if TYPE_CHECKING:
    import torch

logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it logs every import

_VALUES_TOGETHER = 2**28  # of queries and their rankings: 1 GB in float32
_VALUES_PER_RESULT = 16  # rows and scores of k results, of k candidates, and copies of the results
_LEAST_TOGETHER = 16  # queries per reading of the gallery, whatever k


class Flat:
    """Exact search: return the k gallery rows with the largest inner product for each query.

    Scores are inner products in float64, rounded to float32; rows are ordered by the score before
    rounding, equal ones by row. Every engine and precision returns the same rows and scores: fast
    products only leave out rows that are proven not to be among the k best (see `product_errors`).

    Nothing is built. A float32 gallery is searched in place, memory-mapped or not. A gallery of
    another dtype, such as float16, is converted block by block, without a second copy of it, and
    read once.

    Args:
        device: `cpu`; `cuda` for all GPUs, each with a shard of the gallery; `cuda:1` for that GPU;
            `mps`; or `auto` for all GPUs if there are any, else the CPU. Under a launcher each
            process uses its own GPU.
        block_rows: Gallery rows converted together.
        engine: `faiss`, `torch`, or `auto`: the fastest one, measured on the first rows of the
            gallery. A small search uses faiss, without a measurement.
        precision: Precision of torch's products, before candidates are scored in float64: `32`,
            `bf16`, `16`, or `auto`, the fastest one: bfloat16 where the CPU has AMX or AVX-512
            BF16, float16 on GPUs.
        block_queries: Queries that torch multiplies together. Defaults to 1,024 or 2,048 on the
            CPU, by precision, and 8,192 on other devices.
        dims: Search the first `dims` dimensions of the vectors, at unit length, and rescore the
            candidates with all dimensions (see `LeadingIndex`). Defaults to all dimensions.
        refine: Candidates per result that are rescored, if `dims` is set; 0 keeps the scores of the
            first dimensions.

    Example:
        >>> index = Flat().build(np.eye(3, dtype=np.float32))
        >>> rows, scores = index.search(np.array([[0.0, 0.6, 0.8]]), k=2)
        >>> rows.tolist(), scores.round(1).astype(str).tolist()
        ([[2, 1]], [['0.8', '0.6']])
    """

    widened_by: str = ""

    @checked
    def __init__(
        self,
        device: Device = "auto",
        block_rows: PositiveInt = 65536,
        engine: Engine = "auto",
        precision: AnyPrecision = "auto",
        block_queries: PositiveInt | None = None,
        dims: PositiveInt | None = None,
        refine: NonNegativeInt = 8,
    ) -> None:
        precision = str(precision)  # type: ignore[assignment] # YAML reads 32 as a number
        if engine == "faiss" and precision != "auto":
            raise UserError(
                f"search.precision={precision} is for torch, but search.engine=faiss. "
                "Pass search.engine=torch."
            )
        self.device = device
        self.block_rows = block_rows
        self.engine = engine
        self.precision = precision
        self.block_queries = block_queries
        self.dims = dims
        self.refine = refine
        if dims is not None:
            self.widened_by = "search.dims or search.refine"

    def build(self, gallery: Vectors) -> Index:
        """Return the gallery (N, D) as an index.

        Raises:
            UserError: The device is not available, or the vectors have fewer dimensions than
                `dims`.
        """
        if self.dims is None:
            return FlatIndex(gallery, self)
        inner = FlatIndex(leading(gallery, self.dims), self.of_leading())
        return LeadingIndex(gallery, self, inner, self.refine)

    def of_leading(self) -> "Flat":
        """Return the search of the first dimensions alone."""
        settings = copy.copy(self)
        settings.dims = None
        return settings


class FlatIndex(BlockwiseIndex):
    """A gallery searched by `Flat`.

    Example:
        >>> index = FlatIndex(np.eye(2, dtype=np.float16), Flat("cpu"))
        >>> index.search(np.array([[0.6, 0.8]]), k=1)[0].tolist()
        [[1]]
    """

    settings: Flat

    def __init__(self, gallery: Vectors, settings: Flat) -> None:
        super().__init__(gallery, settings)
        self._flat = settings
        self._gpus = _faiss_gpus(settings)

    @property
    def is_exact(self) -> bool:
        """True."""
        return True

    def fixed(self, query: np.ndarray, k: int) -> Flat:
        """Return the settings with the engine and precision of a search for the k best of `query`.

        Example:
            >>> index = Flat().build(np.eye(2, dtype=np.float32))
            >>> index.fixed(np.eye(2, dtype=np.float32), k=1).engine
            'faiss'
        """
        choice, _ = self._choice(np.ascontiguousarray(query, np.float32), k)
        settings = copy.copy(self._flat)
        settings.engine = "faiss" if choice == FAISS else "torch"
        settings.precision = choice.precision or "auto"
        return settings

    def _nearest(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.empty((len(query), k), np.int64)
        scores = np.empty((len(query), k))
        together = max(
            _LEAST_TOGETHER, _VALUES_TOGETHER // (query.shape[1] + _VALUES_PER_RESULT * k)
        )
        for part in row_blocks(len(query), together):
            rows[part], scores[part] = self._scanned(query[part], k)
        return rows, scores

    def _scanned(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scan the gallery once."""
        choice, devices = self._choice(query, k)
        if choice == FAISS:
            scan = FaissScan(query, k, self._gpus)
            for first, block in float32_blocks(self.gallery, self._flat.block_rows, True):
                scan.scan(block, first)
            return scan.result()
        return self._scanned_by_torch(query, k, choice.dtype, devices)

    def _scanned_by_torch(
        self, query: np.ndarray, k: int, dtype: "torch.dtype", devices: "list[torch.device]"
    ) -> tuple[np.ndarray, np.ndarray]:
        import torch

        together = self._flat.block_queries
        with full_accumulation(), torch.inference_mode():
            scans = [ProductScan(query, k, one, dtype, together) for one in devices]
            for first, block in float32_blocks(self.gallery, self._flat.block_rows):
                _scan_together(scans, block, first)
            results = [scan.result() for scan in scans]
        rankings = [(download(rows), download(scores)) for rows, scores in results]
        return rankings[0] if len(scans) == 1 else _merged(rankings, k)

    def _choice(self, query: np.ndarray, k: int) -> "tuple[Choice, list[torch.device]]":
        """Return how to multiply, and the devices of torch."""
        settings = self._flat
        rows, dim = self.gallery.shape
        is_small = len(query) * rows * dim < SMALL_WORK
        if settings.engine == "faiss":
            if not self._gpus:
                blas.warn_if_slow(len(query) * rows * dim, "search.engine=torch")
            return FAISS, []
        is_auto = settings.precision == "auto"
        if settings.engine == "auto" and is_auto and is_small and self._gpus is not None:
            return FAISS, []
        devices = _torch_devices(settings.device)
        if is_small and is_auto:
            return Choice("32"), devices
        block = np.ascontiguousarray(self.gallery[:MEASURED_ROWS], np.float32)
        gpus = self._gpus if settings.engine == "auto" and is_auto else None
        choice = choose(
            query,
            k,
            block,
            rows,
            devices[0],
            gpus,
            settings.precision,
            settings.block_queries,
        )
        return choice, devices


def _faiss_gpus(settings: Flat) -> list[int] | None:
    """Return the GPUs of faiss, empty for its CPU version; None if only torch can search.

    Raises:
        UserError: The device is not available.
    """
    if settings.engine == "faiss":
        return gpu.gpus_of(settings.device)
    if settings.engine == "torch" or settings.device == "mps":
        local_torch_device(settings.device)
        return None
    try:
        return gpu.gpus_of(settings.device)
    except UserError:  # a version of faiss for the CPU
        import torch

        if not torch.cuda.device_count():
            raise
        local_torch_device(settings.device)
        return None


def _torch_devices(name: str) -> "list[torch.device]":
    """Return the devices that search together: all GPUs in a single process without a launcher."""
    import torch

    device = local_torch_device(name)
    if device.type != "cuda" or ":" in name or launch().world_size > 1:
        return [device]
    return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]


def _scan_together(scans: list[ProductScan], block: np.ndarray, first: int) -> None:
    """Search a block, sharded among the scans."""
    import torch

    if len(scans) == 1:
        scans[0].scan(block, first)
        return

    def search(scan: ProductScan, part: slice) -> None:
        with torch.inference_mode():  # a mode of a thread
            scan.scan(block[part], first + part.start)

    parts = [shard(len(block), number, len(scans)) for number in range(len(scans))]
    with ThreadPoolExecutor(len(scans)) as pool:
        works = [
            pool.submit(search, scan, part)
            for scan, part in zip(scans, parts, strict=True)
            if part.start < part.stop
        ]
        for work in works:
            work.result()


def _merged(rankings: list[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Merge the rankings of several scans, ties by row."""
    rows, scores = (np.concatenate(values, axis=1) for values in zip(*rankings, strict=True))
    # Sort by row first, so that the stable sort by score orders ties by row; pads are last.
    order = np.argsort(np.where(rows < 0, np.iinfo(rows.dtype).max, rows), axis=1)
    rows, scores = (np.take_along_axis(values, order, axis=1) for values in (rows, scores))
    return best_in_order([(rows, scores)], k)
