"""Differentiable ranks of a photo's positives among the batch."""

import torch
from torch import Tensor
from torch.nn import functional


def smooth_ranks(
    embeddings: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute each positive's rank among the other photos by cosine, 1 for the first.

    Each photo is a query, and all other photos of the batch are ranked for it. The step function
    that counts a photo as ranked above another becomes a sigmoid of the difference of their cosines
    over `temperature`. Memory is the number of positive pairs times N.

    Args:
        embeddings: (N, D), of any norm.
        labels: (N,).
        temperature: Above 0. A smaller one gives ranks closer to the true ones and sparser
            gradients.

    Returns:
        For each of the M pairs of a query and one of its positives: the rank among all photos (M,),
        the rank among the query's positives (M,), the number of the query's positives (M,).

    Example:
        >>> import torch
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
        >>> rank, _, positives = smooth_ranks(embeddings, torch.tensor([0, 0, 1]), temperature=0.01)
        >>> rank.tolist(), positives.tolist()  # photo 2 is nearer to both
        ([2.0, 2.0], [1.0, 1.0])
    """
    unit = functional.normalize(embeddings)
    cosines = unit @ unit.T  # (N, N)
    rows = torch.arange(len(labels), device=labels.device)
    same = (labels[:, None] == labels) & (rows[:, None] != rows)
    query, positive = same.nonzero(as_tuple=True)
    others = cosines[query]  # (M, N)
    above = torch.sigmoid((others - others.gather(1, positive[:, None])) / temperature)
    # Neither the query nor the positive itself is ranked above the positive.
    above = above.scatter(1, query[:, None], 0.0).scatter(1, positive[:, None], 0.0)
    return 1 + above.sum(1), 1 + (above * same[query]).sum(1), same.to(cosines).sum(1)[query]
