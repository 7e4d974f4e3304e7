"""Differentiable recall@k, with or without mixed photos (Patel et al. 2022, arXiv 2108.11179)."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from landmark import processes
from landmark.loss.pairs import PairLoss
from landmark.loss.smooth_rank import smooth_ranks
from landmark.settings import checked


class RecallAtK(PairLoss):
    """Recall@k surrogate (Patel et al. 2022, arXiv 2108.11179, equations 6 and 7).

    Each photo of the batch is a query, and all others are ranked for it by cosine. With ranks
    counted by sigmoids of `temperature`, recall@k is the sum over its positives of
    sigmoid((k - rank) / place_temperature), at most k, divided by min(k, number of positives) as in
    the authors' code. The loss is 1 minus the mean over the values of k and over the photos with
    positives. It needs large batches; with several ranks the joint batch counts.

    The query is not counted in its own ranking, as the paper is usually read: the first of the
    others has rank 1. The authors' code counts it, so that the best rank is 2: `rank_query=True`.

    Args:
        k: Values of k.
        temperature: Temperature of the sigmoids of cosines (the paper's tau_2).
        place_temperature: Temperature of the sigmoid of ranks (tau_1).
        simix: In training, add a random mix of each two photos of a landmark to the batch, as
            queries and to be ranked, see `mix_pairs` (the paper's similarity mixup).
        rank_query: Count the query in its own ranking, as the authors' code does.

    Example:
        >>> import torch
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
        >>> loss = RecallAtK(embedding_dim=2, num_classes=2, k=[1])
        >>> round(loss(embeddings, torch.tensor([0, 0, 1])).item(), 4)  # 1 - sigmoid(1 - 2)
        0.7311
    """

    @checked
    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        k: Annotated[Sequence[PositiveInt], Field(min_length=1)] = (1, 2, 4, 8, 16),
        temperature: PositiveFloat = 0.01,
        place_temperature: PositiveFloat = 1.0,
        simix: bool = False,
        rank_query: bool = False,
    ) -> None:
        super().__init__(embedding_dim, num_classes)
        self.k = tuple(k)
        self.temperature = temperature
        self.place_temperature = place_temperature
        self.simix = simix
        self.rank_query = rank_query

    def batch_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute 1 minus the mean smoothed recall of the batch's photos."""
        unit = functional.normalize(embeddings)
        if self.simix and self.training:
            unit, labels = mix_pairs(unit, labels)
        return self.ranking_loss(unit @ unit.T, labels)

    def ranking_loss(self, similarities: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of similarities (N, N) of photos with labels (N,)."""
        ranks = smooth_ranks(similarities, labels, self.temperature, self.rank_query)
        pairs = (ranks.query, ranks.positive)
        recalls = []
        for k in self.k:
            found = torch.sigmoid((k - ranks.among_all) / self.place_temperature)  # (M,)
            found = torch.zeros_like(similarities).index_put(pairs, found).sum(1)  # (N,)
            recalls.append((found.clamp(max=k) / ranks.positives.clamp(1, k)).sum())
        return 1 - torch.stack(recalls).mean() / (ranks.positives > 0).sum()


def mix_pairs(
    embeddings: Tensor, labels: Tensor, alpha: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Append a mix α x + (1 - α) y of each pair of photos of one landmark.

    Mixes are not brought back to unit length, so that the similarity of a mix is the mix of the
    similarities. Landmarks are in ascending order; the pairs of m photos are (0, 1), (1, 2), …,
    (0, m - 1), then those two places apart, and so on, as in the authors' code.

    Args:
        embeddings: (N, D) of unit length.
        labels: (N,).
        alpha: Weight of the first photo of each of the P pairs, (P,). Defaults to uniform random
            numbers, the same on all ranks.

    Returns:
        Embeddings (N + P, D) and labels (N + P,).

    Example:
        >>> embeddings, labels = torch.eye(3), torch.tensor([0, 1, 0])
        >>> mixed, labels = mix_pairs(embeddings, labels, alpha=torch.tensor([0.75]))
        >>> mixed[3].tolist(), labels.tolist()
        ([0.75, 0.0, 0.25], [0, 1, 0, 0])
    """
    first, second = _pairs(labels)
    if alpha is None:
        alpha = torch.rand(len(first), dtype=embeddings.dtype, device=embeddings.device)
        alpha = processes.gather(alpha)[: len(first)]
    mixes = torch.lerp(embeddings[second], embeddings[first], alpha[:, None])
    return torch.cat([embeddings, mixes]), torch.cat([labels, labels[first]])


def _pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of each two photos of one landmark, in the order of the authors' code."""
    same = labels[:, None] == labels
    first, second = same.triu(1).nonzero(as_tuple=True)
    place, size = same.tril(-1).sum(1), same.sum(1)  # within the landmark
    apart = place[second] - place[first]
    around = size[first] - apart  # in a circle of the landmark's photos
    start = torch.where(apart <= around, place[first], place[second])
    keys = (labels[first] * len(labels) + torch.minimum(apart, around)) * len(labels) + start
    order = keys.argsort()
    return first[order], second[order]
