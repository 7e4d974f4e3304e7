"""Neck: pooled vector to embedding."""

from torch import nn

from landmark.error import UserError

NECKS = ("linear_batchnorm", "none")


def make_neck(
    name: str, pooled_dim: int, embedding_dim: int = 512, dropout: float = 0.0, bias: bool = True
) -> tuple[nn.Module, int]:
    """The neck of that name, (B, pooled_dim) → (B, embedding_dim).

    Args:
        name: "linear_batchnorm": dropout, Linear, BatchNorm1d, as the recipe has it. "none": the
            pooled vector is the embedding, after dropout, and keeps its own dimension.
        pooled_dim: dimension of the pooled vector.
        embedding_dim: dimension that "linear_batchnorm" projects to.
        dropout: probability of zeroing an entry of the pooled vector in training.
        bias: whether the Linear has one.

    Returns:
        The neck and the dimension of its embeddings.
    """
    layers: list[nn.Module] = [nn.Dropout(dropout)] if dropout else []
    if name == "none":
        return nn.Sequential(*layers), pooled_dim
    if name == "linear_batchnorm":
        layers += [nn.Linear(pooled_dim, embedding_dim, bias=bias), nn.BatchNorm1d(embedding_dim)]
        return nn.Sequential(*layers), embedding_dim
    raise UserError(f"model.neck={name} is not known; choose one of {', '.join(NECKS)}")
