"""ELViS: learned votes on the transport between the local descriptors of two photos."""

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from landmark.pair.chamfer import best_votes
from landmark.pair.descriptors import check_dim, without_padding
from landmark.pair.transport import transport
from landmark.settings import checked


class ELViS(nn.Module):
    """Score pairs of photos by projected local descriptors, dust, transport and votes.

    1. Project each row: Linear(dim, width), LayerNorm, L2.
    2. The similarity of row x to the dust is tanh(MLP(x)), that of the dust to itself is learned.
    3. P is the transport (see `transport`). Row i votes max_j P, column j votes max_i P.
    4. The score is the sum of f(vote) of all rows and columns, f an MLP with values in (0, 1).

    The model is the same in training and evaluation. A loss uses `logits(scores)`: binary
    cross-entropy of its sigmoid against 1 for the same landmark, and 0.

    Weights start as published: Linear weights Xavier-uniform, biases 0, the dust's similarity to
    itself 1. The keys of `state_dict` are `proj_linear`, `proj_norm`, `dust_hidden`, `dust_output`,
    `vote_hidden`, `vote_norm`, `vote_output`, `loss_hidden`, `loss_output` (`.weight`, `.bias`) and
    `corner`.

    Args:
        dim: Dimension of the descriptors.
        width: Dimension of the projected descriptors.
        count_padding: Count padding in the masses, as the published code does; scores then depend
            on the padding.

    Source:
        Suma et al.: ELViS. ICLR 2026, arXiv 2603.28603.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = ELViS(dim=4)
        >>> query, gallery = torch.eye(4)[None, :3], torch.eye(4)[None]
        >>> padding = torch.tensor([[False, False, False, True]])
        >>> padded = model(query, gallery, gallery_padding=padding)
        >>> bool((padded - model(query, gallery[:, :3])).abs() < 1e-5)
        True
    """

    @checked
    def __init__(
        self, dim: PositiveInt, width: PositiveInt = 128, count_padding: bool = False
    ) -> None:
        super().__init__()
        self.dim = dim
        self.count_padding = count_padding
        self.proj_linear = nn.Linear(dim, width)
        self.proj_norm = nn.LayerNorm(width)
        self.dust_hidden = nn.Linear(width, width)
        self.dust_output = nn.Linear(width, 1)
        self.corner = nn.Parameter(torch.tensor(1.0))
        self.vote_hidden = nn.Linear(1, 16)
        self.vote_norm = nn.LayerNorm(16, eps=1e-6)
        self.vote_output = nn.Linear(16, 1)
        self.loss_hidden = nn.Linear(1, 64)
        self.loss_output = nn.Linear(64, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(
        self,
        query: Tensor,
        gallery: Tensor,
        query_padding: Tensor | None = None,
        gallery_padding: Tensor | None = None,
    ) -> Tensor:
        """Score pairs of photos.

        Args:
            query: (B, M, D), unit rows.
            gallery: (B, N, D), unit rows.
            query_padding: (B, M), True = padding. Defaults to none.
            gallery_padding: (B, N), True = padding. Defaults to none.

        Returns:
            (B,) scores, in 0 … M + N.

        Raises:
            UserError: The descriptors have another dimension than `dim`.
        """
        return self.score(
            *self.project(without_padding(query, query_padding)),
            *self.project(without_padding(gallery, gallery_padding)),
            query_padding,
            gallery_padding,
        )

    def project(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a photo contributes to all its pairs.

        Args:
            rows: (…, n, D) descriptors.

        Returns:
            Projected descriptors (…, n, width), and their similarity to the dust (…, n).
        """
        check_dim(rows, self.dim)
        projected = functional.normalize(self.proj_norm(self.proj_linear(rows)), dim=-1)
        hidden = functional.gelu(self.dust_hidden(projected))
        return projected, self.dust_output(hidden)[..., 0].tanh()

    def score(
        self,
        query: Tensor,
        query_dust: Tensor,
        gallery: Tensor,
        gallery_dust: Tensor,
        query_padding: Tensor | None = None,
        gallery_padding: Tensor | None = None,
    ) -> Tensor:
        """Score pairs of what `project` returned, (B, M, width), (B, M), (B, N, width), (B, N)."""
        mass = transport(
            query @ gallery.mT,
            query_dust,
            gallery_dust,
            self.corner,
            query_padding,
            gallery_padding,
            count_padding=self.count_padding,
        )
        of_query, of_gallery = best_votes(mass, query_padding, gallery_padding)
        return self._counted(of_query, query_padding) + self._counted(of_gallery, gallery_padding)

    def logits(self, scores: Tensor) -> Tensor:
        """Return g(score), the logit of the training loss, (B,) → (B,)."""
        hidden = functional.gelu(self.loss_hidden(scores[:, None]))
        return self.loss_output(hidden)[:, 0]

    def votes(self, values: Tensor) -> Tensor:
        """Return f(value) in (0, 1) for values of any shape."""
        hidden = functional.gelu(self.vote_norm(self.vote_hidden(values[..., None])))
        return self.vote_output(hidden)[..., 0].sigmoid()

    def _counted(self, values: Tensor, padding: Tensor | None) -> Tensor:
        votes = self.votes(values)
        return (votes if padding is None else votes.masked_fill(padding, 0)).sum(1)
