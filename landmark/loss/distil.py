"""Distillation: learn the vectors of a teacher's descriptor store, with or without labels."""

from pathlib import Path
from typing import ClassVar

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn
from torch.nn import functional

from landmark.error import UserError
from landmark.loss.base import full_precision
from landmark.loss.pairs import join_rows
from landmark.settings import checked

_SMALLEST_MEAN = 1e-12


class Distil(nn.Module):
    """Distillation of a teacher's vectors into the embeddings: cosine and relational form.

    The cosine form is the mean of 1 - cos(W x, t) over the photos: x the embedding, t the teacher's
    vector. The linear map W is learned if the dimensions differ, and is the identity if they are
    equal; it is not part of the embedder.

    The relational form is the distance-wise loss of relational knowledge distillation: the mean
    over all pairs of the Huber loss between the distance of two embeddings and that of the
    teacher's vectors. Distances are between unit-length vectors, each divided by its mean over the
    pairs of the batch. It compares vectors of any two dimensions.

    The total is `cosine` times the first plus `relational` times the second. Each rank computes the
    loss of the joint batch, as `PairLoss` does. Computed in float32 or wider with autocast
    disabled.

    Args:
        embedding_dim: Embedding length D.
        num_classes: Number of classes, which has no effect: no label is used.
        teacher: Folder of the teacher's descriptor store. The data reads its vectors, see
            `landmark.data.teacher`.
        cosine: Weight of the cosine form.
        relational: Weight of the relational form.
        teacher_dim: Length T of the teacher's vectors. Defaults to `embedding_dim`.

    Attributes:
        map: Linear map (D, T); an identity if it is not needed.

    Shape:
        embeddings (B, D) and vectors (B, T), of any norm; output a scalar.

    Raises:
        UserError: Both weights are 0.

    Source:
        Park et al., Relational Knowledge Distillation, CVPR 2019 (arXiv 1904.05068), equations 4
        to 6.

    Example:
        >>> import torch
        >>> embeddings, vectors = torch.eye(2), torch.tensor([[0.6, 0.8], [0.0, 1.0]])
        >>> loss = Distil(2, 0, teacher="STORE", cosine=1.0, relational=0.0)
        >>> round(loss(embeddings, vectors).item(), 4)  # cosines 0.6 and 1
        0.2
    """

    needs_teacher: ClassVar[bool] = True

    @checked
    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        teacher: str | Path,
        cosine: NonNegativeFloat = 1.0,
        relational: NonNegativeFloat = 1.0,
        teacher_dim: int | None = None,
    ) -> None:
        super().__init__()
        if cosine == 0 and relational == 0:
            raise UserError(
                "distil: cosine=0 and relational=0 learn nothing. Pass a weight above 0."
            )
        self.num_classes = num_classes
        self.teacher = Path(teacher)
        self.cosine, self.relational = cosine, relational
        is_mapped = cosine > 0 and teacher_dim not in (None, embedding_dim)
        self.map: nn.Module = (
            nn.Linear(embedding_dim, teacher_dim, bias=False) if is_mapped else nn.Identity()  # type: ignore[arg-type]
        )

    def forward(self, embeddings: Tensor, vectors: Tensor) -> Tensor:
        """Compute the loss of a batch: embeddings (B, D), teacher's vectors (B, T) → scalar."""
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings, vectors = map(join_rows, full_precision(embeddings, vectors))
            loss = embeddings.new_zeros(())
            if self.cosine:
                loss = loss + self.cosine * cosine_distance(self.map(embeddings), vectors)
            if self.relational:
                loss = loss + self.relational * relational_distance(embeddings, vectors)
            return loss


def cosine_distance(embeddings: Tensor, vectors: Tensor) -> Tensor:
    """Compute the mean of 1 - cosine of the rows of two (B, T).

    Example:
        >>> cosine_distance(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])).item()
        1.0
    """
    return (1 - functional.cosine_similarity(embeddings, vectors, dim=1)).mean()


def relational_distance(embeddings: Tensor, vectors: Tensor) -> Tensor:
    """Compute the mean Huber loss between the relative distances in (B, D) and in (B, T).

    Returns:
        A scalar; 0 for a batch without pairs.

    Example:
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> relational_distance(embeddings, 3 * embeddings).item()
        0.0
    """
    if len(embeddings) < 2:
        return embeddings.sum() * 0
    return functional.smooth_l1_loss(_relative_distances(embeddings), _relative_distances(vectors))


def _relative_distances(vectors: Tensor) -> Tensor:
    """Return the distance of each pair of unit-length rows, divided by their mean."""
    distances = functional.pdist(functional.normalize(vectors, dim=1))
    return distances / distances.mean().clamp(min=_SMALLEST_MEAN)


def targets_of(loss: nn.Module, labels: Tensor, vectors: Tensor | None) -> Tensor:
    """Return what a loss compares the embeddings with: the teacher's vectors, or the labels.

    Args:
        loss: Any loss.
        labels: (B,).
        vectors: The teacher's (B, T). None without a teacher.

    Example:
        >>> from landmark.loss import SupCon
        >>> targets_of(SupCon(2, 2), torch.tensor([1]), None).tolist()
        [1]
    """
    if not getattr(loss, "needs_teacher", False):
        return labels
    if vectors is None:
        raise ValueError("the batches have no teacher's vectors")
    return vectors
