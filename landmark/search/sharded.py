"""A gallery shared out among the processes of a torch.distributed group."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from landmark.artifact.stacked import StackedVectors
from landmark.search.blocks import rows_between
from landmark.search.exact import check_shapes
from landmark.search.kept import Kept
from landmark.search.top_k import best_in_order, pads

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Search = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]
_RESULTS_AT_ONCE = 2**22  # results of all processes gathered at once


class Sharded:
    """Lets each process search its part of the gallery, and joins what they find.

    Process r of W searches rows N·r/W to N·(r+1)/W and reads no others. All processes call it with
    the same queries and gallery, and all get the whole ranking. An exact search gives what it gives
    in one process, equal scores in the order of their rows.

    Where the search saves its index, each process saves that of its part, in `PATH.R-of-W`.

    Args:
        search: The search of a part.
        group: A process group of a CPU backend, such as gloo; none: the default group.
    """

    def __init__(self, search: Search, group: "ProcessGroup | None" = None) -> None:
        import torch.distributed as dist

        self.search = search
        self.group = group
        self.rank = dist.get_rank(group)
        self.processes = dist.get_world_size(group)
        self._parts: Kept[np.ndarray | StackedVectors] = Kept()
        folder = getattr(search, "index", None)
        if folder is not None:
            path = Path(folder)
            path = path.with_name(f"{path.name}.{self.rank}-of-{self.processes}")
            search.index = str(path)  # type: ignore[attr-defined]

    def __call__(
        self, query: np.ndarray, gallery: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search a gallery, together with the other processes.

        Args:
            query: (Q, D), the same in each process.
            gallery: (N, D), the same in each process; may be several stacked (`StackedVectors`).
            k: Neighbours a query; may be more than N.

        Returns:
            rows (Q, k) int32 by falling score, -1 where there are no more; and their scores (Q, k)
            float32, -inf there. Equal scores come in the order of their rows.

        Raises:
            ValueError: k is below 1, the dimensions differ, or the processes ask different things.
        """
        check_shapes(query, gallery, k)
        self._check_alike((*query.shape, *gallery.shape, k))
        first = len(gallery) * self.rank // self.processes
        part = self._parts.get(gallery)
        if part is None:
            end = len(gallery) * (self.rank + 1) // self.processes
            part = rows_between(gallery, first, end)
            self._parts.put(gallery, part)
        found, scores_found = self.search(query, part, k)  # type: ignore[arg-type]
        found = np.where(found >= 0, found + first, -1)

        rows, scores = pads(len(query), k)
        at_once = max(1, _RESULTS_AT_ONCE // (k * self.processes))
        for start in range(0, len(query), at_once):
            some = slice(start, start + at_once)
            every = zip(
                self._gathered(found[some]), self._gathered(scores_found[some]), strict=True
            )
            rows[some], scores[some] = best_in_order(list(every), k)
        return rows, scores

    def _gathered(self, values: np.ndarray) -> list[np.ndarray]:
        import torch
        import torch.distributed as dist

        own = torch.from_numpy(np.ascontiguousarray(values))
        every = [torch.empty_like(own) for _ in range(self.processes)]
        dist.all_gather(every, own, group=self.group)
        return [tensor.numpy() for tensor in every]

    def _check_alike(self, asked: tuple[int, ...]) -> None:
        every = self._gathered(np.array(asked, np.int64))
        if any((other != asked).any() for other in every):
            raise ValueError(
                "the processes ask for different things (Q, D, N, D, k): "
                f"{[other.tolist() for other in every]}"
            )
