"""The transport of one pair on a CPU, without gradients: the products of a pair stay in the cache.

The dust is part of the rows: a row x becomes (x, h, 0) on one side and (x, 0, h) on the other, and
the dust (0, corner, 1) and (0, 1, 0), so that one product of matrices gives all exponents.
"""

import threading

import torch
from torch import Tensor

_TEMPERATURE = 10.0
LARGEST_CORNER = 4.0  # beyond it exponents leave the range of `landmark.pair.transport`'s kernel
_own = threading.local()


def with_dust(rows: Tensor, dust: Tensor | float | None, corner: float, is_query: bool) -> Tensor:
    """Append the dust to the projected rows of a photo, for `best_masses`.

    Args:
        rows: (n, d), of at most unit length.
        dust: Similarity of the rows to the dust, (n,) or a number. None means that there is no
            dust.
        corner: Similarity of the dust to itself, in -4 … 4.
        is_query: Which side of a pair the photo is.

    Returns:
        (n + 1, d + 2); (n, d) without dust. Query rows are multiplied by the temperature.

    Raises:
        ValueError: The corner is beyond the range of float32.

    Example:
        >>> one = torch.tensor([[1.0]])
        >>> query, gallery = with_dust(one, 0.5, 0.25, True), with_dust(one, 0.75, 0.25, False)
        >>> query @ gallery.T
        tensor([[10.0000,  5.0000],
                [ 7.5000,  2.5000]])
    """
    factor = _TEMPERATURE if is_query else 1.0
    if dust is None:
        return rows * factor
    if abs(corner) > LARGEST_CORNER:
        raise ValueError(f"corner={corner:g} is not in -4 … 4")
    augmented = rows.new_zeros(len(rows) + 1, rows.shape[1] + 2)
    augmented[:-1, :-2] = rows
    own, other = (-2, -1) if is_query else (-1, -2)
    augmented[:-1, own] = dust
    augmented[-1, other] = 1
    if is_query:
        augmented[-1, own] = corner
    return augmented.mul_(factor)


def best_masses(
    query: Tensor, gallery: Tensor, has_dust: bool, iterations: int = 10
) -> tuple[Tensor, Tensor]:
    """Return the largest transported mass of each query row and of each gallery row.

    The same as `best_votes` of `transport`, for one pair.

    Args:
        query: What `with_dust` returned.
        gallery: Likewise, for the other side.
        has_dust: Whether the last rows are the dust.
        iterations: Number of row and column steps.

    Returns:
        (M,) and (N,); zeros if either photo has no rows.

    Example:
        >>> rows = [with_dust(torch.eye(3), 0.0, 0.0, is_query) for is_query in (True, False)]
        >>> best_masses(*rows, has_dust=True)[0].round(decimals=2)
        tensor([0.9500, 0.9500, 0.9500])
    """
    m, n = len(query) - has_dust, len(gallery) - has_dust
    if not m or not n:
        return query.new_zeros(m), query.new_zeros(n)
    kernel = _buffer(len(query), len(gallery), query.dtype)
    torch.mm(query, gallery.T, out=kernel)
    kernel.exp_()
    rows, columns = query.new_ones(len(query)), query.new_ones(len(gallery))
    if has_dust:
        rows[m], columns[n] = n, m
    r, c = rows, torch.ones_like(columns)
    for _ in range(iterations):
        r = rows / torch.mv(kernel, c)
        c = columns / torch.mv(kernel.T, r)
    mass = kernel[:m, :n]
    mass.mul_(c[:n]).mul_(r[:m, None])
    return mass.amax(1), mass.amax(0)


def _buffer(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Return a matrix in memory that each thread reuses: new memory costs more than the product."""
    buffer = getattr(_own, "buffer", None)
    if buffer is None or buffer.numel() < rows * columns or buffer.dtype != dtype:
        with torch.inference_mode(False):  # for a later call outside of inference mode
            buffer = _own.buffer = torch.empty(rows * columns, dtype=dtype)
    matrix: Tensor = buffer[: rows * columns].view(rows, columns)
    return matrix
