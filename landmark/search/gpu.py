"""GPUs for faiss: select them, search on them and copy indexes to them."""

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
_VECTOR_BYTES = 2**32  # of the gallery that a GPU holds at a time


def gpus_of(device: str) -> list[int]:
    """Return the numbers of the GPUs that faiss uses; empty for the CPU.

    Under a launcher such as torchrun each process uses the GPU of its local rank.

    Args:
        device: `cpu`; `cuda` for all GPUs; `cuda:1` for that GPU; `auto` for all available GPUs.

    Raises:
        UserError: The device is not available to faiss, or several processes would share one GPU.

    Example:
        >>> gpus_of("cpu")
        []
    """
    import faiss

    if device == "cpu":
        return []
    if device == "mps":
        raise UserError(
            "search.device=mps: faiss does not support MPS. Pass cpu, or search=exact_torch."
        )
    count = faiss.get_num_gpus() if hasattr(faiss, "knn_gpu") else 0
    if not count:
        if device == "auto":
            return []
        raise UserError(f"search.device={device}: faiss sees no GPU. Pass cpu or auto.")
    started, number = launch(), device.partition(":")[2]
    if not number:
        return list(range(count)) if started.world_size == 1 else [started.local_rank % count]
    if int(number) >= count:
        raise UserError(
            f"search.device={device} does not exist. faiss sees {count} GPUs, from cuda:0."
        )
    if started.local_world_size > 1:
        raise UserError(
            f"search.device={device} is one GPU for {started.local_world_size} processes. "
            "Pass search.device=cuda."
        )
    return [int(number)]


def knn(
    query: np.ndarray, block: np.ndarray, k: int, gpus: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest rows, k <= N; each GPU searches a shard of the block.

    Args:
        query: (Q, D) float32.
        block: (N, D) float32, C order.
        k: Results per query, at most `MOST_NEIGHBOURS`.
        gpus: Numbers of the GPUs, at least one.

    Returns:
        Rows (Q, k) int64 and scores (Q, k) by descending score.

    Example:
        >>> block = np.eye(3, dtype=np.float32)
        >>> knn(block[1:2], block, k=1, gpus=[0])[0].tolist()  # doctest: +SKIP
        [[1]]
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
    shards = [(gpu, shard(len(block), number, len(gpus))) for number, gpu in enumerate(gpus)]
    shards = [(gpu, part) for gpu, part in shards if part.start < part.stop]
    with ThreadPoolExecutor(len(shards)) as pool:
        results = list(pool.map(lambda pair: search_on(pair[0], block[pair[1]]), shards))
    best = results[0]
    for (_, part), (rows, scores) in zip(shards[1:], results[1:], strict=True):
        best = merge(best, (rows + part.start, scores), k)
    return best


def on_gpus(index: "Index", gpus: list[int]) -> "Index | None":
    """Copy an index to GPUs, each with a shard of its vectors.

    Returns:
        None if faiss does not support the index on GPUs, or it does not fit into their memory.

    Example:
        >>> import faiss
        >>> on_gpus(faiss.IndexFlatIP(8), gpus=[0]).d  # doctest: +SKIP
        8
    """
    import faiss

    options = faiss.GpuMultipleClonerOptions()
    options.shard = True
    try:
        return faiss.index_cpu_to_gpus_list(index, options, gpus)
    except RuntimeError:  # not supported on GPUs, or out of GPU memory
        return None


@cache
def resources(gpu: int) -> "StandardGpuResources":
    """Return the scratch memory of faiss on a GPU, allocated once; threads cannot share it.

    Example:
        >>> resources(0) is resources(0)  # doctest: +SKIP
        True
    """
    import faiss

    del gpu
    return faiss.StandardGpuResources()
