"""GPUs as faiss sees them: which to use, and what runs on them."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from landmark.error import UserError
from landmark.search.top_k import merge

if TYPE_CHECKING:
    from faiss import Index, StandardGpuResources

MOST_NEIGHBOURS = 2048  # a limit of faiss on the GPU
_VECTOR_BYTES = 2**32  # of the gallery on a GPU at once


def check_device(device: str) -> None:
    """Refuses a word that names no device.

    Raises:
        UserError: It is none of auto, cpu, cuda, cuda:0, cuda:1, …
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UserError(f"search.device={device} must be auto, cpu, cuda or cuda:0, cuda:1, …")


def gpus_of(device: str) -> list[int]:
    """The numbers of the GPUs to use; none: the CPU.

    Of several processes on one machine, as torchrun starts them, each takes one GPU.

    Args:
        device: `cpu`; `cuda`, every GPU; `cuda:1`, that one; `auto`, every GPU that faiss sees.

    Raises:
        UserError: A GPU is asked for that faiss does not see.
    """
    import faiss

    if device == "cpu":
        return []
    seen = faiss.get_num_gpus() if hasattr(faiss, "knn_gpu") else 0
    if device == "auto" and not seen:
        return []
    if not seen:
        raise UserError(f"search.device={device}, but faiss sees no GPU: choose cpu or auto")
    _, _, number = device.partition(":")
    if number:
        if int(number) >= seen:
            raise UserError(f"search.device={device}, but faiss sees {seen} GPUs, from cuda:0 on")
        return [int(number)]
    if "LOCAL_RANK" in os.environ:
        return [int(os.environ["LOCAL_RANK"]) % seen]
    return list(range(seen))


def knn(
    query: np.ndarray, block: np.ndarray, k: int, gpus: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows, k <= N, searched in parts, a part on each GPU.

    Args:
        query: (Q, D) float32.
        block: (N, D) float32, C order.
        k: At most `MOST_NEIGHBOURS`.
        gpus: Their numbers, at least one.

    Returns:
        rows (Q, k) int64 and scores (Q, k) by falling score.
    """
    import faiss

    def on_one(gpu: int, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores, rows = faiss.knn_gpu(
            resources(gpu),
            query,
            part,
            min(k, len(part)),
            metric=faiss.METRIC_INNER_PRODUCT,
            device=gpu,
            vectorsMemoryLimit=_VECTOR_BYTES,
        )
        return rows, scores

    if len(gpus) == 1:
        return on_one(gpus[0], block)
    ends = [len(block) * number // len(gpus) for number in range(len(gpus) + 1)]
    shares = [
        (gpu, first, block[first:end])
        for gpu, first, end in zip(gpus, ends, ends[1:], strict=False)
        if end > first
    ]
    with ThreadPoolExecutor(len(shares)) as pool:
        found = list(pool.map(lambda share: on_one(share[0], share[2]), shares))
    best = found[0]
    for (_, first, _), (rows, scores) in zip(shares[1:], found[1:], strict=True):
        best = merge(best, (rows + first, scores), k)
    return best


def on_gpus(index: "Index", gpus: list[int]) -> "Index | None":
    """A copy of an index on GPUs, its vectors shared out among them; None where it cannot be."""
    import faiss

    options = faiss.GpuMultipleClonerOptions()
    options.shard = True
    try:
        return faiss.index_cpu_to_gpus_list(index, options, gpus)
    except RuntimeError:  # faiss has no such index for GPUs, or the GPUs are too small for it
        return None


@cache
def resources(gpu: int) -> "StandardGpuResources":
    """The working memory of faiss on a GPU, taken once: threads cannot share one."""
    import faiss

    del gpu
    return faiss.StandardGpuResources()
