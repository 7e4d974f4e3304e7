"""The places of a photo's positives in a ranking of the batch, with slopes."""

import torch
from torch import Tensor
from torch.nn import functional


def smooth_ranks(
    embeddings: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Each positive's place in the ranking of the other photos by cosine, 1 for the first.

    Each photo is a query, and all other photos of the batch are ranked for it. The step that counts
    a photo as ranked above another becomes a sigmoid of the difference of their cosines over
    `temperature`. Memory is the number of positive pairs times N.

    Args:
        embeddings: (N, D), of any length.
        labels: (N,).
        temperature: above 0; smaller is nearer to the true places and has fewer slopes.

    Returns:
        For each of the M pairs of a query and one of its positives: the query's row (M,), the place
        among all photos (M,), the place among the query's positives (M,).
    """
    unit = functional.normalize(embeddings)
    cosines = unit @ unit.T  # (N, N)
    rows = torch.arange(len(labels), device=labels.device)
    same = (labels[:, None] == labels) & (rows[:, None] != rows)
    query, positive = same.nonzero(as_tuple=True)
    of_query = cosines[query]  # (M, N)
    above = torch.sigmoid((of_query - of_query.gather(1, positive[:, None])) / temperature)
    # Neither the query itself nor the positive itself is ranked above the positive.
    above = above.scatter(1, query[:, None], 0.0).scatter(1, positive[:, None], 0.0)
    return query, 1 + above.sum(1), 1 + (above * same[query]).sum(1)


def sums_of_queries(values: Tensor, query: Tensor, size: int) -> Tensor:
    """Sums by query (size,) of what its pairs have: values (M,), query (M,)."""
    return values.new_zeros(size).index_add(0, query, values)
