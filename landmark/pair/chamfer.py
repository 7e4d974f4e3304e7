"""Chamfer similarity of two sets of local descriptors, on transported similarities."""

import torch
from torch import Tensor

from landmark.pair.transport import transport


def chamfer(
    query: Tensor,
    gallery: Tensor,
    query_padding: Tensor | None = None,
    gallery_padding: Tensor | None = None,
    dust: float | None = 0.0,
    temperature: float = 10.0,
    iterations: int = 10,
    count_padding: bool = False,
) -> Tensor:
    """Sum the best transported similarity of each descriptor: Σ_i max_j P + Σ_j max_i P.

    The score of a pair depends on its own descriptors alone. A photo without descriptors has the
    score 0 with any other.

    Args:
        query: (B, M, D), unit rows.
        gallery: (B, N, D), unit rows.
        query_padding: (B, M), True = padding. Defaults to none.
        gallery_padding: (B, N), True = padding. Defaults to none.
        dust: Similarity of every row to the dust, and of the dust to itself. None means no dust.
        temperature: Factor of the similarities in the exponent.
        iterations: Number of row and column steps. 0 means no transport: P is the similarities.
        count_padding: See `transport`.

    Returns:
        (B,) scores.

    Source:
        Suma et al.: ELViS. ICLR 2026, arXiv 2603.28603: the baseline Chamfer with transport.

    Example:
        >>> photo = torch.eye(3)[None]
        >>> chamfer(photo, photo, iterations=0), chamfer(photo, -photo, iterations=0)
        (tensor([6.]), tensor([0.]))
        >>> chamfer(photo, photo).round(decimals=2), chamfer(photo, -photo).round(decimals=2)
        (tensor([5.7000]), tensor([1.3500]))
    """
    paddings = query_padding, gallery_padding
    similarities = query @ gallery.mT  # (B, M, N)
    if iterations:
        mass = transport(
            similarities,
            dust,
            query_padding=query_padding,
            gallery_padding=gallery_padding,
            temperature=temperature,
            iterations=iterations,
            count_padding=count_padding,
        )
    else:
        mass = similarities
    by_row, by_column = best_votes(mass, *paddings)
    return by_row.sum(1) + by_column.sum(1)


def best_votes(
    mass: Tensor, query_padding: Tensor | None, gallery_padding: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the largest value of each row and column of (B, M, N); 0 at padding.

    A row without any column has the vote 0.

    Example:
        >>> votes = best_votes(torch.tensor([[[1.0, 2.0], [4.0, 3.0]]]), None, None)
        >>> [vote.tolist() for vote in votes]
        [[[2.0, 4.0]], [[4.0, 3.0]]]
    """
    batch, m, n = mass.shape
    if not m or not n:
        return mass.new_zeros(batch, m), mass.new_zeros(batch, n)
    if query_padding is None and gallery_padding is None:
        return mass.amax(2), mass.amax(1)
    votes = []
    for axis, own, other in (
        (2, query_padding, gallery_padding),
        (1, gallery_padding, query_padding),
    ):
        values = mass
        if other is not None:
            values = mass.masked_fill(other.unsqueeze(3 - axis), -torch.inf)
        best = values.amax(axis)
        best = best.masked_fill(best.isneginf(), 0)
        votes.append(best if own is None else best.masked_fill(own, 0))
    return votes[0], votes[1]
