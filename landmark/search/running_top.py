"""The k best rows of each query so far, while the blocks of a gallery are searched."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_LEAST_PENDING = 32  # candidates that wait, per query


class RunningTop:
    """The k best rows of Q queries among the candidates so far, ties by row.

    The k best rows of a query, in any order, and its next k candidates have one line of memory.
    Where it is full, the k best of the line are selected.

    Args:
        queries: Q.
        k: Results per query.
        device: A device that has float64.

    Attributes:
        threshold: (Q,) float64; a row with a score below it is not among the k best.
        version: Number of changes of `threshold`.

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

        self._k = k
        width = k + max(_LEAST_PENDING, k)
        self._rows = torch.full((queries, width), -1, dtype=torch.int64, device=device)
        self._scores = torch.full((queries, width), -torch.inf, dtype=torch.float64, device=device)
        self._counts = torch.zeros(queries, dtype=torch.int64, device=device)  # after the first k
        self.threshold = self._scores[:, 0].clone()
        self.version = 0

    def add(self, query: "Tensor", row: "Tensor", score: "Tensor") -> None:
        """Add candidates (P,), ordered by query."""
        import torch

        if not len(query):
            return
        counts = torch.bincount(query, minlength=len(self._counts))
        column = torch.arange(len(query), device=query.device) - (counts.cumsum(0) - counts)[query]
        after = self._counts + counts
        room = self._rows.shape[1] - self._k
        if int(after.max()) > room:
            is_full = after > room
            direct = is_full[query]  # candidates that have no room before the selection
            # Queries whose room is half full come along, so that selections stay few.
            self._select(
                (after > room // 2).nonzero()[:, 0],
                query[direct],
                row[direct],
                score[direct],
                column[direct],
            )
            query, row, score, column = (values[~direct] for values in (query, row, score, column))
            counts = counts.masked_fill(is_full, 0)
        at = query * self._rows.shape[1] + self._k + self._counts[query] + column
        self._scores.view(-1)[at] = score.double()
        self._rows.view(-1)[at] = row
        self._counts += counts

    def raise_threshold(self, threshold: "Tensor") -> None:
        """Use that each query has k rows with scores of at least `threshold` (Q,)."""
        self.threshold = self.threshold.maximum(threshold)
        self.version += 1

    def result(self) -> tuple["Tensor", "Tensor"]:
        """Return rows (Q, k) int64, -1 pads, and scores (Q, k) float64, -inf at the pads."""
        return _ordered(*_best(self._rows, self._scores, self._k))

    def _select(
        self, chosen: "Tensor", query: "Tensor", row: "Tensor", score: "Tensor", column: "Tensor"
    ) -> None:
        """Keep the k best of the lines of the chosen queries and of further candidates of them.

        Args:
            chosen: Queries, (m,).
            query: Query of each further candidate, one of `chosen`.
            row: Its row.
            score: Its score.
            column: Its number among the candidates of its query.
        """
        import torch

        k = self._k
        rows, scores = self._rows[chosen], self._scores[chosen]
        self._rows[chosen, k:], self._scores[chosen, k:] = -1, -torch.inf
        self._counts[chosen] = 0
        if len(query):
            place = torch.empty_like(self._counts)
            place[chosen] = torch.arange(len(chosen), device=chosen.device)
            shape = len(chosen), int(column.max()) + 1
            more_rows, more_scores = rows.new_full(shape, -1), scores.new_full(shape, -torch.inf)
            more_rows[place[query], column] = row
            more_scores[place[query], column] = score.double()
            rows, scores = torch.cat([rows, more_rows], 1), torch.cat([scores, more_scores], 1)
        rows, scores = _best(rows, scores, k)
        self._rows[chosen, :k], self._scores[chosen, :k] = rows, scores
        self.threshold[chosen] = self.threshold[chosen].maximum(scores.amin(1))
        self.version += 1


def _best(rows: "Tensor", scores: "Tensor", k: int) -> tuple["Tensor", "Tensor"]:
    """Select the k best of each line (m, W), of equal ones the smallest rows, in any order."""
    import torch

    best, at = scores.topk(k, dim=1, sorted=False)
    chosen = rows.gather(1, at)
    last = best.amin(1, keepdim=True)
    # Lines of which not all entries that equal the k-th best were selected.
    is_cut = (scores == last).sum(1) > (best == last).sum(1)
    if (last == -torch.inf).any():
        # Pads are such entries, but there may also be rows with this score.
        is_row = ((scores == -torch.inf) & (rows >= 0)).any(1)
        is_cut &= is_row | (last[:, 0] > -torch.inf)
    lines = is_cut.nonzero()[:, 0]
    if len(lines):
        ordered_rows, ordered_scores = _ordered(rows[lines], scores[lines])
        chosen[lines], best[lines] = ordered_rows[:, :k], ordered_scores[:, :k]
    return chosen, best


def _ordered(rows: "Tensor", scores: "Tensor") -> tuple["Tensor", "Tensor"]:
    """Order lines by descending score, equal ones by row, pads last."""
    import torch

    best, at = scores.sort(dim=1, descending=True)
    ordered = rows.gather(1, at)
    # Pads, and only they, have a row of -1.
    is_wrong = (best[:, 1:] == best[:, :-1]) & (ordered[:, 1:] < ordered[:, :-1])
    is_wrong |= (ordered[:, :-1] < 0) & (ordered[:, 1:] >= 0)
    lines = is_wrong.any(1).nonzero()[:, 0]
    if len(lines):
        few = rows[lines]
        by_row = few.where(few >= 0, torch.iinfo(few.dtype).max).argsort(dim=1)
        best[lines], at = scores[lines].gather(1, by_row).sort(dim=1, descending=True, stable=True)
        ordered[lines] = few.gather(1, by_row).gather(1, at)
    return ordered, best
