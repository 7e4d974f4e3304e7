"""SALAD: optimal transport of a transformer's patch tokens to clusters."""

from collections.abc import Sequence
from typing import Annotated, Protocol

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from landmark.error import UserError
from landmark.settings import checked


class _HasClassToken(Protocol):
    maps: Sequence[Tensor]
    class_token: Tensor | None


def transport(scores: Tensor, dust: Tensor, iterations: int = 3) -> Tensor:
    """Assign tokens to clusters by Sinkhorn's algorithm, in float32.

    Each token has mass 1, each cluster receives 1, and the dust the remaining n - m.

    Args:
        scores: Score of each token for each cluster, (B, m, n), with n > m.
        dust: Score of every token for the dust, a scalar.
        iterations: Number of normalisations of rows and columns.

    Returns:
        Assignment (B, m + 1, n), float32; the dust last. Columns sum to 1.

    Example:
        >>> assigned = transport(torch.tensor([[[9.0, 0.0, 0.0]]]), torch.tensor(1.0))
        >>> [[round(share, 2) for share in row] for row in assigned[0].tolist()]
        [[0.82, 0.0, 0.0], [0.18, 1.0, 1.0]]
    """
    scores = scores.float()
    batch, clusters, _ = scores.shape
    ones = torch.ones_like(scores[:1, :1])  # (1, 1, n)
    scores = torch.cat([scores, dust.float() * ones.expand(batch, 1, -1)], dim=1)
    # Logarithm of the mass of each row. The common factor 1 / (m + n) of the masses cancels out.
    rest = (ones.sum(2, keepdim=True) - clusters).log()  # (1, 1, 1)
    mass = torch.cat([rest.new_zeros(1, clusters, 1), rest], dim=1)  # (1, m + 1, 1)
    columns = torch.zeros_like(ones)
    for _ in range(iterations):
        rows = mass - (scores + columns).logsumexp(2, keepdim=True)  # (B, m + 1, 1)
        columns = -(scores + rows).logsumexp(1, keepdim=True)  # (B, 1, n)
    return (scores + rows + columns).exp()


class SALAD(nn.Module):
    """Sum of reduced patch tokens per cluster, beside the reduced class token.

    Patch tokens (B, C, h, w) and class token (B, C) → (B, token_dim + cluster_dim · clusters), of
    unit length. An image needs more tokens than there are clusters.

    Args:
        clusters: Number of clusters m.
        cluster_dim: Dimension l to which patch tokens are reduced.
        token_dim: Dimension to which the class token is reduced. 0 leaves it out, for backbones
            without one.
        hidden: Width of the hidden layer of the three perceptrons.
        dropout: Probability of zeroing a hidden entry of a patch token in training.
        iterations: Iterations of Sinkhorn's algorithm.

    Raises:
        UserError: In the forward pass: the backbone has no class token, or the image has too few
            tokens.

    Source:
        Izquierdo, Civera: Optimal Transport Aggregation for Visual Place Recognition. CVPR 2024,
        section 3. The class token's part is of unit length before it is joined, as in the authors'
        code.

    Example:
        >>> from landmark.model import Features
        >>> features = Features([torch.rand(2, 24, 4, 5)], torch.rand(2, 24))
        >>> SALAD(clusters=6, cluster_dim=8, token_dim=10)(features).shape
        torch.Size([2, 58])
    """

    takes = "features"

    @checked
    def __init__(
        self,
        clusters: PositiveInt = 64,
        cluster_dim: PositiveInt = 128,
        token_dim: Annotated[int, Field(ge=0)] = 256,
        hidden: PositiveInt = 512,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3,
        iterations: PositiveInt = 3,
    ) -> None:
        super().__init__()
        self.clusters = clusters
        self.iterations = iterations
        self.local = _Perceptron(hidden, cluster_dim, dropout)
        self.score = _Perceptron(hidden, clusters, dropout)
        self.token = _Perceptron(hidden, token_dim) if token_dim else None
        self.dust = nn.Parameter(torch.tensor(1.0))

    @property
    def least_cells(self) -> int:
        """Number of cells that a map must have."""
        return self.clusters + 1

    def forward(self, features: _HasClassToken) -> Tensor:
        """Return (B, token_dim + cluster_dim · clusters), the class token first."""
        x = features.maps[-1]
        self._check_tokens(x)
        tokens = x.flatten(2).transpose(1, 2)  # (B, n, C)
        assigned = transport(self.score(tokens).transpose(1, 2), self.dust, self.iterations)
        shares = assigned[:, :-1].transpose(1, 2)  # (B, n, m)
        reduced = self.local(tokens).transpose(1, 2)  # (B, l, n)
        sums = torch.matmul(reduced, shares.to(reduced.dtype)).float()  # (B, l, m)
        descriptor = functional.normalize(sums, dim=1).flatten(1)
        if self.token is not None:
            token = functional.normalize(self.token(self._class_token(features)).float())
            descriptor = torch.cat([token, descriptor], dim=1)
        return functional.normalize(descriptor).to(x.dtype)

    def _check_tokens(self, x: Tensor) -> None:
        if torch.compiler.is_compiling():
            return
        height, width = x.shape[-2:]
        if height * width < self.least_cells:
            raise UserError(
                f"pooling.clusters={self.clusters} needs more than {self.clusters} patch tokens, "
                f"but the map has {height * width} ({width}x{height}). Pass larger images or a "
                "smaller pooling.clusters."
            )

    @staticmethod
    def _class_token(features: _HasClassToken) -> Tensor:
        if features.class_token is None:
            raise UserError(
                "this backbone has no class token. Pass pooling.token_dim=0 to leave it out."
            )
        return features.class_token


class _Perceptron(nn.Module):
    """(…, C) → (…, dim) with one hidden layer."""

    def __init__(self, hidden: int, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = nn.LazyLinear(hidden)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.dropout(self.hidden(x)).relu())
