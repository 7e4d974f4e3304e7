"""Nested dimensions: one loss on the first d dimensions of the embedding for each d."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from landmark.error import UserError
from landmark.loss.base import Loss
from landmark.settings import check_value

NestedDims = Annotated[Sequence[PositiveInt], Field(min_length=1)]


class Nested(Loss):
    """The mean of a loss on the first d dimensions of the embedding, over several d.

    The first dimensions then work as an embedding of their own, so that a search may compare only
    them (`search.dims`). Each d has its own loss with its own class centres (C, d) and, where the
    loss has one, its own adaptive scale or running mean: the paper's MRL, not the shared centres of
    its MRL-E. Their memory and time are Σ d / D times those of the loss alone, 1.94 for
    [32, 64, 128, 256, 512]. The paper sums the losses; their mean keeps the meaning of the learning
    rate.

    A classifier loss constructs it if `nested` is passed: `ArcFace(512, 10, nested=[128, 512])`.

    Args:
        dims: Numbers of dimensions, ascending. The whole embedding is always one of them.
        embedding_dim: Embedding length D.
        make: Number of dimensions d → loss of embeddings (B, d).

    Shape:
        embeddings (B, D); labels (B,) int64; output a scalar.

    Raises:
        UserError: The dims are not ascending, or exceed the embedding.

    Source:
        Kusupati et al., Matryoshka Representation Learning, NeurIPS 2022, arXiv 2205.13147, eq. 1.

    Example:
        >>> from landmark.loss import CosFace
        >>> loss = CosFace(embedding_dim=8, num_classes=3, nested=[2, 4])
        >>> [tuple(one.weight.shape) for one in loss.losses]
        [(3, 2), (3, 4), (3, 8)]
        >>> embeddings, labels = torch.ones(1, 8), torch.tensor([0])
        >>> each = [loss.losses[i](embeddings[:, :d], labels) for i, d in enumerate(loss.dims)]
        >>> torch.equal(loss(embeddings, labels), torch.stack(each).mean())
        True
    """

    def __init__(
        self, dims: Sequence[int], embedding_dim: int, make: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.dims = validated_dims(dims, embedding_dim)
        self.losses = nn.ModuleList(make(dim) for dim in self.dims)
        self.num_classes = int(self.losses[0].num_classes)  # type: ignore[arg-type]

    def compute(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute the mean loss of a batch."""
        losses = [
            loss(embeddings[:, :dim], labels)
            for dim, loss in zip(self.dims, self.losses, strict=True)
        ]
        return torch.stack(losses).mean()


def validated_dims(dims: Any, embedding_dim: int) -> list[int]:  # noqa: ANN401 - from YAML
    """Return the numbers of dimensions, the last of them that of the whole embedding.

    Raises:
        UserError: They are not ascending, or exceed the embedding.

    Example:
        >>> validated_dims([32, 64], embedding_dim=128)
        [32, 64, 128]
        >>> validated_dims([64, 32], embedding_dim=128)
        Traceback (most recent call last):
        landmark.error.UserError: loss.nested=[64, 32] does not ascend. Pass [32, 64].
    """
    check_value("loss.nested", dims, NestedDims)
    dims = [int(dim) for dim in dims]
    ascending = sorted(set(dims))
    if dims != ascending:
        problem = "does not ascend" if len(ascending) == len(dims) else "repeats a number"
        raise UserError(f"loss.nested={dims} {problem}. Pass {ascending}.")
    if dims[-1] > embedding_dim:
        raise UserError(
            f"loss.nested={dims}: {dims[-1]} is more than the {embedding_dim} dimensions of the "
            f"embedding. Pass numbers up to {embedding_dim}, or a larger model.embedding_dim."
        )
    return dims if dims[-1] == embedding_dim else [*dims, embedding_dim]


def losses_by_dim(loss: nn.Module, embedding_dim: int) -> list[tuple[int, nn.Module]]:
    """Return the losses of a nested loss with their numbers of dimensions; else the loss alone.

    Example:
        >>> from landmark.loss import CosFace
        >>> [dim for dim, _ in losses_by_dim(CosFace(8, 3, nested=[2]), 8)]
        [2, 8]
    """
    if isinstance(loss, Nested):
        return list(zip(loss.dims, loss.losses, strict=True))
    return [(embedding_dim, loss)]
