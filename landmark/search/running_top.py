"""The k best rows of each query so far, while the blocks of a gallery are searched."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_LEAST_PENDING = 32  # candidates per query


class RunningTop:
    """The k best rows of Q queries among the candidates so far, ties by row.

    Candidates are kept until there are about k per query, and then merged, so that the cost of a
    merge is spread over many of them.

    Args:
        queries: Q.
        k: Results per query.
        device: A device that has float64.

    Attributes:
        threshold: (Q,) float64; a row with a score below it is not among the k best.

    Example:
        >>> import torch
        >>> top = RunningTop(1, 2, torch.device("cpu"))
        >>> top.add(torch.tensor([0, 0, 0]), torch.tensor([4, 5, 9]), torch.tensor([0.1, 0.9, 0.9]))
        >>> rows, scores = top.result()
        >>> rows.tolist()
        [[5, 9]]
    """

    def __init__(self, queries: int, k: int, device: "torch.device") -> None:
        import torch

        self._rows = torch.full((queries, k), -1, dtype=torch.int64, device=device)
        self._scores = torch.full((queries, k), -torch.inf, dtype=torch.float64, device=device)
        self.threshold = self._scores[:, 0].clone()
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._count = 0

    def add(self, query: "Tensor", row: "Tensor", score: "Tensor") -> None:
        """Add candidates (P,), in any order; their rows are above those of earlier merges."""
        self._pending.append((query, row, score.double()))
        self._count += len(query)
        queries, k = self._rows.shape
        if self._count >= queries * max(k, _LEAST_PENDING):
            self._merge()

    def raise_threshold(self, threshold: "Tensor") -> None:
        """Use that each query has k rows with scores of at least `threshold` (Q,)."""
        self.threshold = self.threshold.maximum(threshold)

    def result(self) -> tuple["Tensor", "Tensor"]:
        """Return rows (Q, k) int64, -1 pads, and scores (Q, k) float64, -inf at the pads."""
        self._merge()
        return self._rows, self._scores

    def _merge(self) -> None:
        import torch

        if not self._count:
            return
        query, row, score = (torch.cat(values) for values in zip(*self._pending, strict=True))
        self._pending, self._count = [], 0
        good = (score >= self.threshold[query]).nonzero()[:, 0]
        if not len(good):
            return
        query, row, score = query[good], row[good], score[good]
        order = (query * (row.max() + 1) + row).argsort()
        query, row, score = query[order], row[order], score[order]
        changed, counts = query.unique_consecutive(return_counts=True)
        k = self._rows.shape[1]
        place = torch.arange(len(changed), device=query.device).repeat_interleave(counts)
        starts = counts.cumsum(0) - counts
        column = torch.arange(len(query), device=query.device) - starts[place] + k
        shape = len(changed), k + int(counts.max())
        scores = self._scores.new_full(shape, -torch.inf)
        rows = self._rows.new_full(shape, -1)
        scores[:, :k], rows[:, :k] = self._scores[changed], self._rows[changed]
        scores[place, column], rows[place, column] = score, row
        # Stable: on equal scores the earlier, smaller row comes first.
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        self._scores[changed] = scores[:, :k]
        self._rows[changed] = rows.gather(1, order[:, :k])
        self.raise_threshold(self._scores[:, -1])
