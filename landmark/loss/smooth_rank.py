"""Differentiable ranks of a photo's positives among the batch."""

from typing import NamedTuple

import torch
from torch import Tensor


class SmoothRanks(NamedTuple):
    """Ranks of the M pairs of a query and one of its positives, ordered by query.

    Attributes:
        query: Row of the query, (M,).
        positive: Row of the positive, (M,).
        among_all: Rank of the positive among all photos, (M,).
        among_positives: Rank of the positive among the query's positives, (M,).
        positives: Number of positives of each photo, (N,).
    """

    query: Tensor
    positive: Tensor
    among_all: Tensor
    among_positives: Tensor
    positives: Tensor


def smooth_ranks(
    similarities: Tensor, labels: Tensor, temperature: float, rank_query: bool = False
) -> SmoothRanks:
    """Compute each positive's rank among the other photos by similarity, 1 for the first.

    Each photo is a query, and all other photos of the batch are ranked for it. The step function
    that counts a photo as ranked above another becomes a sigmoid of the difference of their
    similarities over `temperature`. Memory is the number of positive pairs times N.

    Args:
        similarities: Similarity of each photo to each photo, (N, N).
        labels: (N,).
        temperature: Above 0. A smaller one gives ranks closer to the true ones and sparser
            gradients.
        rank_query: Also count the query in its own ranking among all photos, where it is usually
            the first.

    Example:
        >>> import torch
        >>> unit = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
        >>> ranks = smooth_ranks(unit @ unit.T, torch.tensor([0, 0, 1]), temperature=0.01)
        >>> ranks.among_all.tolist(), ranks.positives.tolist()  # photo 2 is nearer to both
        ([2.0, 2.0], [1.0, 1.0, 0.0])
    """
    rows = torch.arange(len(labels), device=labels.device)
    same = (labels[:, None] == labels) & (rows[:, None] != rows)
    query, positive = same.nonzero(as_tuple=True)
    others = similarities[query]  # (M, N)
    above = torch.sigmoid((others - others.gather(1, positive[:, None])) / temperature)
    # The positive itself is not ranked above the positive, nor is the query unless it is ranked.
    above = above.scatter(1, positive[:, None], 0.0)
    if not rank_query:
        above = above.scatter(1, query[:, None], 0.0)
    among_positives = 1 + (above * same[query]).sum(1)
    positives = same.to(similarities).sum(1)
    return SmoothRanks(query, positive, 1 + above.sum(1), among_positives, positives)
