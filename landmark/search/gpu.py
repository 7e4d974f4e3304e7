"""GPUs as faiss sees them: which ones to use, and what runs on them."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from landmark.error import UserError
from landmark.processes import launch, shard
from landmark.search.top_k import merge

if TYPE_CHECKING:
    from faiss import Index, StandardGpuResources

MOST_NEIGHBOURS = 2048  # a limit of faiss on the GPU
_VECTOR_BYTES = 2**32  # of the gallery on a GPU at a time


def gpus_of(device: str) -> list[int]:
    """Numbers of the GPUs that faiss uses; empty for the CPU.

    Of several processes, as torchrun starts them, each uses the GPU of its local rank.

    Args:
        device: `cpu`; `cuda`, every GPU; `cuda:1`, that one; `auto`, every GPU that faiss sees.

    Raises:
        UserError: faiss does not see the device, or one GPU would serve several processes.

    Example:
        >>> gpus_of("cpu")
        []
    """
    import faiss

    if device == "cpu":
        return []
    if device == "mps":
        raise UserError("search.device=mps: faiss cannot use it. Pass cpu, or search=exact_torch.")
    count = faiss.get_num_gpus() if hasattr(faiss, "knn_gpu") else 0
    if not count:
        if device == "auto":
            return []
        raise UserError(f"search.device={device}: faiss sees no GPU here. Pass cpu or auto.")
    here, number = launch(), device.partition(":")[2]
    if not number:
        return list(range(count)) if here.world_size == 1 else [here.local_rank % count]
    if int(number) >= count:
        raise UserError(
            f"search.device={device} does not exist. faiss sees {count} GPUs, from cuda:0."
        )
    if here.local_world_size > 1:
        raise UserError(
            f"search.device={device} is one GPU for {here.local_world_size} processes. "
            "Pass search.device=cuda."
        )
    return [int(number)]


def knn(
    query: np.ndarray, block: np.ndarray, k: int, gpus: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows, k <= N, each GPU searching a part of the block.

    Args:
        query: (Q, D) float32.
        block: (N, D) float32, C order.
        k: At most `MOST_NEIGHBOURS`.
        gpus: Their numbers, at least one.

    Returns:
        Rows (Q, k) int64 and scores (Q, k) by descending score.
    """
    import faiss

    def search_on(gpu: int, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
        return search_on(gpus[0], block)
    shares = [(gpu, shard(len(block), number, len(gpus))) for number, gpu in enumerate(gpus)]
    shares = [(gpu, part) for gpu, part in shares if part.start < part.stop]
    with ThreadPoolExecutor(len(shares)) as pool:
        results = list(pool.map(lambda share: search_on(share[0], block[share[1]]), shares))
    best = results[0]
    for (_, part), (rows, scores) in zip(shares[1:], results[1:], strict=True):
        best = merge(best, (rows + part.start, scores), k)
    return best


def on_gpus(index: "Index", gpus: list[int]) -> "Index | None":
    """Copy an index to GPUs, each with a part of its vectors; None where faiss cannot."""
    import faiss

    options = faiss.GpuMultipleClonerOptions()
    options.shard = True
    try:
        return faiss.index_cpu_to_gpus_list(index, options, gpus)
    except RuntimeError:  # faiss has no such index for GPUs, or the GPUs are too small for it
        return None


@cache
def resources(gpu: int) -> "StandardGpuResources":
    """The working memory of faiss on a GPU, allocated once: threads cannot share one."""
    import faiss

    del gpu
    return faiss.StandardGpuResources()
