"""AMES: a transformer over the local descriptors of two photos."""

from math import sqrt
from typing import Annotated, NamedTuple

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from landmark.error import UserError
from landmark.pair.descriptors import check_dim, without_padding
from landmark.settings import checked

_VARIANCE = 1e-6  # of the erf that stands for the sign in training


class AMES(nn.Module):
    """Score pairs of photos with a transformer on [match token | query rows | gallery rows].

    Each row is normalised to unit length and projected: Linear(dim, width), LayerNorm. Each layer
    attends within a photo, then across the photos, then applies a feed-forward network; each
    followed by addition and LayerNorm. The match token attends to all rows, and all rows to it. The
    score is Linear(width, 1) of the match token.

    Binary: rows become signs of `bits` linear maps before the projection. In training erf stands
    for the sign.

    In evaluation the projected gallery rows of the full-precision model are rounded to float16, as
    if they had been stored so; in training, where the score is the logit of the binary
    cross-entropy, they are not. There is no dropout.

    Weights start as published: Linear weights and the match token normal with deviation 0.02, the
    joint map of attention's queries, keys and values Xavier-uniform, biases 0. The published binary
    model starts from ITQ's projection, which needs data; here it starts as a random rotation.

    The keys of `state_dict` are `match_token`, `proj_linear`, `proj_norm`, `score` and
    `binary_projection` (dim, bits), and for each layer `layerI.within.qkv`, `.within.output`,
    `.norm_after_within`, `.across.qkv`, `.across.output`, `.norm_after_across`, `.feed_hidden`,
    `.feed_output` and `.norm_after_feed`.

    Args:
        dim: Dimension of the descriptors.
        bits: Number of bits of the binary model. None means full precision.
        width: Dimension of the tokens.
        heads: Number of attention heads.
        layers: Number of layers.
        hidden: Width of the feed-forward networks.

    Raises:
        UserError: `width` is not a multiple of `heads`.

    Source:
        Suma et al.: AMES: Asymmetric and Memory-Efficient Similarity Estimation for Instance-level
        Retrieval. ECCV 2024, arXiv 2408.03282.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = AMES(dim=4, width=8, layers=2, hidden=16).eval()
        >>> query, gallery = torch.eye(4)[None, :3], torch.eye(4)[None]
        >>> model(query, gallery).shape, model.tokens(query, gallery).shape
        (torch.Size([1]), torch.Size([1, 8, 8]))
    """

    @checked
    def __init__(
        self,
        dim: PositiveInt,
        bits: Annotated[int, Field(ge=8, multiple_of=8)] | None = None,
        width: PositiveInt = 128,
        heads: PositiveInt = 2,
        layers: PositiveInt = 5,
        hidden: PositiveInt = 1024,
    ) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"width={width} is not a multiple of heads={heads}. Pass one that is.")
        self.dim, self.bits, self.width = dim, bits, width
        self.match_token = nn.Parameter(torch.empty(width))
        if bits is not None:
            self.binary_projection = nn.Parameter(nn.init.orthogonal_(torch.empty(dim, bits)))
        self.proj_linear = nn.Linear(dim if bits is None else bits, width)
        self.proj_norm = nn.LayerNorm(width)
        self.layers = [f"layer{index}" for index in range(layers)]
        for name in self.layers:
            self.add_module(name, _Layer(width, heads, hidden))
        self.score = nn.Linear(width, 1)
        nn.init.trunc_normal_(self.match_token, std=0.02)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                if name.endswith("qkv"):
                    nn.init.xavier_uniform_(module.weight)
                else:
                    nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(
        self,
        query: Tensor,
        gallery: Tensor,
        query_padding: Tensor | None = None,
        gallery_padding: Tensor | None = None,
    ) -> Tensor:
        """Score pairs of photos; in training the scores are the logits of the loss.

        Args:
            query: (B, M, D).
            gallery: (B, N, D).
            query_padding: (B, M), True = padding. Defaults to none.
            gallery_padding: (B, N), True = padding. Defaults to none.

        Returns:
            (B,) scores.

        Raises:
            UserError: The descriptors have another dimension than `dim`.
        """
        return self.score_rows(
            self.project(without_padding(query, query_padding)),
            self.project(without_padding(gallery, gallery_padding), is_gallery=True),
            query_padding,
            gallery_padding,
        )

    def tokens(
        self,
        query: Tensor,
        gallery: Tensor,
        query_padding: Tensor | None = None,
        gallery_padding: Tensor | None = None,
    ) -> Tensor:
        """Return the tokens of the last layer, (B, 1 + M + N, width), 0 at padding.

        The match token is first, then the query rows and the gallery rows. See `forward`.
        """
        return self.tokens_of(
            self.project(without_padding(query, query_padding)),
            self.project(without_padding(gallery, gallery_padding), is_gallery=True),
            query_padding,
            gallery_padding,
        )

    def project(self, rows: Tensor, is_gallery: bool = False) -> Tensor:
        """Project descriptors (…, n, D) to tokens (…, n, width)."""
        check_dim(rows, self.dim)
        if self.bits is not None:
            return self.project_bits(self.binarize(rows))
        projected = self.proj_norm(self.proj_linear(functional.normalize(rows, dim=-1)))
        if is_gallery and not self.training:
            projected = projected.half().to(projected.dtype)
        return projected

    def binarize(self, rows: Tensor) -> Tensor:
        """Return the bits (…, n, bits) of descriptors (…, n, D): ±1; close to it in training."""
        values = functional.normalize(rows, dim=-1) @ self.binary_projection
        if self.training:
            return torch.erf(values / sqrt(2 * _VARIANCE))
        return values.sign()

    def project_bits(self, bits: Tensor) -> Tensor:
        """Project bits (…, n, bits) to tokens (…, n, width)."""
        return self.proj_norm(self.proj_linear(bits))

    def score_rows(
        self,
        query: Tensor,
        gallery: Tensor,
        query_padding: Tensor | None = None,
        gallery_padding: Tensor | None = None,
    ) -> Tensor:
        """Score pairs of projected rows (B, M, width) and (B, N, width).

        The last layer computes the match token alone, all that the score needs.
        """
        tokens, parts = self._sequence(query, gallery, query_padding, gallery_padding)
        for name in self.layers:
            tokens = getattr(self, name)(tokens, parts, match_only=name == self.layers[-1])
        return self.scores_of(tokens)

    def tokens_of(
        self,
        query: Tensor,
        gallery: Tensor,
        query_padding: Tensor | None = None,
        gallery_padding: Tensor | None = None,
    ) -> Tensor:
        """Return `tokens` of projected rows (B, M, width) and (B, N, width)."""
        tokens, parts = self._sequence(query, gallery, query_padding, gallery_padding)
        for name in self.layers:
            tokens = getattr(self, name)(tokens, parts)
        for start, padding in ((1, query_padding), (1 + parts.rows, gallery_padding)):
            if padding is not None:
                length = padding.shape[1]
                filled = tokens[:, start : start + length].masked_fill(padding[:, :, None], 0)
                tokens = torch.cat([tokens[:, :start], filled, tokens[:, start + length :]], 1)
        return tokens

    def _sequence(
        self,
        query: Tensor,
        gallery: Tensor,
        query_padding: Tensor | None,
        gallery_padding: Tensor | None,
    ) -> tuple[Tensor, "_Parts"]:
        match = self.match_token.expand(len(query), 1, self.width)
        parts = _Parts(query.shape[1], query_padding, gallery_padding)
        return torch.cat([match, query, gallery], 1), parts

    def scores_of(self, tokens: Tensor) -> Tensor:
        """Return the scores (B,) of `tokens` (B, 1 + M + N, width)."""
        return self.score(tokens[:, 0])[:, 0]


class _Parts(NamedTuple):
    """Where query and gallery rows are in a sequence: token 0, `rows` of the query, the others."""

    rows: int
    query_padding: Tensor | None
    gallery_padding: Tensor | None


class _Layer(nn.Module):
    """Attention within and across the photos, and a feed-forward network, each post-norm."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.within = _Attention(width, heads, is_across=False)
        self.norm_after_within = nn.LayerNorm(width)
        self.across = _Attention(width, heads, is_across=True)
        self.norm_after_across = nn.LayerNorm(width)
        self.feed_hidden = nn.Linear(width, hidden)
        self.feed_output = nn.Linear(hidden, width)
        self.norm_after_feed = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, parts: _Parts, match_only: bool = False) -> Tensor:
        """Return the next tokens (B, L, width); with `match_only` only the first, (B, 1, width)."""
        tokens = self.norm_after_within(tokens + self.within(tokens, parts))
        attended = self.across(tokens, parts, match_only)
        tokens = self.norm_after_across(tokens[:, : attended.shape[1]] + attended)
        hidden = self.feed_hidden(tokens).relu()
        return self.norm_after_feed(tokens + self.feed_output(hidden))


class _Attention(nn.Module):
    """Multi-head attention of rows to the match token and the rows of their own or other photo.

    The match token attends to all. No mask of query against gallery is needed: it is three
    attentions, whose keys are slices of one sequence.
    """

    def __init__(self, width: int, heads: int, is_across: bool) -> None:
        super().__init__()
        self.heads, self.is_across = heads, is_across
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor, parts: _Parts, match_only: bool = False) -> Tensor:
        """Return the attended values (B, L, width); with `match_only` the first, (B, 1, width)."""
        batch, length, width = tokens.shape
        # (3, B, heads, L, width / heads)
        queries, keys, values = (
            self.qkv(tokens).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        )
        seen = _seen(parts, batch, length, tokens.device)
        whole = slice(0, length)
        first, second = slice(1, 1 + parts.rows), slice(1 + parts.rows, length)
        attending = [(slice(0, 1), whole)]
        if not match_only:
            others = (second, first) if self.is_across else (first, second)
            attending += zip((first, second), others, strict=True)
        attended = []
        for own, other in attending:
            if own.start == own.stop:
                continue
            mask = None if seen is None else _with_match(seen, other).mT[:, None]
            attended.append(
                functional.scaled_dot_product_attention(
                    queries[:, :, own], _with_match(keys, other), _with_match(values, other), mask
                )
            )
        joined = torch.cat(attended, 2).transpose(1, 2).reshape(batch, -1, width)
        return self.output(joined)


def _with_match(sequence: Tensor, part: slice) -> Tensor:
    """Return the match token and a part of a sequence on the second last axis."""
    if part.start <= 1:
        return sequence[..., : part.stop, :]
    return torch.cat([sequence[..., :1, :], sequence[..., part, :]], -2)


def _seen(parts: _Parts, batch: int, length: int, device: torch.device) -> Tensor | None:
    """Return which tokens are not padding, (B, L, 1); None if all are seen."""
    if parts.query_padding is None and parts.gallery_padding is None:
        return None
    seen = torch.ones(batch, length, 1, dtype=torch.bool, device=device)
    if parts.query_padding is not None:
        seen[:, 1 : 1 + parts.rows, 0] = ~parts.query_padding
    if parts.gallery_padding is not None:
        seen[:, 1 + parts.rows :, 0] = ~parts.gallery_padding
    return seen
